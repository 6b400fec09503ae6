"""Pooling over any number of spatial axes, channels last.

XLA:CPU differentiates a window reduction by a slow select-and-scatter. Windows that do not
overlap and fill the input, nearly all that classifiers use, need none on any backend: reshape and
reduce. Other windows are reduced tap by tap on a CPU, over shifted slices, whose gradients are
pads and selections.
"""

import functools
import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxnets.ops import windows
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


def _tap_by_tap(
    x: Array,
    window: Sequence[int],
    strides: Sequence[int],
    padding: str,
    fill: float,
    combine: Callable[[Array, Array], Array],
) -> Array:
    """Combines, for each output, what its window sees, from the window's first pixel on."""
    x = windows.pad(x, jax.lax.padtype_to_pads(x.shape[1:-1], window, strides, padding), fill)
    out = [(n - w) // s + 1 for n, w, s in zip(x.shape[1:-1], window, strides, strict=True)]
    seen = (windows.seen_by(x, tap, strides, out) for tap in windows.taps(window))
    return functools.reduce(combine, seen)


def _greater(best: Array, other: Array) -> Array:
    """The maximum; of equals the first, to which all of the gradient goes. NaN wins."""
    return jnp.where((other > best) | jnp.isnan(other), other, best)


def _fits(x: Array, window: Sequence[int], padding: str) -> bool:
    fits = all(n >= w for n, w in zip(x.shape[1:-1], window, strict=True))
    return jax.default_backend() == "cpu" and (padding == "SAME" or fits)


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
    if tiles is not None:
        return tiles.max(axis=tuple(range(2, tiles.ndim - 1, 2)))
    strides = tuple(strides or window)
    if _fits(x, window, padding) and jnp.issubdtype(x.dtype, jnp.floating):
        return _tap_by_tap(x, window, strides, padding, -jnp.inf, _greater)
    return nn.max_pool(x, tuple(window), strides, padding)


def avg_pool(
    x: Array, window: Sequence[int], strides: Sequence[int] | None = None, padding: str = "VALID"
) -> Array:
    """Mean over windows, padding counted as zeros; see `max_pool` for the arguments."""
    tiles = _tiles(x, window, strides) if padding == "VALID" else None
    if tiles is not None:
        return tiles.mean(axis=tuple(range(2, tiles.ndim - 1, 2)))
    strides = tuple(strides or window)
    if _fits(x, window, padding):
        total = _tap_by_tap(x, window, strides, padding, 0.0, jnp.add)
        return total / math.prod(window)
    return nn.avg_pool(x, tuple(window), strides, padding)
