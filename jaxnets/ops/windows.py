"""What convolutions and pools are made of: taps, borders, and what one tap sees."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxnets.typing import Array

__all__ = ["channels_last", "pad", "seen_by", "taps"]


def channels_last(rank: int) -> tuple[str, str, str]:
    """Dimension numbers of a convolution over so many spatial axes, one to three."""
    spatial = "DHW"[3 - rank :]
    return f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"


def taps(window: Sequence[int]) -> list[tuple[int, ...]]:
    """Every index into an array of this shape, last axis fastest."""
    found: list[tuple[int, ...]] = [()]
    for size in window:
        found = [(*tap, i) for tap in found for i in range(size)]
    return found


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
