"""Losses of a detector of objects: maps and boxes in, one value per example out."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxnets.columns.boxes import IGNORED, OBJECT, STRIDE
from jaxnets.typing import Array

__all__ = ["Targets", "box_overlap", "detection_losses", "heat_loss", "targets_of"]

#: Spread of the bell around an object's middle as a share of its width and height, so that a box
#: moved by one spread still has about 0.7 of its area in common; and its least, in places.
_SPREAD, _LEAST = 0.09, 0.35
#: Where the bell is lower, nothing is learnt of the box.
_FAINT = 0.1


class Targets(NamedTuple):
    """What the maps of one image should say.

    Attributes:
      heat: [h, w, K] in [0, 1]; 1 where the middle of an object is, a bell around it.
      counts: [h, w, K]: 0 where an ignored object may be found or not, else 1.
      boxes: [h, w, 4] corners of the object that a place belongs to, in places.
      weights: [h, w] how much its box counts; 1 in sum over each object's places.
    """

    heat: Array
    counts: Array
    boxes: Array
    weights: Array


def targets_of(rows: Array, image_size: tuple[int, int], num_classes: int) -> Targets:
    """The targets of one image.

    Every object has a bell of Gaussian shape, as wide and high as the object is. Near its middle
    all places learn its box, not only the one in the middle, which takes fewer epochs.

    Args:
      rows: [M, 6] of a column of `Boxes`.
      image_size: (height, width) of the image, which has a place for every 4x4 pixels.
      num_classes: K.

    References:
      Zhou et al. 2019, arXiv:1904.07850; Liu et al. 2019, Training-Time-Friendly Network,
      arXiv:1909.00700, for bells and places that learn.
    """
    height, width = (-(-side // STRIDE) for side in image_size)
    pixels = jnp.array([[image_size[1], image_size[0]] * 2], jnp.float32)
    boxes = rows[:, :4] * pixels / STRIDE
    one = rows[:, 5] == OBJECT
    middles, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    cells = jnp.clip(jnp.floor(middles), 0, jnp.array([[width, height]]) - 1)
    spread = jnp.maximum(_SPREAD * sides, _LEAST)

    def bell(axis: int, length: int) -> Array:
        apart = (jnp.arange(length)[None] - cells[:, axis, None]) / spread[:, axis, None]
        return jnp.exp(-0.5 * jnp.square(apart))

    bells = bell(1, height)[:, :, None] * bell(0, width)[:, None, :] * one[:, None, None]
    of_class = jax.nn.one_hot(rows[:, 4].astype(jnp.int32), num_classes)
    heat = (bells[..., None] * of_class[:, None, None, :]).max(axis=0)

    def inside(axis: int, length: int) -> Array:
        places = jnp.arange(length)[None] + 0.5
        return (places >= boxes[:, axis, None]) & (places <= boxes[:, axis + 2, None])

    ignored = (rows[:, 5] == IGNORED)[:, None, None]
    covered = inside(1, height)[:, :, None] & inside(0, width)[:, None, :] & ignored
    covered_class = (covered[..., None] * of_class[:, None, None, :]).max(axis=0)
    counts = jnp.where((covered_class > 0) & (heat == 0), 0.0, 1.0)

    owner = bells.argmax(axis=0)
    strength = bells.max(axis=0)
    strength = jnp.where(strength > _FAINT, strength, 0.0)
    total = jax.ops.segment_sum(strength.ravel(), owner.ravel(), len(rows))
    weights = strength / jnp.maximum(total[owner], 1e-6)
    return Targets(heat, counts, boxes[owner], weights)


def heat_loss(logits: Array, heat: Array, counts: Array) -> Array:
    """Focal loss with less of a penalty near the middles of objects: [B], over their number.

    `-(1 - p)^2 log p` where the heat is 1, and `-(1 - heat)^4 p^2 log(1 - p)` elsewhere.

    Args:
      logits: [B, h, w, K].
      heat: of the targets, of the same shape.
      counts: of the targets, of the same shape.

    Reference:
      Law and Deng 2018, CornerNet, arXiv:1808.01244, equation 1.
    """
    p = jax.nn.sigmoid(logits)
    there = heat >= 1.0
    hit = jnp.square(1 - p) * jax.nn.softplus(-logits)
    miss = (1 - heat) ** 4 * jnp.square(p) * jax.nn.softplus(logits)
    every = jnp.where(there, hit, miss) * counts
    return every.sum(axis=(1, 2, 3)) / jnp.maximum(there.sum(axis=(1, 2, 3)), 1)


def box_overlap(boxes: Array, wanted: Array) -> Array:
    """Generalised intersection over union of corners [..., 4], in [-1, 1].

    Reference:
      Rezatofighi et al. 2019, arXiv:1902.09630.
    """
    (low, high), (wanted_low, wanted_high) = (jnp.split(of, 2, axis=-1) for of in (boxes, wanted))

    def area(first: Array, last: Array) -> Array:
        return jnp.prod(jnp.maximum(last - first, 0.0), axis=-1)

    shared = area(jnp.maximum(low, wanted_low), jnp.minimum(high, wanted_high))
    union = area(low, high) + area(wanted_low, wanted_high) - shared
    hull = area(jnp.minimum(low, wanted_low), jnp.maximum(high, wanted_high))
    return shared / jnp.maximum(union, 1e-6) - (hull - union) / jnp.maximum(hull, 1e-6)


def detection_losses(
    maps: Mapping[str, Array], boxes: Array, targets: Targets
) -> tuple[Array, Array]:
    """The loss of the middles and that of the boxes, `1 - GIoU`, both [B].

    Args:
      maps: of a detector, see `jaxnets.models.detectors.CenterNet`.
      boxes: [B, h, w, 4] corners at each place, in places.
      targets: of the images, each with a leading axis B.
    """
    heat = heat_loss(maps["heat"], targets.heat, targets.counts)
    apart = 1.0 - box_overlap(boxes, targets.boxes)
    number = jnp.maximum(targets.weights.sum(axis=(1, 2)), 1.0)
    return heat, (targets.weights * apart).sum(axis=(1, 2)) / number
