"""What `quickstart` can be told."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from jaxnets.commands.configs.constraints import MAX_STEPS, SEED, Range
from jaxnets.commands.configs.options import CacheOptions


@dataclasses.dataclass(frozen=True)
class Quickstart(CacheOptions):
    """Train a CNN and a GAN on handwritten digits, and show what they do for each other.

    Takes about two minutes on two CPU cores, and needs no network. Its folders cnn and gan are runs
    that `evaluate` and `sample` take.
    """

    run_dir: Path | None = None
    """The run's folder; by default runs/quickstart-<date>-<time>."""
    seed: Annotated[int, SEED] = 0
    """Every random number of the run follows from it."""
    devices: int | None = None
    """How many devices to use; by default all."""
    labels_per_class: int = 5
    """Labels of each class that the CNN of the last comparison gets."""
    cnn_steps: Annotated[int, Range(least=1, most=MAX_STEPS)] = 448
    """Updates of each CNN, on 128 images."""
    gan_steps: Annotated[int, Range(least=1, most=MAX_STEPS)] = 2000
    """Updates of each GAN, on 64 images."""
