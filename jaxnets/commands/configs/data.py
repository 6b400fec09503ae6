"""What `data prepare` and `data show` can be told."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from jaxnets.commands.configs.constraints import COUNT
from jaxnets.commands.configs.options import MediaOptions


@dataclasses.dataclass(frozen=True)
class Named(MediaOptions):
    """Which data set, and how it is read."""

    name: tyro.conf.Positional[str]
    """digits, fashion_mnist, tfds:NAME[/config][:version], folder:PATH, sounds:PATH or
    texts:PATH."""
    data_dir: Path | None = None
    """Folder of TensorFlow Datasets in which prepared data lies."""
    image_size: tuple[int, int] | int | None = None
    """Height and width, or one number for both, to resize and crop to (tfds:, folder:)."""
    channels: int | None = None
    """1 for grey or 3 for colour (tfds:, folder:)."""
    skip_bad: bool = False
    """Leave unusable files out and count them instead of stopping (folder:, sounds:,
    texts:)."""


@dataclasses.dataclass(frozen=True)
class Prepare(Named):
    """Download, decode and cache a data set, so that training starts at once."""


@dataclasses.dataclass(frozen=True)
class Show(Named):
    """Print what is in a data set, and draw examples of every class."""

    out: Path | None = None
    """File of examples of each class: a PNG of images, a page (HTML) of sounds or texts; by
    default named after the data set, in the working directory."""
    per_class: Annotated[int, COUNT] = 10
    """Examples of each class."""


DataCommand = (
    Annotated[Prepare, tyro.conf.subcommand("prepare")]
    | Annotated[Show, tyro.conf.subcommand("show")]
)
