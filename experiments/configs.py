"""What the commands of the evidence can be told; no jax is imported."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from jaxnets.commands.configs.constraints import COUNT, Range
from jaxnets.commands.configs.options import CacheOptions


@dataclasses.dataclass(frozen=True)
class Families(CacheOptions):
    """Train families of GANs for the same minutes, and judge them alike; the table as JSON.

    Before anything is trained, the steps of all of them are timed in turn, and minutes become
    numbers of steps: those that the machine makes in that time if it does nothing else. So what
    runs beside a training changes no number. The same command goes on where it stopped, and what is
    finished is not done again.
    """

    names: tuple[str, ...] = ("dcgan", "sngan", "r3gan", "stylegan2")
    """Any of dcgan, sngan, r3gan, stylegan2; dcgan-r3 and sngan-r3 (with R3GAN's loss and
    penalties); few and few-augmented (an SNGAN and 600 images a class, the latter with a
    quarter of all that the discriminator sees mirrored)."""
    data: str = "fashion_mnist"
    """Data set: digits, fashion_mnist, tfds:NAME, or folder:PATH (one sub-folder a class)."""
    minutes: Annotated[tuple[float, ...], Range(above=0, below=1e6)] = (10.0, 30.0)
    """After how many minutes of training each is judged; the last is the whole training."""
    seeds: Annotated[int, COUNT] = 3
    """Seeds 0, 1, ... up to this many."""
    judge: Path | None = None
    """Folder of a `classify` run whose features measure; by default the CNN that comes with
    jaxnets."""
    samples: Annotated[int | None, Range(least=2, most=1_000_000)] = None
    """How many samples are judged; by default as many as there are test images."""
    accuracy_score: bool = True
    """Train a CNN on samples only, each time, and test it on real images."""
    score_epochs: Annotated[float | None, Range(above=0, below=1e6)] = None
    """For how many passes over as many samples as there are training images."""
    run_dir: Path | None = None
    """Folder of the runs, one sub-folder each; by default runs/families-<data>."""
    out: Path | None = None
    """The JSON file; by default experiments/results/families-<data>.json."""


@dataclasses.dataclass(frozen=True)
class Reproduce(CacheOptions):
    """Run an experiment of the results table with several seeds; mean and spread as JSON."""

    name: tyro.conf.Positional[str]
    """classify-fashion_mnist, classify-digits, generate-fashion_mnist or quickstart."""
    seeds: Annotated[int, COUNT] = 3
    """Seeds 0, 1, ... up to this many."""
    run_dir: Path | None = None
    """Folder of the runs, one sub-folder a seed; by default runs/reproduce-<name>. What is
    finished there is only evaluated again."""
    judge: Path | None = None
    """For `generate`: folder of a `classify` run whose features measure Frechet distances."""
    out: Path | None = None
    """The JSON file; by default experiments/results/<name>.json."""


@dataclasses.dataclass(frozen=True)
class Judges(CacheOptions):
    """Train the CNNs that come with jaxnets as judges of digits and Fashion-MNIST, and keep them.

    Other machines round otherwise and give other weights, in whose features distances are others.
    """

    run_dir: Path | None = None
    """Folder of the two runs; by default runs/judges. What is finished there is taken."""
    out: Path | None = None
    """Folder of the files of weights; by default inside the package, where they are looked for."""
