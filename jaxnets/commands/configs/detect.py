"""What `detect` can be told."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from jaxnets.commands.configs.classify import OptimizerOptions, settled
from jaxnets.commands.configs.constraints import (
    COUNT,
    DECAY,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    SWEPT,
    Range,
)
from jaxnets.commands.configs.options import RunOptions, with_preset
from jaxnets.errors import UserError

PRESET: dict[str, Any] = {
    "network": "efficientnet_lite0",
    "optimizer": "adam",
    "epochs": 40.0,
    "batch_size": 16,
    "width": 1.0,
    "learning_rate": 2e-3,
}


@dataclasses.dataclass(frozen=True)
class BoxViewOptions:
    """How training pictures are changed at random; their boxes move with them."""

    GROUP: ClassVar[str] = "augmentation"

    flip: bool = False
    """Mirror half of the training pictures."""
    zoom: Annotated[float, Range(least=0, most=2)] = 0.3
    """Greatest change of the logarithm of a picture's size: 0.3 shows it from 0.74 to 1.35 times as
    large."""
    stretch: Annotated[float, Range(least=0, most=1)] = 0.1
    """Greatest change of the logarithm of the ratio of height to width."""
    colour: Annotated[float, SHARE] = 0.2
    """Strength of changes of brightness, contrast and saturation; 0 is none."""
    mosaic: Annotated[float, SHARE] = 0.0
    """Share of the training pictures that are made of four at half their size."""


@dataclasses.dataclass(frozen=True)
class Detect(OptimizerOptions, BoxViewOptions, RunOptions):
    """Train a CNN to find objects in pictures: where they are, how large, and of which class.

    The folder has boxes as Pascal VOC (XML), COCO (JSON) or YOLO (text) lay them out.
    """

    FIRST: ClassVar[tuple[str, ...]] = (
        *("data", "image_size", "network", "init_from", "epochs", "batch_size", "learning_rate"),
        *("flip", "zoom", "mosaic", "seed", "seeds", "devices", "run_dir", "skip_bad"),
    )
    USUAL: ClassVar[Mapping[str, Any]] = PRESET

    data: str = ""
    """objects:PATH, a folder with pictures and boxes."""
    network: str | None = None
    """The classifier whose features are used: efficientnet_lite0, resnet18, resnet34, resnet50,
    resnet_3x2 or a wide ResNet. With --init-from imagenet (of efficientnet_lite0), or a run of
    `classify`, it begins with trained weights."""
    width: Annotated[float | None, POSITIVE] = None
    """Factor on every number of channels of that network."""
    channels_inside: Annotated[int, Range(least=4, most=1024)] = 64
    """Channels of the feature pyramid and of the heads."""
    batch_size: Annotated[int | None, COUNT] = None
    """Pictures a step, over all devices."""
    learning_rate: Annotated[float | None, NOT_NEGATIVE, SWEPT] = None
    """The highest learning rate."""
    schedule: str = "cosine"
    """constant, cosine or linear, after the warm-up."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate climbs."""
    weight_decay: Annotated[float, NOT_NEGATIVE, SWEPT] = 0.05
    """Decoupled, times the learning rate; not on norms and biases."""
    clip_norm: Annotated[float | None, POSITIVE, SWEPT] = 10.0
    """Greatest global norm of a gradient."""
    ema_decay: Annotated[float | None, DECAY, SWEPT] = 0.99
    """Decay of the moving average of the weights that is evaluated; None uses the weights."""
    box_weight: Annotated[float, NOT_NEGATIVE, SWEPT] = 2.0
    """Weight of the loss of the boxes beside that of the middles of objects."""


def resolve(config: Detect) -> Detect:
    """The config with every value in its place.

    Raises:
      UserError: for a value that no run can be made with.
    """
    if not config.data.startswith("objects:") or config.data == "objects:":
        raise UserError(
            f"--data {config.data!r} is no folder of pictures with boxes: write --data objects:PATH"
        )
    return settled(with_preset(config, PRESET))
