"""What studies can be told; no jax is imported."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from jaxnets.commands.configs.constraints import COUNT, NOT_NEGATIVE, POSITIVE, SEED
from jaxnets.commands.configs.options import CacheOptions


@dataclasses.dataclass(frozen=True)
class StudyOptions(CacheOptions):
    """What every study can be told."""

    seeds: Annotated[int, COUNT] = 3
    """Seeds 0, 1, ... up to this many."""
    run_dir: Path | None = None
    """Folder of the runs; by default runs/study-NAME. What is finished there is not done again."""
    out: Path | None = None
    """The JSON file; by default experiments/results/NAME.json."""


@dataclasses.dataclass(frozen=True)
class FewLabels(StudyOptions):
    """Few labels: a GAN, FixMatch, pseudo-labels and the labels alone, for the same minutes."""

    data: str = "fashion_mnist"
    """Data set."""


#: Of a rare class; `rare_classes.py` says what each does.
METHODS = ("plain", "oversample", "weights", "effective", "focal", "softmax", "mixup")
METHODS += ("gan", "gan-unfiltered")


@dataclasses.dataclass(frozen=True)
class RareClasses(StudyOptions):
    """A rare class: a GAN's samples beside oversampling and other losses, at equal steps."""

    seeds: Annotated[int, COUNT] = 5
    """How many seeds."""
    first_seed: Annotated[int, SEED] = 0
    """The first of them."""
    data: str = "fashion_mnist"
    """Data set; or blood-cells:PATH, the folder of BCCD's pictures and boxes: its cells are cut
    out, and its white cells and platelets are the rare classes."""
    rare: tuple[str, ...] = ("Shirt",)
    """The rare classes; of Fashion-MNIST the one that is mistaken most often."""
    counts: Annotated[tuple[int, ...], NOT_NEGATIVE] = (10, 30, 100, 300)
    """Training images of each rare class; 0 keeps all."""
    others: Annotated[int | None, COUNT] = 600
    """Training images of each other class; None, and blood cells, have all."""
    methods: tuple[str, ...] = METHODS
    """What is compared; `rare_classes.py` has variants besides."""
    steps: Annotated[int, COUNT] = 250
    """Of every CNN, in batches of 128."""
    width: Annotated[float, POSITIVE] = 0.25
    """Factor on the channels of the CNN, a speed net."""
    gan_images: Annotated[int, COUNT] = 100_000
    """Images that each GAN's discriminator sees."""
    augment: str = "shift"
    """Differentiable augmentation of the GAN."""


@dataclasses.dataclass(frozen=True)
class Spot(StudyOptions):
    """Generated or real: detectors that see all generators but one, tested on that one too."""

    data: str = "fashion_mnist"
    """Data set that the generators learn from."""


@dataclasses.dataclass(frozen=True)
class Teacher(StudyOptions):
    """A CNN's features in a GAN's training, four ways, judged by another CNN."""

    data: str = "fashion_mnist"
    """Data set."""


StudyCommand = (
    Annotated[FewLabels, tyro.conf.subcommand("few-labels")]
    | Annotated[RareClasses, tyro.conf.subcommand("rare-classes")]
    | Annotated[Spot, tyro.conf.subcommand("spot")]
    | Annotated[Teacher, tyro.conf.subcommand("teacher")]
)
