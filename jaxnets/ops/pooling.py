"""Pooling over any number of spatial axes, channels last.

XLA:CPU differentiates a window reduction by a slow select-and-scatter. Windows that do not
overlap and fill the input, nearly all that classifiers use, need none: reshape and reduce.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax

from jaxnets.typing import Array

__all__ = ["avg_pool", "max_pool"]


def _tiles(x: Array, window: Sequence[int], strides: Sequence[int] | None) -> Array | None:
    """[B, n1, w1, n2, w2, ..., C] where windows tile the cropped input exactly, else None."""
    if strides is not None and tuple(strides) != tuple(window):
        return None
    spatial = x.shape[1:-1]
    counts = [size // w for size, w in zip(spatial, window, strict=True)]
    if 0 in counts:
        return None
    for axis, (count, w) in enumerate(zip(counts, window, strict=True), start=1):
        if count * w != x.shape[axis]:
            x = jax.lax.slice_in_dim(x, 0, count * w, axis=axis)
    split = [size for pair in zip(counts, window, strict=True) for size in pair]
    return x.reshape(x.shape[0], *split, x.shape[-1])


def max_pool(
    x: Array, window: Sequence[int], strides: Sequence[int] | None = None, padding: str = "VALID"
) -> Array:
    """Maximum over windows.

    Where several elements of a window tie, windows that tile the input share the gradient among
    them (the subgradient with the smallest norm); others send it to the first.

    Args:
      x: [B, *spatial, C].
      window: size along each spatial axis.
      strides: step along each spatial axis; by default `window`.
      padding: "VALID" drops the rest that fills no window, "SAME" pads.

    Returns:
      [B, *pooled, C] in the type of `x`.
    """
    tiles = _tiles(x, window, strides) if padding == "VALID" else None
    if tiles is None:
        return nn.max_pool(x, tuple(window), tuple(strides or window), padding)
    return tiles.max(axis=tuple(range(2, tiles.ndim - 1, 2)))


def avg_pool(
    x: Array, window: Sequence[int], strides: Sequence[int] | None = None, padding: str = "VALID"
) -> Array:
    """Mean over windows; see `max_pool` for the arguments."""
    tiles = _tiles(x, window, strides) if padding == "VALID" else None
    if tiles is None:
        return nn.avg_pool(x, tuple(window), tuple(strides or window), padding)
    return tiles.mean(axis=tuple(range(2, tiles.ndim - 1, 2)))
