"""What studies can be told; no jax is imported."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from jaxnets.commands.configs.constraints import COUNT, Range
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
    """Of each training; by default 0.3 for digits, 2.2 for other data."""
    seeds: Annotated[int, COUNT] = 5
    """Draws of labels 0, 1, ... up to this many."""


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
    """A CNN's features in a GAN's training, four ways, judged by another CNN."""

    data: str = "fashion_mnist"
    """Data set."""


StudyCommand = (
    Annotated[FewLabels, tyro.conf.subcommand("few-labels")]
    | Annotated[RareClasses, tyro.conf.subcommand("rare-classes")]
    | Annotated[Spot, tyro.conf.subcommand("spot")]
    | Annotated[Teacher, tyro.conf.subcommand("teacher")]
)
