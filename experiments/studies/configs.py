"""What studies can be told; no jax is imported."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from jaxnets.commands.configs.constraints import COUNT, NOT_NEGATIVE, POSITIVE, SEED, Range
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
    """Few labels: a GAN, FixMatch, pseudo-labels and the labels alone, for the same minutes.

    Before anything is trained, the steps of all methods are timed in turn, and minutes become
    numbers of steps. A seed is a draw of labels too. The errors that a method saves are against
    labels alone with the same draw.
    """

    data: str = "fashion_mnist"
    """Data set of images."""
    methods: tuple[str, ...] = ("none", "pseudo", "fixmatch", "gan")
    """Any of none (labels alone), none-strong (the same, images changed as strongly as FixMatch's),
    pseudo, fixmatch, gan, gan-fixmatch (both together)."""
    labels_per_class: Annotated[int | None, COUNT] = None
    """Labels of each class; by default 5 for digits, 100 for other data."""
    minutes: Annotated[float | None, Range(above=0, below=1e6)] = None
    """Of each training; by default 0.3 for digits, 3 for other data."""
    seeds: Annotated[int, COUNT] = 5
    """Draws of labels 0, 1, ... up to this many."""


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
    """Generated or real: detectors that see all generators but one, tested on that one too.

    Each detector's threshold is fixed on held-out pictures of the generators that it has seen. Then
    it is tested on pictures as they are, compressed and resized.
    """

    data: str = "fashion_mnist"
    """Data set that the generators learn from: fashion_mnist or digits; any, with --runs."""
    generators: tuple[str, ...] = ("dcgan", "sngan", "r3gan", "stylegan2")
    """Two or more, each of which is left out once: entries of `families` or, with --runs, names of
    folders, with or without -seed-0."""
    runs: Path | None = None
    """Folder of the generators' runs, such as `families` leaves; by default they are trained."""
    minutes: Annotated[float, Range(above=0, below=1e6)] = 4.0
    """Minutes of training for each generator."""
    methods: tuple[str, ...] = ("cnn", "npr", "spectrum")
    """Methods of `spot train`."""
    seeds: Annotated[int, COUNT] = 2
    """Seeds 0, 1, ... up to this many."""
    pictures: Annotated[int, COUNT] = 6_000
    """Pictures of each side that a detector is trained and tested on."""


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


@dataclasses.dataclass(frozen=True)
class Inspection(StudyOptions):
    """Faulty parts: PaDiM, PatchCore and f-AnoGAN, measured on pictures, on pixels and in time."""

    data: str = "folder:magnetic_tiles"
    """folder:PATH, laid out as MVTec AD."""
    methods: tuple[str, ...] = ("padim", "patchcore", "patchcore 256", "f-anogan")
    """Any of padim, patchcore, patchcore 256 (pixels a side, in place of 224) and f-anogan."""


StudyCommand = (
    Annotated[FewLabels, tyro.conf.subcommand("few-labels")]
    | Annotated[RareClasses, tyro.conf.subcommand("rare-classes")]
    | Annotated[Spot, tyro.conf.subcommand("spot")]
    | Annotated[Teacher, tyro.conf.subcommand("teacher")]
    | Annotated[Inspection, tyro.conf.subcommand("inspect")]
)
