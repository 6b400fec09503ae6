"""How generators and discriminators get from a few pixels to an image's size, and back."""

from collections.abc import Iterable, Sequence

import jax

from jaxnets.errors import UserError
from jaxnets.ops import windows
from jaxnets.typing import Array

__all__ = ["check_attention", "check_latents", "crop", "fill_up", "first_size", "halvings"]


def halvings(size: int, least: int = 8) -> int:
    """How often a size is halved, rounding up, while it is at least `least`."""
    count = 0
    while size >= least:
        size, count = -(-size // 2), count + 1
    return count


def first_size(image_size: Sequence[int], doublings: int) -> tuple[int, ...]:
    """The fewest pixels along each axis that, doubled so often, hold the image.

    28 pixels are 7 doubled twice; 30 are 8 doubled twice, of which 2 are cropped.
    """
    return tuple(-(-size // 2**doublings) for size in image_size)


def fill_up(x: Array, halvings: int) -> Array:
    """Zeros (grey) after the last pixel, as many as make every size divisible by 2^halvings.

    Args:
      x: [B, *spatial, C].
      halvings: how often the result can be halved.

    Returns:
      [B, *larger, C]; x itself where nothing is missing.
    """
    missing = [(0, -size % 2**halvings) for size in x.shape[1:-1]]
    return windows.pad(x, missing) if any(after for _, after in missing) else x


def crop(x: Array, image_size: Sequence[int]) -> Array:
    """The first pixels along each spatial axis: the inverse of `fill_up`."""
    return jax.lax.slice(x, (0,) * x.ndim, (x.shape[0], *image_size, x.shape[-1]))


def check_attention(asked: Iterable[int], stages: Iterable[int]) -> None:
    """Raises a `UserError` unless every stage that is to have self-attention exists."""
    known = list(stages)
    for stage in asked:
        if stage not in known:
            raise UserError(
                f"there is no stage {stage} to put self-attention after; this network has the "
                f"stages {known[0]} to {known[-1]}"
            )


def check_latents(z: Array, size: int) -> None:
    """Raises a `UserError` unless latents are [B, size]."""
    if z.ndim != 2 or z.shape[1] != size:
        raise UserError(f"the generator takes latents [B, {size}], got {list(z.shape)}")
