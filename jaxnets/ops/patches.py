"""Convolutions as patches times a matrix, in plain JAX: what a CPU does without native kernels.

The patches of a few images at a time, so that they stay in the cache; `jax.checkpoint` makes the
backward pass build them again instead of reading them back from memory. Being plain JAX, it can
be differentiated any number of times in either direction, in any type.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnets.ops import windows
from jaxnets.ops.bilinear import Geometry
from jaxnets.typing import Array

__all__ = ["conv", "depthwise", "input_gradient"]

# Bytes of patches held at a time. Between 1 and 4 MB, about the second-level cache, the rate is
# flat to 10%; a whole batch at once (115 MB for 128 images of 28x28x32) loses more than half.
_CHUNK_BYTES = 2 * 1024 * 1024


def conv(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """See `bilinear.conv`."""
    offsets = [
        tuple(t * d for t, d in zip(tap, geometry.dilation, strict=True))
        for tap in windows.taps(geometry.window)
    ]
    groups, features = geometry.groups, kernel.shape[-1]

    def of_chunk(images: Array, kernel: Array) -> Array:
        images = windows.pad(images, geometry.padding())
        patches = _gather_patches(images, offsets, geometry.strides, geometry.outputs)
        if groups == 1:
            return jnp.matmul(patches, kernel.reshape(-1, features))
        lead = patches.shape[:-1]
        patches = patches.reshape(*lead, len(offsets), groups, -1)
        kernel = kernel.reshape(len(offsets), -1, groups, features // groups)
        return jnp.einsum("...tgc,tcgo->...go", patches, kernel).reshape(*lead, features)

    patch_bytes = math.prod(geometry.outputs) * len(offsets) * x.shape[-1] * x.dtype.itemsize
    return _in_chunks(of_chunk, x, kernel, patch_bytes)


def depthwise(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """`conv` where each channel is a group of its own: shifted multiply-adds, which XLA fuses."""
    copies = kernel.shape[-1] // x.shape[-1]
    images = windows.pad(x, geometry.padding())
    if copies > 1:
        images = jnp.repeat(images, copies, axis=-1)
    total = None
    for tap in windows.taps(geometry.window):
        offset = tuple(t * d for t, d in zip(tap, geometry.dilation, strict=True))
        seen = windows.seen_by(images, offset, geometry.strides, geometry.outputs)
        term = seen * kernel[(*tap, 0)].reshape(*(1,) * (x.ndim - 1), -1)
        total = term if total is None else total + term
    assert total is not None
    return total


def input_gradient(slope: Array, kernel: Array, geometry: Geometry) -> Array:
    """See `bilinear.input_gradient`; without groups.

    With stride s, pixel s * q + a meets only every s-th tap of the kernel. So each of the
    `prod(strides)` phases a is a small ordinary convolution of the slope, and the phases,
    interleaved, are the result: no zeros are multiplied and no kernel is reversed.
    """
    rank = slope.ndim - 2
    strides, window = geometry.strides, geometry.window
    grown = [-(-n // s) for n, s in zip(geometry.inputs, strides, strict=True)]
    # Pixel s * q + a is met through tap t by output q + (a + before - t * d) / s, a whole number.
    axes = []
    for n, s, b, w, d, q in zip(
        geometry.outputs, strides, geometry.before, window, geometry.dilation, grown, strict=True
    ):
        phases = [
            [(t, (a + b - t * d) // s) for t in range(w) if not (a + b - t * d) % s]
            for a in range(s)
        ]
        shifts = [shift for taps in phases for _, shift in taps]
        before = max(0, -min(shifts, default=0))
        after = max(0, max(shifts, default=0) + q - n)
        axes.append((phases, before, after))

    def of_chunk(images: Array, kernel: Array) -> Array:
        images = windows.pad(images, [(b, a) for _, b, a in axes])
        outputs = []
        for phase in windows.taps(strides):
            per_axis = [axes[i][0][a] for i, a in enumerate(phase)]
            choices = list(windows.taps([len(taps) for taps in per_axis]))
            if not choices:  # a stride longer than the window leaves phases without a tap
                zeros = jnp.zeros((images.shape[0], *grown, kernel.shape[-2]), images.dtype)
                outputs.append(zeros)
                continue
            picked = [[per_axis[i][j] for i, j in enumerate(choice)] for choice in choices]
            offsets = [
                tuple(shift + axes[i][1] for i, (_, shift) in enumerate(taps)) for taps in picked
            ]
            rows = jnp.concatenate([kernel[tuple(t for t, _ in taps)].T for taps in picked], axis=0)
            patches = _gather_patches(images, offsets, (1,) * rank, grown)
            outputs.append(jnp.matmul(patches, rows))
        return _interleave(outputs, strides, geometry.inputs)

    patch_bytes = math.prod(grown) * math.prod(window) * slope.shape[-1] * slope.dtype.itemsize
    return _in_chunks(of_chunk, slope, kernel, patch_bytes)


def _gather_patches(
    images: Array,
    offsets: Sequence[tuple[int, ...]],
    strides: Sequence[int],
    out: Sequence[int],
) -> Array:
    """[B, *out, taps * C]: for each output position the inputs that its taps read."""
    slices = [windows.seen_by(images, offset, strides, out) for offset in offsets]
    return slices[0] if len(slices) == 1 else jnp.concatenate(slices, axis=-1)


def _interleave(phases: Sequence[Array], strides: Sequence[int], out: Sequence[int]) -> Array:
    """Puts phase (a, b, ...) at output positions (s*q + a, t*r + b, ...) and crops to `out`."""
    rank = len(strides)
    batch, *grown, channels = phases[0].shape
    x = jnp.stack(phases).reshape(*strides, batch, *grown, channels)
    order = [rank]  # the batch, then each spatial axis followed by its phase, then the channels
    for i in range(rank):
        order += [rank + 1 + i, i]
    x = x.transpose(*order, 2 * rank + 1)
    x = x.reshape(batch, *(n * s for n, s in zip(grown, strides, strict=True)), channels)
    return x[(slice(None), *(slice(n) for n in out), slice(None))]


def _in_chunks(
    of_chunk: Callable[[Array, Array], Array], x: Array, kernel: Array, bytes_per_image: int
) -> Array:
    """Maps `of_chunk` over groups of images whose patches fit in the cache together."""
    batch = x.shape[0]
    most = max(1, _CHUNK_BYTES // max(1, bytes_per_image))
    chunk = max((c for c in range(1, min(most, batch) + 1) if batch % c == 0), default=batch)
    of_chunk = jax.checkpoint(of_chunk, prevent_cse=False)
    if chunk == batch:
        return of_chunk(x, kernel)
    chunks = x.reshape(batch // chunk, chunk, *x.shape[1:])
    y: Any = jax.lax.map(lambda images: of_chunk(images, kernel), chunks)
    return y.reshape(batch, *y.shape[2:])
