"""Convolution and transposed convolution, in the form that is fast where they run.

On GPU and TPU that is XLA's own convolution. On CPU it is not: XLA hands the gradients of a
convolution, and everything inside a loop, to an unoptimised loop nest, 3 to 11 times slower than
its matrix product. There a convolution is written as patches times a matrix, over chunks of a few
images at a time so that the patches stay in the cache; `jax.checkpoint` makes the backward pass
build them again instead of reading them back from memory. Being plain JAX, it can be
differentiated any number of times in either direction.

The choice is made in `_uses_patches`, once for every caller.
"""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp

from jaxnets.typing import Array

__all__ = ["conv", "conv_transpose", "plain_convolutions"]

Padding = str | Sequence[tuple[int, int]]

# Bytes of patches held at a time. Between 1 and 4 MB, about the second-level cache, the rate is
# flat to 10%; a whole batch at once (115 MB for 128 images of 28x28x32) loses more than half.
_CHUNK_BYTES = 2 * 1024 * 1024

_plain = contextvars.ContextVar("plain", default=False)


@contextlib.contextmanager
def plain_convolutions() -> Iterator[None]:
    """Within it, whatever is traced uses XLA's own convolutions, on every backend.

    To count operations, to compare, to find out what is at fault. What was traced before, and is
    in one of jax's caches, stays as it is.
    """
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def conv(
    x: Array,
    kernel: Array,
    *,
    strides: Sequence[int] | None = None,
    padding: Padding = "SAME",
    dilation: Sequence[int] | None = None,
    groups: int = 1,
) -> Array:
    """Convolution (cross-correlation, as everywhere in this field), channels last.

    Args:
      x: [B, *spatial, C_in], one to three spatial axes.
      kernel: [*window, C_in / groups, C_out].
      strides: step along each spatial axis; by default 1.
      padding: "SAME", "VALID", or (before, after) for each spatial axis.
      dilation: distance between the taps of the kernel along each spatial axis; by default 1.
      groups: how many groups of channels are convolved apart.

    Returns:
      [B, *out, C_out], equal to `jax.lax.conv_general_dilated` up to the order of sums.

    Raises:
      AssertionError: if ranks or channel counts don't fit.
    """
    rank = x.ndim - 2
    chex.assert_rank(kernel, rank + 2)
    chex.assert_axis_dimension(kernel, -2, x.shape[-1] // groups)
    strides = tuple(strides or (1,) * rank)
    dilation = tuple(dilation or (1,) * rank)
    window = kernel.shape[:-2]
    reach = [(w - 1) * d + 1 for w, d in zip(window, dilation, strict=True)]
    pads = _explicit_padding(x.shape[1:-1], reach, strides, padding)
    if not _uses_patches(groups):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            strides,
            pads,
            rhs_dilation=dilation,
            dimension_numbers=_channels_last(rank),
            feature_group_count=groups,
        )
    out = [
        (n + lo + hi - r) // s + 1
        for n, (lo, hi), r, s in zip(x.shape[1:-1], pads, reach, strides, strict=True)
    ]
    offsets = [tuple(t * d for t, d in zip(tap, dilation, strict=True)) for tap in _taps(window)]

    def of_chunk(images: Array, kernel: Array) -> Array:
        images = jnp.pad(images, [(0, 0), *pads, (0, 0)])
        patches = _gather_patches(images, offsets, strides, out)
        return jnp.matmul(patches, kernel.reshape(-1, kernel.shape[-1]))

    patch_bytes = math.prod(out) * len(offsets) * x.shape[-1] * x.dtype.itemsize
    return _in_chunks(of_chunk, x, kernel, patch_bytes)


