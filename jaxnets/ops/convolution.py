"""Convolution and transposed convolution, in the form that is fast where they run.

On GPU and TPU that is XLA's own convolution. On CPU it is not: XLA hands the gradients of a
convolution, and everything inside a loop, to an unoptimised loop nest, 3 to 11 times slower than
its matrix product. There the work goes, in this order, to

- `jaxnets.ops.native`, kernels compiled for this machine;
- `jaxnets.ops.patches`, plain JAX, where there are no such kernels or the type is float64: matrix
  products, and shifted multiply-adds for depthwise convolutions.

All of them can be differentiated any number of times in either direction, and mapped by `vmap`.
The choice is made in `form`, once for every caller.
"""

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp

from jaxnets.ops import bilinear, endings, native, patches, windows
from jaxnets.ops.bilinear import Geometry
from jaxnets.ops.endings import Ending
from jaxnets.ops.windows import Padding
from jaxnets.typing import Array

__all__ = ["Form", "conv", "conv_transpose", "form", "plain_convolutions"]

Form = Literal["xla", "native", "patches", "depthwise"]

_plain = contextvars.ContextVar("plain", default=False)


@contextlib.contextmanager
def plain_convolutions() -> Iterator[None]:
    """Within it, whatever is traced uses XLA's own convolutions, on every backend.

    To count operations, to compare, to export a program for other machines. What was traced
    before, and is in one of jax's caches, stays as it is.
    """
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def form(dtype: Any, *, channels: int = 1, groups: int = 1, features: int | None = None) -> Form:
    """How a convolution traced now is written.

    Args:
      dtype: of its input and kernel.
      channels: of its input.
      groups: of these channels.
      features: channels of its output; by default as many as of its input.

    Returns:
      "xla" (its own convolution), "native", "patches" or "depthwise".
    """
    if _plain.get() or jax.default_backend() != "cpu":
        return "xla"
    depthwise = groups > 1 and groups == channels
    # The kernels take one output channel for each of a depthwise convolution's input channels.
    copies = depthwise and features not in (None, channels)
    if jnp.dtype(dtype).itemsize <= 4 and not copies and native.available():
        return "native"
    return "depthwise" if depthwise else "patches"


