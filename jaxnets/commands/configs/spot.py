"""What `spot` can be told, and the values that suit each of its methods."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from jaxnets.commands.configs import classify
from jaxnets.commands.configs.classify import Classify
from jaxnets.commands.configs.constraints import (
    COUNT,
    DECAY,
    EPOCHS,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    SHARE,
    SWEPT,
    Needs,
    Range,
    check,
    check_needs,
)
from jaxnets.commands.configs.options import CacheOptions, ImageOptions, PositionalRun

#: Method -> the values that suit it, of the fields that the user leaves alone.
METHODS: dict[str, dict[str, Any]] = {
    "cnn": {"network": "speed_net", "degrade": 0.5, "epochs": 8.0, "crop_padding": 1},
    "npr": {"network": "npr", "degrade": 0.0, "epochs": 10.0, "crop_padding": 0},
    "spectrum": {
        "network": "spectrum",
        "optimizer": "adam",
        "learning_rate": 0.02,
        "degrade": 0.0,
        "epochs": 10.0,
        "crop_padding": 0,
    },
}

_CNN = Needs("--method cnn", lambda c: c.method == "cnn")
_RATE = Range(above=0, below=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sides:
    """What is compared."""

    real: str
    """Real pictures: folder:PATH, or the name of a data set of images."""
    generated: tuple[str, ...]
    """Generated pictures, one or more: folders of runs of `generate`, which are asked for samples,
    or folder:PATH."""
    pictures: Annotated[int, COUNT] = 10_000
    """At most so many pictures of each side, a fifth of them for testing. Both sides have the same
    number, and so have all generators."""
    seed: Annotated[int, SEED] = 0
    """Every random number follows from it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Means:
    """How the two are told apart."""

    method: Literal["cnn", "npr", "spectrum"] = "cnn"
    """A CNN of pixels, trained on degraded pictures too; a small ResNet of the differences between
    neighbouring pixels; or a linear model of the power of each frequency."""
    quality: Annotated[int | None, Range(least=1, most=100)] = None
    """Quality of the JPEG files that all pictures go through, real and generated alike: what is no
    JPEG becomes one, and after resizing all are compressed once more. By default, qualities are
    drawn from those of the JPEG files among them; 90 where there are none."""
    false_alarms: Annotated[float | None, _RATE] = None
    """Choose the threshold at which this share of held-out real pictures is taken for generated; by
    default that with the best accuracy on held-out pictures of both sides."""


@dataclasses.dataclass(frozen=True)
class Detector(Sides, Means, Classify):
    """A classifier of two classes, and the pictures that it is trained on; not a command itself."""

    real: str = ""
    generated: tuple[str, ...] = ()
    label_smoothing: Annotated[float, DECAY, SWEPT] = 0.0


@dataclasses.dataclass(frozen=True)
class SpotTrain(Sides, Means, ImageOptions, CacheOptions):
    """Train a detector that estimates whether a picture is real or generated.

    All pictures get the same size, format and compression before anything looks at them, and
    `predict RUN FILES` does the same. What it says is an estimate; `marks` reads what the generator
    itself has stated.
    """

    FIRST: ClassVar[tuple[str, ...]] = (
        *("real", "generated", "method", "image_size", "quality", "pictures", "false_alarms"),
        *("network", "epochs", "batch_size", "learning_rate", "degrade", "seed", "run_dir"),
    )
    network: Annotated[str | None, _CNN] = None
    """Of --method cnn: a classifier as for `classify`; by default speed_net."""
    width: Annotated[float | None, POSITIVE] = None
    """Factor on every number of channels; 1 is the published size."""
    epochs: Annotated[float | None, EPOCHS] = None
    """Passes over the training pictures."""
    batch_size: Annotated[int | None, COUNT] = None
    """Pictures a step, over all devices."""
    learning_rate: Annotated[float | None, NOT_NEGATIVE] = None
    """The highest learning rate."""
    degrade: Annotated[float | None, SHARE] = None
    """Probability with which training pictures are blurred, resized and compressed once more, each
    by a random strength; by default 0.5 for cnn, and 0 for the others."""
    flip: bool | None = None
    """Mirror half of the training pictures (--flip), or none (--no-flip)."""
    run_dir: Path | None = None
    """The run's folder; the same command on the same folder goes on where it stopped. By default
    runs/spot-<date>-<time>."""
    devices: int | None = None
    """How many devices to use; by default all."""


@dataclasses.dataclass(frozen=True)
class SpotTest(Sides, CacheOptions):
    """Test a detector, at its threshold, on pictures of other generators.

    Real pictures are those for testing, as in training; so are those of generated folders. Samples
    of runs have another seed than in training.
    """

    run: PositionalRun
    """Folder of a `spot train` run."""
    skip_bad: bool = False
    """Leave out images that cannot be used, and count them, instead of stopping."""
    json: Path | None = None
    """Write the numbers to this file."""


SpotCommand = (
    Annotated[SpotTrain, tyro.conf.subcommand("train")]
    | Annotated[SpotTest, tyro.conf.subcommand("test")]
)


def resolve(config: SpotTrain) -> Detector:
    """The detector's config with every value in its place.

    Raises:
      UserError: for a value that no run can be made with.
    """
    check(config)
    check_needs(config, config)
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    told = {name: value for name, value in values.items() if value is not None}
    told = METHODS[config.method] | told
    names = f"{config.real} or generated"
    return classify.resolve(Detector(data=names, **told))  # type: ignore[return-value]
