"""What studies can be told; no jax is imported."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from jaxnets.commands.configs.constraints import COUNT
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
    """A CNN's features in a GAN's training, four ways, judged by another CNN."""

    data: str = "fashion_mnist"
    """Data set."""


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
