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

#: What "CIRCULAR" and "REFLECT" are to `jnp.pad`.
_COPIES = {"CIRCULAR": "wrap", "REFLECT": "reflect"}

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
    input_dilation: Sequence[int] | None = None,
    kernel_dilation: Sequence[int] | None = None,
    groups: int = 1,
    precision: Any = None,
    ending: Ending | None = None,
) -> Array:
    """Convolution (cross-correlation, as everywhere in this field), channels last.

    Args:
      x: [B, *spatial, C_in], one to three spatial axes.
      kernel: [*window, C_in / groups, C_out].
      strides: step along each spatial axis; by default 1.
      padding: "SAME" or "VALID"; "CIRCULAR" or "REFLECT", "SAME" with the image repeated or
        mirrored in place of zeros; "CAUSAL" (one axis; an output sees nothing later); or pixels:
        one number, or a number or (before, after) for each axis.
      input_dilation: distance to which neighbouring pixels are moved apart, by default 1; above 1
        the padding must be numbers.
      kernel_dilation: distance between neighbouring taps of the kernel, by default 1.
      groups: how many groups of channels are convolved apart.
      precision: of XLA's own form, see `jax.lax.Precision`; the others have all digits anyway.
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
    spread = tuple(input_dilation or (1,) * rank)
    dilation = tuple(kernel_dilation or (1,) * rank)
    reach = _reach(kernel.shape[:-2], dilation)
    if max(spread) > 1 and isinstance(padding, str):
        raise ValueError(f"with input_dilation give the padding in numbers, not {padding!r}")
    if isinstance(padding, str) and padding in _COPIES:
        border = [(0, 0), *(((r - 1) // 2, r // 2) for r in reach), (0, 0)]
        x, padding = jnp.pad(x, border, mode=_COPIES[padding]), "VALID"
    elif padding == "CAUSAL":
        if rank > 1:
            raise ValueError(f"causal padding is for one spatial axis, and here are {rank}")
        padding = [(reach[0] - 1, 0)]
    pads = windows.explicit_padding(x.shape[1:-1], reach, strides, padding)
    how = form(x.dtype, channels=x.shape[-1], groups=groups, features=kernel.shape[-1])
    if how == "xla":
        y = jax.lax.conv_general_dilated(
            x,
            kernel,
            strides,
            pads,
            lhs_dilation=spread,
            rhs_dilation=dilation,
            dimension_numbers=windows.channels_last(rank),
            feature_group_count=groups,
            precision=precision,
        )
        return ending(y) if ending else y
    if max(spread) > 1:
        x = windows.pad(x, [(0, 0)] * rank, between=[s - 1 for s in spread])
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
    kernel_dilation: Sequence[int] | None = None,
    transpose_kernel: bool = False,
    precision: Any = None,
) -> Array:
    """Transposed convolution ("deconvolution"), channels last.

    Args:
      x: [B, *spatial, C_in].
      kernel: [*window, C_in, C_out].
      strides: growth along each spatial axis; by default 1.
      padding: "SAME" (out = in * stride); "VALID" (out = in * stride + max(window - stride, 0));
        "CIRCULAR" (as "SAME", and what lies beyond one border comes in at the other); or the
        (before, after) by which the input, filled with stride - 1 zeros between neighbours, is
        padded, in the forms that `conv` takes.
      kernel_dilation: see `conv`.
      transpose_kernel: whether the kernel is [*window, C_out, C_in] and read backwards, so that
        this is the transpose of the `conv` with the same kernel.
      precision: see `conv`.

    Returns:
      [B, *out, C_out], equal to `jax.lax.conv_transpose` up to the order of sums.

    Raises:
      AssertionError: if ranks or channel counts don't fit.
      ValueError: if the padding is none of these.
    """
    rank = x.ndim - 2
    chex.assert_rank(kernel, rank + 2)
    chex.assert_axis_dimension(kernel, -1 if transpose_kernel else -2, x.shape[-1])
    strides = tuple(strides or (1,) * rank)
    dilation = tuple(kernel_dilation or (1,) * rank)
    window = kernel.shape[:-2]
    reach = _reach(window, dilation)
    pads = _transpose_padding(reach, strides, "VALID" if padding == "CIRCULAR" else padding)
    how = form(x.dtype)
    if how == "xla":
        y = jax.lax.conv_transpose(
            x,
            kernel,
            strides,
            pads,
            rhs_dilation=dilation,
            dimension_numbers=windows.channels_last(rank),
            transpose_kernel=transpose_kernel,
            precision=precision,
        )
    else:
        # With the zeros filled in, out[i] = sum_t kernel[t] * filled[i + t - lo]: what a
        # convolution with the kernel read backwards (and its channels exchanged) hands back to its
        # input.
        geometry = Geometry(
            inputs=tuple(
                max(0, (n - 1) * s + 1 + lo + hi - r + 1)
                for n, s, (lo, hi), r in zip(x.shape[1:-1], strides, pads, reach, strict=True)
            ),
            outputs=x.shape[1:-1],
            window=window,
            strides=strides,
            before=tuple(r - 1 - lo for r, (lo, _) in zip(reach, pads, strict=True)),
            dilation=dilation,
        )
        if not transpose_kernel:
            kernel = jnp.flip(kernel, range(rank)).swapaxes(-1, -2)
        if how == "native":
            y = _in_float32(bilinear.input_gradient, x, kernel, geometry)
        else:
            y = patches.input_gradient(x, kernel, geometry)
    if padding == "CIRCULAR":
        periods = [n * s for n, s in zip(x.shape[1:-1], strides, strict=True)]
        y = _wrapped(y, periods, transpose_kernel)
    return y


def _reach(window: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """Pixels from the first to the last tap of a window, both counted."""
    return [(w - 1) * d + 1 for w, d in zip(window, dilation, strict=True)]


def _wrapped(y: Array, periods: Sequence[int], transposed: bool) -> Array:
    """Sums the pixels that lie a period apart along each spatial axis."""
    for axis, period in enumerate(periods, start=1):
        # An odd overhang reaches one pixel further where the kernel ends, or begins if transposed.
        start = (y.shape[axis] - period + transposed) // 2
        rest = [(0, 0)] * len(periods)
        rest[axis - 1] = (0, -y.shape[axis] % period)
        y = windows.pad(y, rest)
        y = y.reshape(*y.shape[:axis], -1, period, *y.shape[axis + 1 :]).sum(axis)
        y = jnp.roll(y, -start, axis)
    return y


def _in_float32(function: Any, x: Array, kernel: Array, geometry: Geometry) -> Array:
    """The native kernels' only type; half precision is no faster on a CPU and less exact."""
    y = function(x.astype(jnp.float32), kernel.astype(jnp.float32), geometry)
    return y.astype(x.dtype)


def _transpose_padding(
    reach: Sequence[int], strides: Sequence[int], padding: Padding
) -> list[tuple[int, int]]:
    """Padding of the zero-filled input that gives the documented output size (as lax does it)."""
    if padding not in ("SAME", "VALID"):
        return windows.explicit_padding((), reach, strides, padding)
    pads = []
    for r, s in zip(reach, strides, strict=True):
        total, before = r + s - 2, r - 1
        if padding == "VALID":
            total += max(r - s, 0)
        elif s <= r - 1:
            before = -(-total // 2)
        pads.append((before, total - before))
    return pads
