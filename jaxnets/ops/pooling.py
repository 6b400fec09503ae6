"""Pooling over any number of spatial axes, channels last.

XLA:CPU differentiates a window reduction by a slow select-and-scatter. Windows that do not
overlap and fill the input, nearly all that classifiers use, need none on any backend: reshape and
reduce. Other windows are reduced tap by tap on a CPU, over shifted slices, whose gradients are
pads and selections.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxnets.ops import windows
from jaxnets.ops.windows import Padding
from jaxnets.typing import Array

__all__ = ["avg_pool", "max_pool"]


def max_pool(
    x: Array,
    window: int | Sequence[int],
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> Array:
    """Maximum over windows.

    Where several elements of a window tie, windows that tile the input share the gradient among
    them (the subgradient with the smallest norm); others send it to the first.

    Args:
      x: [*batch, *spatial, C].
      window: size along each spatial axis; an integer is one axis.
      strides: step along each spatial axis; by default `window`.
      padding: "VALID" drops the rest that fills no window, "SAME" pads; or numbers, see `conv`.

    Returns:
      [*batch, *pooled, C] in the type of `x`.

    Raises:
      ValueError: for an input of too few axes, or unknown padding.
    """
    return _pool(x, window, strides, padding, jnp.max, _greater, -jnp.inf, nn.max_pool)


def avg_pool(
    x: Array,
    window: int | Sequence[int],
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> Array:
    """Mean over windows, padding counted as zeros; see `max_pool` for the arguments."""
    return _pool(x, window, strides, padding, jnp.mean, jnp.add, 0.0, nn.avg_pool)


def _pool(
    x: Array,
    window: int | Sequence[int],
    strides: int | Sequence[int] | None,
    padding: Padding,
    of_tiles: Callable[..., Array],
    combine: Callable[[Array, Array], Array],
    fill: float,
    by_flax: Callable[..., Any],
) -> Array:
    window = windows.per_axis(window, 1)
    strides = window if strides is None else windows.per_axis(strides, len(window))
    x, batch = windows.one_batch(x, len(window))
    pads = windows.explicit_padding(x.shape[1:-1], window, strides, padding)
    sizes = [n + lo + hi for n, (lo, hi) in zip(x.shape[1:-1], pads, strict=True)]
    fits = all(n >= w for n, w in zip(sizes, window, strict=True))
    if padding == "VALID" and strides == window and fits:
        tiles = _tiles(x, window)
        y = of_tiles(tiles, axis=tuple(range(2, tiles.ndim - 1, 2)))
    elif jax.default_backend() == "cpu" and fits and jnp.issubdtype(x.dtype, jnp.floating):
        out = [(n - w) // s + 1 for n, w, s in zip(sizes, window, strides, strict=True)]
        x = windows.pad(x, pads, fill)
        seen = (windows.seen_by(x, tap, strides, out) for tap in windows.taps(window))
        y = functools.reduce(combine, seen)
        if of_tiles is jnp.mean:
            y /= math.prod(window)
    else:
        y = by_flax(x, window, strides, pads)
    return y.reshape(*batch, *y.shape[1:])


def _tiles(x: Array, window: Sequence[int]) -> Array:
    """[B, n1, w1, n2, w2, ..., C]: x, cropped to what windows tile, as these windows."""
    counts = [size // w for size, w in zip(x.shape[1:-1], window, strict=True)]
    for axis, (count, w) in enumerate(zip(counts, window, strict=True), start=1):
        if count * w != x.shape[axis]:
            x = jax.lax.slice_in_dim(x, 0, count * w, axis=axis)
    split = [size for pair in zip(counts, window, strict=True) for size in pair]
    return x.reshape(x.shape[0], *split, x.shape[-1])


def _greater(best: Array, other: Array) -> Array:
    """The maximum; of equals the first, to which all of the gradient goes. NaN wins."""
    return jnp.where((other > best) | jnp.isnan(other), other, best)