def conv_transpose(
    x: Array, kernel: Array, *, strides: Sequence[int] | None = None, padding: Padding = "SAME"
) -> Array:
    """Transposed convolution ("deconvolution"), channels last.

    With stride s, output position s * q + a sees only every s-th tap of the kernel. So each of
    the `prod(strides)` phases a is a small ordinary convolution of the input, and the phases,
    interleaved, are the output: no zeros are multiplied and no kernel is reversed.

    Args:
      x: [B, *spatial, C_in].
      kernel: [*window, C_in, C_out].
      strides: growth along each spatial axis; by default 1.
      padding: "SAME" (out = in * stride), "VALID" (out = in * stride + max(window - stride, 0)),
        or the (before, after) by which the input, filled with stride - 1 zeros between
        neighbours, is padded.

    Returns:
      [B, *out, C_out], equal to `jax.lax.conv_transpose` up to the order of sums.

    Raises:
      AssertionError: if ranks or channel counts don't fit.
    """
    rank = x.ndim - 2
    chex.assert_rank(kernel, rank + 2)
    chex.assert_axis_dimension(kernel, -2, x.shape[-1])
    strides = tuple(strides or (1,) * rank)
    if not _uses_patches(groups=1):
        return jax.lax.conv_transpose(
            x, kernel, strides, padding, dimension_numbers=_channels_last(rank)
        )
    window = kernel.shape[:-2]
    pads = [
        _transpose_padding(w, s, padding if isinstance(padding, str) else padding[i])
        for i, (w, s) in enumerate(zip(window, strides, strict=True))
    ]
    out = [
        (n - 1) * s + 1 + lo + hi - w + 1
        for n, s, (lo, hi), w in zip(x.shape[1:-1], strides, pads, window, strict=True)
    ]
    grown = [-(-n // s) for n, s in zip(out, strides, strict=True)]
    # Along one axis, with the zeros filled in, out[s*q + a] = sum_t k[t] * filled[s*q + a + t],
    # where filled[i] is x[(i - lo) / s] if s divides i - lo, else 0. So phase a uses the taps
    # t = (lo - a) mod s, and tap t reads x[q + (a + t - lo) / s].
    axes = []
    for n, s, (lo, _), w, q in zip(x.shape[1:-1], strides, pads, window, grown, strict=True):
        phases = [[(t, (a + t - lo) // s) for t in range((lo - a) % s, w, s)] for a in range(s)]
        shifts = [shift for taps in phases for _, shift in taps]
        before = max(0, -min(shifts, default=0))
        after = max(0, max(shifts, default=0) + q - n)
        axes.append((phases, before, after))

    def of_chunk(images: Array, kernel: Array) -> Array:
        images = jnp.pad(images, [(0, 0), *((b, a) for _, b, a in axes), (0, 0)])
        outputs = []
        for phase in _taps(strides):
            per_axis = [axes[i][0][a] for i, a in enumerate(phase)]
            choices = list(_taps([len(taps) for taps in per_axis]))
            if not choices:  # a stride longer than the window leaves phases without a tap
                zeros = jnp.zeros((images.shape[0], *grown, kernel.shape[-1]), images.dtype)
                outputs.append(zeros)
                continue
            picked = [[per_axis[i][j] for i, j in enumerate(choice)] for choice in choices]
            offsets = [
                tuple(shift + axes[i][1] for i, (_, shift) in enumerate(taps)) for taps in picked
            ]
            rows = jnp.concatenate([kernel[tuple(t for t, _ in taps)] for taps in picked], axis=0)
            patches = _gather_patches(images, offsets, (1,) * rank, grown)
            outputs.append(jnp.matmul(patches, rows))
        return _interleave(outputs, strides, out)

    patch_bytes = math.prod(grown) * math.prod(window) * x.shape[-1] * x.dtype.itemsize
    return _in_chunks(of_chunk, x, kernel, patch_bytes)


def _uses_patches(groups: int) -> bool:
    return jax.default_backend() == "cpu" and groups == 1 and not _plain.get()


def _channels_last(rank: int) -> tuple[str, str, str]:
    spatial = "DHW"[3 - rank :]
    return f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"


def _taps(window: Sequence[int]) -> list[tuple[int, ...]]:
    """Every index into an array of this shape, last axis fastest."""
    taps: list[tuple[int, ...]] = [()]
    for size in window:
        taps = [(*tap, i) for tap in taps for i in range(size)]
    return taps


def _explicit_padding(
    spatial: Sequence[int], reach: Sequence[int], strides: Sequence[int], padding: Padding
) -> list[tuple[int, int]]:
    if not isinstance(padding, str):
        return [(lo, hi) for lo, hi in padding]
    return list(jax.lax.padtype_to_pads(spatial, reach, strides, padding))


def _transpose_padding(window: int, stride: int, padding: str | tuple[int, int]) -> tuple[int, int]:
    """Padding of the zero-filled input that gives the documented output size (as lax does it)."""
    if not isinstance(padding, str):
        return padding[0], padding[1]
    if padding == "SAME":
        total = window + stride - 2
        before = window - 1 if stride > window - 1 else -(-total // 2)
    elif padding != "VALID":
        raise ValueError(f"unknown padding {padding!r}; choose 'SAME', 'VALID' or numbers")
    else:
        total = window + stride - 2 + max(window - stride, 0)
        before = window - 1
    return before, total - before


def _gather_patches(
    images: Array,
    offsets: Sequence[tuple[int, ...]],
    strides: Sequence[int],
    out: Sequence[int],
) -> Array:
    """[B, *out, taps * C]: for each output position the inputs that its taps read."""
    slices = []
    for offset in offsets:
        stops = [o + (n - 1) * s + 1 for o, n, s in zip(offset, out, strides, strict=True)]
        slices.append(
            jax.lax.slice(
                images,
                (0, *offset, 0),
                (images.shape[0], *stops, images.shape[-1]),
                (1, *strides, 1),
            )
        )
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
