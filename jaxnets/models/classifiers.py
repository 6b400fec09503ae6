"""Every classifier by name.

Those of `CLASSIFIERS` map images [B, H, W, C] to `(logits [B, K] float32, features)`; `features`
names the intermediates, "penultimate" [B, F] float32 among them. They classify sounds too, as
pictures; what sees waves, tokens or a generator's traces is among `OTHER_CLASSIFIERS`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from jaxnets.columns import Column, Sound, Tokens
from jaxnets.errors import UserError
from jaxnets.models import speed_net
from jaxnets.models.classic import VGG, VGGS, AlexNet, LeNet5
from jaxnets.models.efficientnet import LITE0, EfficientNetLite
from jaxnets.models.pixels import IMAGENET
from jaxnets.models.resnet import RESNETS, WIDE_RESNETS, ResNet, WideResNet
from jaxnets.models.sounds import M5, OnLogMel
from jaxnets.models.texts import VDCNN, TextCNN
from jaxnets.models.traces import OnNeighbours, Spectrum
from jaxnets.nn.frontends import LogMel, SpecAugment
from jaxnets.registry import Registry, check_name
from jaxnets.typing import traced

__all__ = [
    "CLASSIFIERS",
    "OTHER_CLASSIFIERS",
    "ClassifierSpec",
    "classifier_of",
    "make_classifier",
    "scale_widths",
]

#: No network times more than this fits any machine, and sizes far beyond it fit no integer of XLA.
_MAX_WIDTH = 1000

#: Images with a shorter side than this keep their size through the stem of a network.
_LARGE = 128


@dataclass(frozen=True)
class ClassifierSpec:
    """What is known of a classifier before it is built.

    Attributes:
      build: `(image_shape, width, **fields) -> module`, fields being `num_classes`, `dropout`
        and `dtype`.
      min_size: shortest side of an image that the network can take.
      prepare: `(variables, training images [N, H, W, C] in [-1, 1]) -> variables`, to be called
        once before training, if the network starts from its data.
    """

    build: Callable[..., nn.Module]
    min_size: int
    prepare: Callable[[dict[str, Any], Any], dict[str, Any]] | None = None


def scale_widths(widths: Sequence[int], width: float, multiple: int = 4) -> tuple[int, ...]:
    """Channel counts times `width`; where that is not 1, positive multiples of `multiple`.

    Raises:
      UserError: for a width outside (0, 1000].
    """
    if not width > 0:  # so NaN is refused too
        raise UserError(f"the width factor must be above 0, got {width}")
    if width > _MAX_WIDTH:
        raise UserError(f"the width factor must be at most {_MAX_WIDTH}, got {width:g}")
    if width == 1:
        return tuple(widths)
    return tuple(max(multiple, multiple * round(size * width / multiple)) for size in widths)


def _lenet5(image_shape: Sequence[int], width: float, **fields: Any) -> nn.Module:
    return LeNet5(widths=scale_widths((6, 16, 120, 84), width), **fields)


def _alexnet(image_shape: Sequence[int], width: float, **fields: Any) -> nn.Module:
    large = min(image_shape[:2]) >= _LARGE
    (hidden,) = scale_widths([4096 if large else 1024], width)
    widths = scale_widths((64, 192, 384, 256, 256), width)
    return AlexNet(widths=widths, hidden=hidden, large_stem=large, **fields)


def _vgg(name: str, image_shape: Sequence[int], width: float, **fields: Any) -> nn.Module:
    return VGG(stages=tuple(scale_widths(stage, width) for stage in VGGS[name]), **fields)


def _resnet(name: str, image_shape: Sequence[int], width: float, **fields: Any) -> nn.Module:
    blocks, widths, block = RESNETS[name]
    large = min(image_shape[:2]) >= _LARGE
    return ResNet(
        blocks=blocks,
        widths=scale_widths(widths, width),
        block=block,
        large_stem=large,
        # As published, so that published weights fit.
        pixels=IMAGENET if large and image_shape[2] == 3 else None,
        **fields,
    )


def _wide_resnet(name: str, image_shape: Sequence[int], width: float, **fields: Any) -> nn.Module:
    depth, factor = WIDE_RESNETS[name]
    widths = (16, 16 * factor, 32 * factor, 64 * factor)
    return WideResNet(depth=depth, widths=scale_widths(widths, width), **fields)


def _efficientnet(image_shape: Sequence[int], width: float, **fields: Any) -> nn.Module:
    stem, last, *outs = scale_widths((32, 1280, *(row[3] for row in LITE0)), width)
    rows = tuple((*row[:3], out, row[4]) for row, out in zip(LITE0, outs, strict=True))
    return EfficientNetLite(rows=rows, stem=stem, last=last, **fields)


def _speed_net(image_shape: Sequence[int], width: float, **fields: Any) -> nn.Module:
    return speed_net.SpeedNet(widths=scale_widths((64, 256, 256), width), **fields)


#: name -> what is known of the classifier.
CLASSIFIERS: Registry[ClassifierSpec] = Registry(
    "classifier",
    {
        "lenet5": ClassifierSpec(_lenet5, min_size=4),
        "alexnet": ClassifierSpec(_alexnet, min_size=8),
        **{name: ClassifierSpec(partial(_vgg, name), min_size=16) for name in VGGS},
        **{name: ClassifierSpec(partial(_resnet, name), min_size=8) for name in RESNETS},
        **{name: ClassifierSpec(partial(_wide_resnet, name), min_size=8) for name in WIDE_RESNETS},
        "efficientnet_lite0": ClassifierSpec(_efficientnet, min_size=4),
        "speed_net": ClassifierSpec(_speed_net, min_size=4, prepare=speed_net.whiten),
    },
)


def _m5(column: Column, width: float, **fields: Any) -> nn.Module:
    return M5(widths=scale_widths((128, 128, 256, 512), width), **fields)


def _text_cnn(column: Tokens, width: float, **fields: Any) -> nn.Module:
    size, maps = scale_widths((128, 100), width)
    return TextCNN(vocabulary=column.size, size=size, maps=maps, **fields)


def _vdcnn(column: Tokens, width: float, **fields: Any) -> nn.Module:
    widths = scale_widths((64, 128, 256, 512), width)
    return VDCNN(vocabulary=column.size, widths=widths, **fields)


def _npr(column: Column, width: float, **fields: Any) -> nn.Module:
    _check_traces("npr", column)
    return OnNeighbours(ResNet(blocks=(2, 2), widths=scale_widths((32, 64), width), **fields))


def _spectrum(column: Column, width: float, **fields: Any) -> nn.Module:
    _check_traces("spectrum", column)
    return Spectrum(**fields)


def _check_traces(name: str, column: Column) -> None:
    if min(column.shape[:2]) < 8:
        height, wide, _ = column.shape
        raise UserError(f"{name} needs images of at least 8x8 pixels, got {height}x{wide}")


_ROWS = {"image": "images", "sound": "sounds", "tokens": "texts"}

#: Kind of column -> name -> `(column, width, **fields) -> module` on such rows.
OTHER_CLASSIFIERS: dict[str, dict[str, Callable[..., nn.Module]]] = {
    "image": {"npr": _npr, "spectrum": _spectrum},
    "sound": {"m5": _m5},
    "tokens": {"text_cnn": _text_cnn, "vdcnn": _vdcnn},
}


def classifier_of(
    name: str,
    column: Column,
    *,
    width: float = 1.0,
    **fields: Any,
) -> nn.Module:
    """Builds a classifier for the rows of a column.

    Args:
      name: one of `OTHER_CLASSIFIERS` of the column's kind; for images, and for sounds as
        pictures, one of `CLASSIFIERS`.
      column: of images, sounds or tokens.
      width: factor on every number of channels, 1 being the published size.
      **fields: `num_classes`, `dropout` and `dtype`, as of `make_classifier`.

    Returns:
      A module: `(decoded rows, *, train) -> (logits, features)`.

    Raises:
      UserError: the name is unknown, or the network can't take such rows, classes or options.
    """
    own = OTHER_CLASSIFIERS.get(column.kind, {})
    if name in own:
        _check_fields(**fields)
        return own[name](column, width, **fields)
    pictures = () if column.kind == "tokens" else CLASSIFIERS
    check_name(f"classifier of {_ROWS[column.kind]}", name, [*pictures, *own])
    if not isinstance(column, Sound):
        return make_classifier(name, image_shape=column.shape, width=width, **fields)
    frontend = LogMel(column.rate)
    shape = frontend.shape(column.length)
    classifier = make_classifier(name, image_shape=shape, width=width, **fields)
    return OnLogMel(frontend, classifier, SpecAugment())


def _check_fields(num_classes: int, dropout: float = 0.0, **_: Any) -> None:
    if num_classes < 2:
        raise UserError(f"a classifier needs at least 2 classes, got {num_classes}")
    if not traced(dropout) and not 0.0 <= dropout < 1.0:
        raise UserError(f"dropout must be at least 0 and below 1, got {dropout}")


def make_classifier(
    name: str,
    *,
    num_classes: int,
    image_shape: Sequence[int],
    width: float = 1.0,
    dropout: float = 0.0,
    dtype: Dtype = jnp.float32,
) -> nn.Module:
    """Builds a classifier for images of one shape.

    Args:
      name: a key of `CLASSIFIERS`.
      num_classes: K, at least 2.
      image_shape: (H, W, C).
      width: factor on every number of channels, 1 being the published size.
      dropout: rate in [0, 1), where the network has its dropout (before the last layer, or
        inside the blocks of a wide ResNet).
      dtype: compute type; parameters and logits are float32.

    Returns:
      A module: `(images, *, train) -> (logits, features)`.

    Raises:
      UserError: the name is unknown, or the network can't take such images, classes or options.
    """
    spec = CLASSIFIERS[name]
    if len(image_shape) != 3:
        raise UserError(
            f"{name} takes images of shape (height, width, channels), got {tuple(image_shape)}"
        )
    height, wide, _ = image_shape
    if min(height, wide) < spec.min_size:
        fits = [key for key, other in CLASSIFIERS.items() if other.min_size <= min(height, wide)]
        advice = f"use {' or '.join(fits)}, or larger images" if fits else "use larger images"
        raise UserError(
            f"{name} needs images of at least {spec.min_size}x{spec.min_size} pixels, "
            f"got {height}x{wide}; {advice}"
        )
    _check_fields(num_classes, dropout)
    return spec.build(image_shape, width, num_classes=num_classes, dropout=dropout, dtype=dtype)
