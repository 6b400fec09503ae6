"""What commands that use runs can be told: evaluate, report, predict, sample, export, ..."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from jaxnets.commands.configs.constraints import COUNT, SEED, Range
from jaxnets.commands.configs.options import CacheOptions, PositionalRun

#: More are not needed by any metric, and would not fit into memory with their neighbours.
_MAX_SAMPLES = 1_000_000
#: Of an image of 256 pixels, the largest that `make_gan` makes; its stages double it so often.
_LAST_STAGE = 6


@dataclasses.dataclass(frozen=True)
class Evaluate(CacheOptions):
    """Measure a run's networks on the test images; prints the numbers, and keeps them as JSON."""

    run: PositionalRun
    """Folder of a `classify`, `generate`, `inspect` or `detect` run."""
    judge: Path | None = None
    """For a GAN: the CNN whose features measure Frechet distances, as for `generate`; by default
    the run's own, else the one that comes with jaxnets."""
    accuracy_score: bool = True
    """For a conditional GAN: train a CNN on samples only and test it on real images."""
    metrics: str = ""
    """For a GAN with a judge, more scores of its samples, separated by commas, or all of them:
    frechet, kid, precision, recall, density, coverage, inception, intra_class, recognised,
    memorisation (which also shows the samples nearest to training images). Each is kept with all
    that it takes to compare it: the CNN and its weights, the real images, how many there were."""
    samples: Annotated[int | None, Range(least=1, most=_MAX_SAMPLES)] = None
    """How many samples --metrics takes; by default as many as there are test images."""
    devices: int | None = None
    """How many devices share the work; by default all."""


@dataclasses.dataclass(frozen=True)
class Report(CacheOptions):
    """Write the report of a run, finished or not, into its folder, as report.html.

    Where the data are not there any more, it leaves out what they are needed for, and says so.
    """

    run: PositionalRun
    """Folder of a `classify` or `generate` run."""


@dataclasses.dataclass(frozen=True)
class Predict(CacheOptions):
    """Tell the classes of pictures, sounds or texts, faulty parts, or the objects in pictures.

    They get the preprocessing of the training. A file that can't be used is named, and the others
    go on; then the exit code is 1.
    """

    run: PositionalRun
    """Folder of a `classify`, `inspect` or `detect` run."""
    files: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """Files, folders with files at any depth, or patterns such as 'pictures/*.jpg'. A CSV, TSV or
    JSON lines file has a text in each line."""
    top: Annotated[int, COUNT] = 3
    """How many classes to tell of each, the most probable first."""
    json: Path | None = None
    """Write what is said of each file, and by which network, to this file."""
    csv: Path | None = None
    """Write a table to this file: file, class and probability, the next classes after them; or
    file, score and whether it is faulty; or file, class, score and corners of every object."""
    out: Path | None = None
    """Of an `inspect` or `detect` run: write each picture with its heat map, or with boxes around
    its objects, as a PNG into this folder."""
    member: str | None = None
    """Of a run with --seeds or --sweep: the network with this seed or value; by default the
    first."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """Further pictures, beside the grid of samples."""

    GROUP: ClassVar[str] = "picture"

    interpolate: Annotated[int | None, COUNT] = None
    """An animated walk: this many frames from each latent to the next, through --points of them
    and back to the first, of all classes or of the one asked for."""
    points: Annotated[int, COUNT] = 4
    """Latents that --interpolate visits."""
    truncation_sweep: str | None = None
    """The same samples at several truncations, such as 0.3,0.5,0.7,1.0."""
    style_mixing: Annotated[int | None, Range(least=1, most=_LAST_STAGE)] = None
    """Every sample's coarse styles with every sample's fine ones (stylegan2), which begin at this
    stage; 1 is the first that doubles the image."""


@dataclasses.dataclass(frozen=True)
class Sample(PictureOptions, CacheOptions):
    """Make images with the generator of a run: a grid as PNG, and all of them as .npz.

    Every PNG is marked as synthetic, and a JSON beside the .npz says what made it.
    """

    run: PositionalRun
    """Folder of a `generate` run."""
    count: Annotated[int, COUNT] = 64
    """How many images."""
    class_label: str | None = None
    """Name or number of the class to make; by default all of them in turn."""
    truncation: Annotated[float | None, Range(above=0, most=1)] = None
    """In (0, 1]: keep latents near the mean; more typical images, less variety."""
    seed: Annotated[int, SEED] = 0
    """Other seeds give other images."""
    out: Path | None = None
    """Path of the files (their endings .png, .npz and .json, -walk.png, -mixing.png and
    -truncation.png are added) and of the folder of --images; by default inside the run's
    samples/."""
    images: bool = False
    """Write each image as a PNG of its own as well, into a folder."""
    watermark: str | None = None
    """Secret text or number: put an invisible watermark into every image, which `marks --key`
    finds. Who guesses it can find and remove the watermark; it is written nowhere."""
    member: str | None = None
    """Of a run with --seeds: the generator with this seed; of one with --sweep, that with this
    value, such as gamma=0.1 (and gamma=0.1,seed-1 with --seeds too); by default the first."""


@dataclasses.dataclass(frozen=True)
class Export:
    """Write the network of a run as one file for other programs, and a JSON that says what it is.

    Images (or sounds, or tokens) go in as they are stored, as many at a time as one likes: what
    prepares them is inside. A classifier looks at each once, as if there were no --test-views.
    """

    run: PositionalRun
    """Folder of a `classify` or `generate` run."""
    out: Path
    """The file; the JSON has .json after its name."""
    format: Literal["stablehlo", "onnx", "safetensors"] = "stablehlo"
    """A program for jax alone, for CPUs, CUDA GPUs and TPUs; a model of ONNX (by jax2onnx); or the
    weights by name. The first and the last need the extra `export`."""
    member: str | None = None
    """Of a run with --seeds or --sweep: the network with this seed or value; by default the
    first."""


@dataclasses.dataclass(frozen=True)
class Marks:
    """Tell whether images are marked as synthetic, and carry the watermark of a key."""

    path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """An image, a folder of images, or an .npz that `sample` made."""
    key: str | None = None
    """The key that `sample --watermark` was given; without one, only the mark is read."""
    crop: Annotated[int, Range(least=0, most=63)] = 0
    """Up to so many pixels, at most 63, may have been cut off at the top and at the left; the more
    are tried, the stronger the evidence must be."""
    image_size: tuple[int, int] | int | None = None
    """Height and width, or one number for both, that the images had when they were made, where they
    were resized since."""
    false_positive_rate: Annotated[float, Range(above=0, below=1)] = 0.001
    """Share of unmarked images that may pass for marked."""
    json: Path | None = None
    """Write what the marks say, and the watermark's score of each image, to this file."""


@dataclasses.dataclass(frozen=True)
class List:
    """List data sets, networks, losses, and the runs made so far."""

    runs: Path = Path("runs")
    """Folder in which to look for runs."""
