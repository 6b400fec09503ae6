"""Random views of pictures with boxes: key first, jittable, boxes move with their picture."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxnets.columns.boxes import IGNORED, NOTHING, OBJECT
from jaxnets.data.augment import brightness, contrast, saturation
from jaxnets.typing import Array, PRNGKey

__all__ = ["BoxViews", "mosaic", "moved"]

#: Of an object that a view cuts, the share that must be left to be found; one with less, but some,
#: counts neither way.
_ENOUGH, _SOME = 0.35, 0.02


@dataclasses.dataclass(frozen=True)
class BoxViews:
    """A random view of a picture [H, W, C] in [-1, 1] and its objects [M, 6].

    Attributes:
      scale: greatest change of the logarithm of the size: views of a part of the picture, or of the
        picture with grey around it.
      stretch: greatest change of the logarithm of the ratio of height to width.
      flip: whether half of the views are mirrored.
      colour: strength of changes of brightness, contrast and saturation; 0 is none.
    """

    scale: float = 0.3
    stretch: float = 0.1
    flip: bool = False
    colour: float = 0.2

    def __call__(self, key: PRNGKey, image: Array, rows: Array) -> tuple[Array, Array]:
        """The view, of the same shapes."""
        place_key, flip_key, *colour_keys = jax.random.split(key, 5)
        if self.scale or self.stretch:
            draws = jax.random.uniform(place_key, (4,), minval=-1.0)
            size, ratio = draws[0] * self.scale, draws[1] * self.stretch / 2
            factors = jnp.exp(jnp.stack([size + ratio, size - ratio]))
            # Inside where the view is larger than its frame, and the frame inside of it otherwise.
            starts = (draws[2:] + 1) / 2 * (1 - factors)
            image, rows = moved(image, rows, factors, starts)
        if self.flip:
            mirror = jax.random.bernoulli(flip_key)
            image = jnp.where(mirror, image[:, ::-1], image)
            mirrored = jnp.stack([1 - rows[:, 2], rows[:, 1], 1 - rows[:, 0], rows[:, 3]], axis=1)
            turn = mirror & (rows[:, 5:] != NOTHING)
            rows = rows.at[:, :4].set(jnp.where(turn, mirrored, rows[:, :4]))
        if self.colour:
            low, high = 1 - self.colour, 1 + self.colour
            image = brightness(colour_keys[0], image, amplitude=self.colour)
            image = contrast(colour_keys[1], image, low=low, high=high)
            if image.shape[-1] == 3:
                image = saturation(colour_keys[2], image, low=low, high=high)
        return image, rows


def moved(image: Array, rows: Array, factors: Array, starts: Array) -> tuple[Array, Array]:
    """A picture and its objects, stretched and moved within their frame; outside it is grey.

    Args:
      image: [H, W, C].
      rows: [M, 6] of `Boxes`.
      factors: [2] by which it is stretched, down and across.
      starts: [2] where its upper left corner then is, in shares of the frame, down and across.
    """
    sides = jnp.array(image.shape[:2], jnp.float32)
    image = jax.image.scale_and_translate(
        image, image.shape, (0, 1), factors, starts * sides, "linear", antialias=True
    )
    scale, start = (jnp.tile(of[::-1], 2)[None] for of in (factors, starts))
    whole = rows[:, :4] * scale + start
    boxes = jnp.clip(whole, 0.0, 1.0)
    area, left = (jnp.prod(of[:, 2:] - of[:, :2], axis=1) for of in (whole, boxes))
    share = left / jnp.maximum(area, 1e-12)
    kind = jnp.where(share < _ENOUGH, IGNORED, OBJECT)
    kind = jnp.where(rows[:, 5] == OBJECT, kind, rows[:, 5])
    kind = jnp.where((share < _SOME) | (rows[:, 5] == NOTHING), NOTHING, kind)
    there = (kind != NOTHING)[:, None]
    return image, jnp.where(there, jnp.concatenate([boxes, rows[:, 4:5], kind[:, None]], 1), 0.0)


def mosaic(keys: Array, images: Array, rows: Array) -> tuple[Array, Array]:
    """Each picture becomes one of four, half as large, from four neighbours in the batch.

    Args:
      keys: [B], of which the first of each four says how they are arranged.
      images: [B, H, W, C], H and W even and B a multiple of 4.
      rows: [B, M, 6].

    Returns:
      [B, H, W, C] and [B, 4 M, 6].

    Reference:
      Bochkovskiy et al. 2020, YOLOv4, arXiv:2004.10934.
    """
    batch, height, width, depth = images.shape
    small = images.reshape(batch, height // 2, 2, width // 2, 2, depth).mean(axis=(2, 4))
    small = small.reshape(batch // 4, 4, height // 2, width // 2, depth)
    things = rows.reshape(batch // 4, 4, *rows.shape[1:])
    orders = jax.vmap(lambda key: jax.random.permutation(key, 4))(keys[::4])
    corner = jnp.array([[0, 0], [0.5, 0], [0, 0.5], [0.5, 0.5]])  # across, down
    start = jnp.tile(corner, (1, 2))[None, :, None]
    pictures, objects = [], []
    for shift in range(4):
        order = jnp.roll(orders, shift, axis=1)
        parts = jnp.take_along_axis(small, order[:, :, None, None, None], axis=1)
        top, bottom = (jnp.concatenate([parts[:, i], parts[:, i + 1]], axis=2) for i in (0, 2))
        pictures.append(jnp.concatenate([top, bottom], axis=1))
        of_parts = jnp.take_along_axis(things, order[:, :, None, None], axis=1)
        placed = of_parts.at[..., :4].set(of_parts[..., :4] / 2 + start)
        there = of_parts[..., 5:] != NOTHING
        objects.append(jnp.where(there, placed, 0.0).reshape(batch // 4, -1, 6))
    return (
        jnp.stack(pictures, axis=1).reshape(images.shape),
        jnp.stack(objects, axis=1).reshape(batch, -1, 6),
    )
