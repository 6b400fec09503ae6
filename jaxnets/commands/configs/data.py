"""What `data prepare` and `data show` can be told."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from jaxnets.commands.configs.constraints import COUNT
from jaxnets.commands.configs.options import ImageOptions, MediaOptions


@dataclasses.dataclass(frozen=True)
class Named(ImageOptions, MediaOptions):
    """Which data set, and how it is read."""

    name: tyro.conf.Positional[str]
    """digits, fashion_mnist, tfds:NAME[/config][:version], folder:PATH, objects:PATH
    (pictures with boxes: Pascal VOC, COCO or YOLO), sounds:PATH or texts:PATH."""


@dataclasses.dataclass(frozen=True)
class Prepare(Named):
    """Download, decode and cache a data set, so that training starts at once."""


@dataclasses.dataclass(frozen=True)
class Cache:
    """List the data sets that lie decoded in the cache folder, with what they take; clear it.

    It is JAXNETS_CACHE, or jaxnets in the user's cache folder. What was not used for longest goes
    by itself where all take more than 20 GB (JAXNETS_CACHE_GB).
    """

    clear: bool = False
    """Delete them; they are decoded again when they are needed."""


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
    | Annotated[Cache, tyro.conf.subcommand("cache")]
)
