"""What convolutions and pools are made of: taps, borders, and what one tap sees."""

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxnets.typing import Array

__all__ = [
    "Padding",
    "channels_last",
    "explicit_padding",
    "one_batch",
    "pad",
    "per_axis",
    "seen_by",
    "taps",
]

#: A name, or how many pixels: one number for all, or a number or (before, after) for each axis.
Padding = str | int | Sequence[int | tuple[int, int]]


def channels_last(rank: int) -> tuple[str, str, str]:
    """Dimension numbers of a convolution over so many spatial axes, one to three."""
    spatial = "DHW"[3 - rank :]
    return f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"


def per_axis(value: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """One number for all axes (None: 1), or one for each, as one for each."""
    if value is None or isinstance(value, int):
        return (1 if value is None else value,) * rank
    return tuple(value)


def one_batch(x: Array, rank: int) -> tuple[Array, tuple[int, ...]]:
    """[*batch, *spatial, C] as [B, *spatial, C], and the batch axes, of which there may be none."""
    axes = x.ndim - rank - 1
    if axes < 0:
        raise ValueError(
            f"a window of {rank} axes needs an input of at least {rank + 1} axes "
            f"(batch axes if any, spatial axes, channels), got shape {x.shape}"
        )
    batch = x.shape[:axes]
    return x.reshape(math.prod(batch), *x.shape[axes:]), batch


def taps(window: Sequence[int]) -> list[tuple[int, ...]]:
    """Every index into an array of this shape, last axis fastest."""
    return list(itertools.product(*map(range, window)))


def explicit_padding(
    spatial: Sequence[int], window: Sequence[int], strides: Sequence[int], padding: Padding
) -> list[tuple[int, int]]:
    """Pixels (before, after) each spatial axis; "SAME" and "VALID" depend on the sizes.

    Raises:
      ValueError: for another name, or numbers that do not fit the spatial axes.
    """
    rank = len(window)
    if isinstance(padding, str):
        if padding not in ("SAME", "VALID"):
            raise ValueError(f"unknown padding {padding!r}; choose SAME, VALID or numbers")
        return list(jax.lax.padtype_to_pads(spatial, window, strides, padding))
    each = [padding] * rank if isinstance(padding, int) else padding
    pairs = [(p, p) if isinstance(p, int) else tuple(p) for p in each]
    if [len(pair) for pair in pairs] != [2] * rank:
        raise ValueError(
            "padding must be a name, an integer, or an integer or (before, after) for each of "
            f"{rank} spatial axes, got {padding!r}"
        )
    return [(before, after) for before, after in pairs]


def pad(x: Array, padding: Sequence[tuple[int, int]], fill: float = 0.0) -> Array:
    """Puts (before, after) pixels along each spatial axis of [B, *spatial, C]; below 0 cuts."""
    widths = [(0, 0, 0), *((lo, hi, 0) for lo, hi in padding), (0, 0, 0)]
    return jax.lax.pad(x, jnp.asarray(fill, x.dtype), widths)


def seen_by(
    x: Array, offset: Sequence[int], strides: Sequence[int], outputs: Sequence[int]
) -> Array:
    """[B, *outputs, C]: for each output position q the pixel `offset + q * strides`."""
    stops = [o + (n - 1) * s + 1 for o, n, s in zip(offset, outputs, strides, strict=True)]
    return jax.lax.slice(x, (0, *offset, 0), (x.shape[0], *stops, x.shape[-1]), (1, *strides, 1))
