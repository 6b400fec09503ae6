"""What studies can be told; no jax is imported."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from jaxnets.commands.configs.constraints import COUNT, POSITIVE
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


@dataclasses.dataclass(frozen=True)
class RareClasses(StudyOptions):
    """A rare class: a GAN's samples beside oversampling and other losses, at equal steps."""

    data: str = "fashion_mnist"
    """Data set."""


@dataclasses.dataclass(frozen=True)
class Spot(StudyOptions):
    """Generated or real: detectors that see all generators but one, tested on that one too."""

    data: str = "fashion_mnist"
    """Data set that the generators learn from."""


@dataclasses.dataclass(frozen=True)
class Teacher(StudyOptions):
    """A CNN's features in a GAN's training, four ways, judged by another CNN.

    Steps of all of them are timed in turn first, and minutes become numbers of steps, so what runs
    beside a training changes no number.
    """

    data: str = "fashion_mnist"
    """Data set: digits, fashion_mnist, tfds:NAME, or folder:PATH (one sub-folder a class)."""
    image_size: Annotated[tuple[int, ...] | None, tyro.conf.arg(metavar="H [W]")] = None
    """Size that images are resized to (folder:, tfds:)."""
    gans: tuple[str, ...] = ("dcgan", "sngan")
    """Families of generators."""
    ways: tuple[str, ...] = ("none", "match", "distil", "project")
    """What the teacher does."""
    minutes: Annotated[float, POSITIVE] = 2.0
    """Of each training, on a machine that does nothing else."""
    teacher: Path | None = None
    """A `classify` run, or imagenet; by default imagenet for colours, and else a LeNet-5 that the
    study trains."""
    judge: Path | None = None
    """Another `classify` run; by default the CNN that comes with jaxnets, or one that the study
    trains."""


StudyCommand = (
    Annotated[FewLabels, tyro.conf.subcommand("few-labels")]
    | Annotated[RareClasses, tyro.conf.subcommand("rare-classes")]
    | Annotated[Spot, tyro.conf.subcommand("spot")]
    | Annotated[Teacher, tyro.conf.subcommand("teacher")]
)