def conv(
    x: Array,
    kernel: Array,
    *,
    strides: Sequence[int] | None = None,
    padding: Padding = "SAME",
    kernel_dilation: Sequence[int] | None = None,
    groups: int = 1,
    ending: Ending | None = None,
) -> Array:
    """Convolution (cross-correlation, as everywhere in this field), channels last.

    Args:
      x: [B, *spatial, C_in], one to three spatial axes.
      kernel: [*window, C_in / groups, C_out].
      strides: step along each spatial axis; by default 1.
      padding: "SAME" or "VALID"; or pixels: one number, or a number or (before, after) for each
        axis.
      kernel_dilation: distance between neighbouring taps of the kernel, by default 1.
      groups: how many groups of channels are convolved apart.
      ending: what follows; the native kernels do it before they store a sum.

    Returns:
      [B, *out, C_out], equal to `jax.lax.conv_general_dilated` up to the order of sums.

    Raises:
      AssertionError, ValueError: if ranks, channel counts or the padding don't fit.
    """
    rank = x.ndim - 2
    chex.assert_rank(kernel, rank + 2)
    chex.assert_axis_dimension(kernel, -2, x.shape[-1] // groups)
    strides = tuple(strides or (1,) * rank)
    dilation = tuple(kernel_dilation or (1,) * rank)
    reach = [(w - 1) * d + 1 for w, d in zip(kernel.shape[:-2], dilation, strict=True)]
    pads = windows.explicit_padding(x.shape[1:-1], reach, strides, padding)
    how = form(x.dtype, channels=x.shape[-1], groups=groups, features=kernel.shape[-1])
    if how == "xla":
        y = jax.lax.conv_general_dilated(
            x,
            kernel,
            strides,
            pads,
            rhs_dilation=dilation,
            dimension_numbers=windows.channels_last(rank),
            feature_group_count=groups,
        )
        return ending(y) if ending else y
    outputs = tuple(
        max(0, (n + lo + hi - r) // s + 1)
        for n, (lo, hi), r, s in zip(x.shape[1:-1], pads, reach, strides, strict=True)
    )
    before = tuple(lo for lo, _ in pads)
    sizes = x.shape[1:-1], outputs, kernel.shape[:-2]
    geometry = Geometry(*sizes, strides, before, dilation, groups)
    if how == "native" and ending is not None and ending.native:
        return _in_float32(partial(endings.conv, ending=ending), x, kernel, geometry)
    in_patches = {"depthwise": patches.depthwise, "patches": patches.conv}
    y = in_patches.get(how, partial(_in_float32, bilinear.conv))(x, kernel, geometry)
    return ending(y) if ending else y


def conv_transpose(
    x: Array,
    kernel: Array,
    *,
    strides: Sequence[int] | None = None,
    padding: Padding = "SAME",
) -> Array:
    """Transposed convolution ("deconvolution"), channels last.

    Args:
      x: [B, *spatial, C_in].
      kernel: [*window, C_in, C_out].
      strides: growth along each spatial axis; by default 1.
      padding: "SAME" (out = in * stride); "VALID" (out = in * stride + max(window - stride, 0));
        or the (before, after) by which the input, filled with stride - 1 zeros between
        neighbours, is padded, in the forms that `conv` takes.

    Returns:
      [B, *out, C_out], equal to `jax.lax.conv_transpose` up to the order of sums.

    Raises:
      AssertionError: if ranks or channel counts don't fit.
      ValueError: if the padding is none of these.
    """
    rank = x.ndim - 2
    chex.assert_rank(kernel, rank + 2)
    chex.assert_axis_dimension(kernel, -2, x.shape[-1])
    strides = tuple(strides or (1,) * rank)
    window = kernel.shape[:-2]
    pads = _transpose_padding(window, strides, padding)
    how = form(x.dtype)
    if how == "xla":
        return jax.lax.conv_transpose(
            x, kernel, strides, pads, dimension_numbers=windows.channels_last(rank)
        )
    # With the zeros filled in, out[i] = sum_t kernel[t] * filled[i + t - lo]: what a convolution
    # with the kernel read backwards (and its channels exchanged) hands back to its input.
    geometry = Geometry(
        inputs=tuple(
            max(0, (n - 1) * s + 1 + lo + hi - w + 1)
            for n, s, (lo, hi), w in zip(x.shape[1:-1], strides, pads, window, strict=True)
        ),
        outputs=x.shape[1:-1],
        window=window,
        strides=strides,
        before=tuple(w - 1 - lo for w, (lo, _) in zip(window, pads, strict=True)),
        dilation=(1,) * rank,
    )
    kernel = jnp.flip(kernel, range(rank)).swapaxes(-1, -2)
    if how == "native":
        return _in_float32(bilinear.input_gradient, x, kernel, geometry)
    return patches.input_gradient(x, kernel, geometry)


def _in_float32(function: Any, x: Array, kernel: Array, geometry: Geometry) -> Array:
    """The native kernels' only type; half precision is no faster on a CPU and less exact."""
    y = function(x.astype(jnp.float32), kernel.astype(jnp.float32), geometry)
    return y.astype(x.dtype)


def _transpose_padding(
    window: Sequence[int], strides: Sequence[int], padding: Padding
) -> list[tuple[int, int]]:
    """Padding of the zero-filled input that gives the documented output size (as lax does it)."""
    if padding not in ("SAME", "VALID"):
        return windows.explicit_padding((), window, strides, padding)
    pads = []
    for w, s in zip(window, strides, strict=True):
        total, before = w + s - 2, w - 1
        if padding == "VALID":
            total += max(w - s, 0)
        elif s <= w - 1:
            before = -(-total // 2)
        pads.append((before, total - before))
    return pads
