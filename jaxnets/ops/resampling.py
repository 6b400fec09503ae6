"""Halving and doubling of images with a low-pass filter, so that what is too fine does not alias.

A separable filter is a few shifted multiply-adds along each axis. Written as such, XLA fuses them
on every backend; written as the depthwise convolution that they are, its gradients are slow.

Repeated pixels before a convolution and a mean after one need no filter of their own: the sums can
be taken of the kernel, which is small, instead of the image.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxnets.ops import convolution, windows
from jaxnets.typing import Array

__all__ = ["conv_halve", "double_conv", "downsample", "upsample"]

#: A binomial filter: close to a Gaussian, and the usual choice of style-based generators.
BINOMIAL = (1.0, 3.0, 3.0, 1.0)


def downsample(x: Array, factor: int = 2, taps: Sequence[float] = BINOMIAL) -> Array:
    """Filters along each spatial axis, and keeps every `factor`-th pixel.

    Args:
      x: [B, *spatial, C]; zeros are assumed beyond the border.
      factor: at least 1; must divide each spatial size.
      taps: the filter along one axis; normalised to a sum of one.

    Returns:
      [B, *(spatial / factor), C].

    Raises:
      ValueError: if `factor` does not divide a size, or the taps sum to nothing.

    Reference:
      Zhang 2019, Making Convolutional Networks Shift-Invariant Again, arXiv:1904.11486; the
      alignment is that of Karras et al. 2020, arXiv:1912.04958.
    """
    weights = _normalised(taps)
    # Centred: the filter overhangs by as much on both sides, the odd pixel after.
    over = len(weights) - factor
    before, after = (over + 1) // 2, over // 2
    for axis in range(1, x.ndim - 1):
        size = x.shape[axis]
        if size % factor:
            raise ValueError(f"a side of {size} pixels can't be divided by {factor}")
        padded = _pad(x, axis, (before, after))
        x = sum(  # type: ignore[assignment]
            weight * jax.lax.slice_in_dim(padded, t, t + size - factor + 1, factor, axis)
            for t, weight in enumerate(weights)
        )
    return x


def upsample(x: Array, factor: int = 2, taps: Sequence[float] = BINOMIAL) -> Array:
    """Puts `factor` - 1 zeros between neighbours, and filters along each spatial axis.

    The brightness stays: `upsample` is the transpose of `downsample`, times `factor` to the power
    of the number of axes. No zero is multiplied: each of the `factor` phases of the output meets
    only its own taps.

    Args:
      x: [B, *spatial, C]; zeros are assumed beyond the border.
      factor: at least 1.
      taps: the filter along one axis; normalised to a sum of `factor`.

    Returns:
      [B, *(spatial * factor), C].

    Raises:
      ValueError: if the taps sum to nothing.
    """
    weights = [factor * weight for weight in _normalised(taps)]
    before = (len(weights) - factor + 1) // 2
    for axis in range(1, x.ndim - 1):
        size = x.shape[axis]
        # Output i = factor * q + a takes input o through tap t where factor * o + t - before = i.
        phases = [
            [
                ((a + before - t) // factor, w)
                for t, w in enumerate(weights)
                if not (a + before - t) % factor
            ]
            for a in range(factor)
        ]
        shifts = [shift for phase in phases for shift, _ in phase]
        low, high = max(0, -min(shifts)), max(0, max(shifts))
        padded = _pad(x, axis, (low, high))
        outputs = [
            sum(
                (
                    w * jax.lax.slice_in_dim(padded, low + s, low + s + size, 1, axis)
                    for s, w in phase
                ),
                start=jnp.zeros((), x.dtype) if phase else jnp.zeros_like(x),
            )
            for phase in phases
        ]
        stacked = jnp.stack(outputs, axis=axis + 1)
        x = stacked.reshape(*x.shape[:axis], size * factor, *x.shape[axis + 1 :])
    return x


def double_conv(x: Array, kernel: Array) -> Array:
    """Convolution of an image whose pixels are first repeated, twice along each spatial axis.

    The large image is never made: of a 3x3 kernel's nine products at each of its pixels four are
    left, those with the sums of the weights that meet the same small pixel.

    Args:
      x: [B, *spatial, C_in].
      kernel: [*window, C_in, C_out], of odd sizes; converted to the type of `x`.

    Returns:
      [B, *(2 * spatial), C_out], equal to the "SAME" convolution of the repeated pixels up to the
      order of sums.

    Raises:
      ValueError: if a size of the window is even.

    Reference:
      Karras et al. 2018, https://arxiv.org/abs/1710.10196 (the "fused" scaling of its code).
    """
    rank = x.ndim - 2
    kernel = _pair_sums(kernel).astype(x.dtype)
    return convolution.conv_transpose(x, kernel, strides=(2,) * rank)


def conv_halve(x: Array, kernel: Array) -> Array:
    """Convolution whose result is averaged over pairs of pixels along each spatial axis.

    As for `double_conv`, which has the same arguments, the result before the mean is never made.
    The last pixel of an odd size has no partner and no output.

    Returns:
      [B, *(spatial // 2), C_out], equal to `avg_pool` of the "SAME" convolution up to the order of
      sums.
    """
    rank = x.ndim - 2
    padding = [(size // 2, size // 2) for size in kernel.shape[:-2]]
    kernel = (_pair_sums(kernel) / 2**rank).astype(x.dtype)
    return convolution.conv(x, kernel, strides=(2,) * rank, padding=padding)


def _pair_sums(kernel: Array) -> Array:
    """The kernel convolved with (1, 1) along each spatial axis: [*(window + 1), C_in, C_out]."""
    rank = kernel.ndim - 2
    if not all(size % 2 for size in kernel.shape[:rank]):
        raise ValueError(f"the window must have odd sizes, got {list(kernel.shape[:rank])}")
    for axis in range(rank):
        after, before = ([(0, 0)] * kernel.ndim for _ in range(2))
        after[axis], before[axis] = (0, 1), (1, 0)
        kernel = jnp.pad(kernel, after) + jnp.pad(kernel, before)
    return kernel


def _normalised(taps: Sequence[float]) -> list[float]:
    total = float(sum(taps))
    if not total:
        raise ValueError(f"the filter {tuple(taps)} sums to zero")
    return [float(tap) / total for tap in taps]


def _pad(x: Array, axis: int, border: tuple[int, int]) -> Array:
    return windows.pad(x, [border if a == axis else (0, 0) for a in range(1, x.ndim - 1)])
