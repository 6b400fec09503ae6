"""A detector of objects without anchors, and how its maps become boxes.

Maps have a place for every 4x4 pixels. Each says how likely the middle of an object of a class lies
there, and how wide and high that object is.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from jaxnets import ops
from jaxnets.columns.boxes import STRIDE
from jaxnets.errors import UserError
from jaxnets.models.classifiers import classifier_of
from jaxnets.nn.layers import BatchNorm, Conv, he_normal
from jaxnets.typing import Array

__all__ = ["CenterNet", "boxes_of", "corners", "make_detector", "pyramid_of"]

#: Probability of an object at every place before the training, as in focal losses.
_RARE = 0.1
#: Logarithms of sizes are between minus and plus this: from 4/55 pixels to 220 places.
_LARGEST = 5.4

_conv = partial(Conv, use_bias=False, kernel_init=he_normal)


class CenterNet(nn.Module):
    """Images [B, H, W, C] to maps of the middles and sizes of objects, and features.

    The features of a classifier, from the coarsest to that with a place for every 4x4 pixels, are
    brought to one number of channels and added up, each enlarged to the size of the next (a feature
    pyramid). Two heads of 3x3 and 1x1 convolutions read the sum. The maps, all float32:

    - "heat" [B, h, w, K]: logits of an object's middle, for each class.
    - "offset" [B, h, w, 2]: from the middle of the place to that of the object, across and down, in
      places.
    - "size" [B, h, w, 2]: logarithms of width and height in places.

    Attributes:
      backbone: a classifier, `(images, train) -> (logits, features)`.
      layers: the features that are used, the largest first.
      num_classes: K.
      width: channels of the pyramid and the heads.
      dtype: compute type.

    References:
      Zhou et al. 2019, Objects as Points, arXiv:1904.07850; Lin et al. 2017, Feature Pyramid
      Networks, arXiv:1612.03144.
    """

    backbone: nn.Module
    layers: Sequence[str]
    num_classes: int
    width: int = 64
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> tuple[dict[str, Array], dict[str, Array]]:
        """Maps and features; "pyramid" [B, h, w, width] among these."""
        features = dict(self.backbone(images, train=train)[1])  # type: ignore[operator]
        conv, norm = partial(_conv, dtype=self.dtype), partial(BatchNorm, dtype=self.dtype)
        x: Array | None = None
        for layer in reversed(self.layers):
            y = features[layer].astype(self.dtype)
            lateral = conv(self.width, (1, 1), name=f"lateral_{layer}")
            below = None if x is None else _enlarged(x, y.shape[1:3])
            x = norm(name=f"lateral_{layer}_norm")(y, train=train, conv=lateral, add=below)
            x = nn.relu(x)
        assert x is not None
        maps = {}
        for name, outputs in (("heat", self.num_classes), ("box", 4)):
            inner = conv(self.width, (3, 3), name=f"{name}_inner")
            y = norm(name=f"{name}_norm")(x, train=train, conv=inner, act=nn.relu)
            maps[name] = _Last(outputs, _RARE if name == "heat" else None, name=name)(y)
        offset, size = jnp.split(maps["box"], 2, axis=-1)
        size = jnp.clip(size, -_LARGEST, _LARGEST)
        return {"heat": maps["heat"], "offset": offset, "size": size}, {**features, "pyramid": x}


class _Last(nn.Module):
    """A 1x1 convolution in float32; its bias begins at the logit of a probability."""

    features: int
    probability: float | None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        rare = self.probability
        begin = 0.0 if rare is None else math.log(rare / (1 - rare))
        x = Conv(
            self.features,
            (1, 1),
            use_bias=False,
            kernel_init=nn.initializers.normal(0.01),
            name="conv",
        )(x.astype(jnp.float32))
        bias = self.param("bias", nn.initializers.constant(begin), (self.features,), jnp.float32)
        return x + bias.reshape(1, 1, 1, -1)


def _enlarged(x: Array, size: Sequence[int]) -> Array:
    """Each place repeated, so that the map has a size of up to twice its own."""
    for axis, side in enumerate(size, start=1):
        if x.shape[axis] != side:
            repeated = jnp.repeat(x, -(-side // x.shape[axis]), axis)
            x = jax.lax.slice_in_dim(repeated, 0, side, axis=axis)
    return x


def corners(maps: Mapping[str, Array]) -> Array:
    """[B, h, w, 4] left, top, right and bottom of the object at each place, in places."""
    height, width = maps["offset"].shape[1:3]
    down, across = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    middle = jnp.stack([across, down], axis=-1)[None] + 0.5 + maps["offset"]
    half = jnp.exp(maps["size"]) / 2
    return jnp.concatenate([middle - half, middle + half], axis=-1)


def boxes_of(
    maps: Mapping[str, Array], image_size: tuple[int, int], most: int = 100
) -> dict[str, Array]:
    """The objects that maps tell of, the surest first.

    An object is where the heat of a class is as high as at any of the eight places around it, so
    that no others have to be suppressed afterwards.

    Args:
      maps: of `CenterNet`.
      image_size: (height, width) of the images.
      most: objects of an image, N.

    Returns:
      "boxes" [B, N, 4] in shares of the image, inside it; "labels" [B, N] int32; "scores" [B, N] in
      (0, 1), those of no peak 0.
    """
    heat = jax.nn.sigmoid(maps["heat"])
    batch, height, width, classes = heat.shape
    highest = ops.max_pool(heat, (3, 3), 1, "SAME")
    peaks = jnp.where(heat >= highest, heat, 0.0).reshape(batch, -1)
    scores, places = jax.lax.top_k(peaks, min(most, peaks.shape[1]))
    labels, places = places % classes, places // classes
    every = corners(maps).reshape(batch, height * width, 4)
    boxes = jnp.take_along_axis(every, places[..., None], axis=1) * STRIDE
    sides = jnp.array([image_size[1], image_size[0]] * 2, jnp.float32)
    shares = boxes / sides.reshape(1, 1, 4)
    return {"boxes": jnp.clip(shares, 0.0, 1.0), "labels": labels, "scores": scores}


def pyramid_of(network: nn.Module, shape: Sequence[int]) -> tuple[str, ...]:
    """The features of a classifier that a detector uses: of each size the last.

    The largest has a place for every 4x4 pixels, and each other is up to twice as small as the one
    before.

    Args:
      network: the classifier.
      shape: (H, W, C) of the images.

    Raises:
      UserError: if there is no feature of that size.
    """
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)

    def features(key: Any, x: Array) -> Any:
        return network.init_with_output(key, x, train=False)[0][1]

    shapes = jax.eval_shape(features, jax.eval_shape(jax.random.key, 0), images)
    of_size: dict[tuple[int, ...], str] = {}
    for name, x in shapes.items():
        if x.ndim == 4:
            of_size[x.shape[1:3]] = name
    wanted = tuple(-(-side // STRIDE) for side in shape[:2])
    if wanted not in of_size:
        raise UserError(
            f"a detector needs features of {wanted[0]}x{wanted[1]} for images of "
            f"{shape[0]}x{shape[1]}, and this network has none"
        )
    sizes = sorted((size for size in of_size if size <= wanted), reverse=True)
    return tuple(of_size[size] for size in sizes)


def make_detector(name: str, column: Any, *, backbone: Mapping[str, Any], **fields: Any) -> Any:
    """Builds a detector.

    Args:
      name: "centernet".
      column: of the images.
      backbone: arguments of `classifier_of` but for the column.
      **fields: those of `CenterNet`.

    Raises:
      UserError: for an unknown name, or a backbone that can't take such images.
    """
    if name != "centernet":
        raise UserError(f'there is no detector "{name}"; choose centernet')
    network = classifier_of(column=column, **backbone)
    layers = pyramid_of(network, column.shape)
    return CenterNet(network, layers, **fields)
