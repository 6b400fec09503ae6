"""Convolution as three bilinear maps, each of which is the others' derivative.

A convolution y = conv(x, k) is linear in its input and linear in its kernel. So is the gradient
in the input, a bilinear map of (slope, kernel), and the gradient in the kernel, one of (input,
slope). The transpose of any of the three with respect to either argument is another of the three:
all of differentiation, in both directions and any number of times, stays among them. A transposed
convolution is the gradient in the input, of a kernel read backwards.

As JAX primitives they can be lowered to `jaxnets.ops.native` on a CPU, and to XLA's convolution
anywhere else.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxnets.ops import windows
from jaxnets.typing import Array

__all__ = ["Geometry", "conv", "input_gradient", "kernel_gradient"]


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Which pixels a convolution's output reads.

    Along each spatial axis, output o reads through tap t what lies at `o * stride + t * dilation
    - before`, with zeros outside the input.

    Attributes:
      inputs: size of the input along each spatial axis.
      outputs: of the output.
      window: of the kernel.
      strides: step between neighbouring outputs.
      before: zeros before the input's first pixel; negative cuts pixels off.
      dilation: step between neighbouring taps.
      groups: how many groups of channels are convolved apart.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    before: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1

    def padding(self) -> list[tuple[int, int]]:
        """(before, after) along each spatial axis, as lax takes it."""
        after = (
            (o - 1) * s + (w - 1) * d + 1 - b - n
            for n, o, w, s, b, d in zip(
                self.inputs,
                self.outputs,
                self.window,
                self.strides,
                self.before,
                self.dilation,
                strict=True,
            )
        )
        return list(zip(self.before, after, strict=True))

    def numbers(self, batch: int, in_channels: int, out_channels: int) -> np.ndarray:
        """What the native kernels take: 22 integers, spatial axes filled up to three."""
        ones, zeros = ((fill,) * (3 - len(self.window)) for fill in (1, 0))
        values = [batch, self.groups, in_channels, out_channels]
        for sizes in (self.inputs, self.outputs, self.window, self.strides):
            values += ones + sizes
        values += zeros + self.before + ones + self.dilation
        return np.asarray(values, np.int64)


_conv_p = Primitive("jaxnets_conv")
_input_p = Primitive("jaxnets_conv_input_gradient")
_kernel_p = Primitive("jaxnets_conv_kernel_gradient")


def conv(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """[B, *inputs, C_in] and [*window, C_in / groups, C_out] to [B, *outputs, C_out]."""
    return _conv_p.bind(x, kernel, geometry=geometry)


def input_gradient(slope: Array, kernel: Array, geometry: Geometry) -> Array:
    """[B, *outputs, C_out] and the kernel to [B, *inputs, C_in]: `conv`, transposed in x."""
    return _input_p.bind(slope, kernel, geometry=geometry)


def kernel_gradient(x: Array, slope: Array, geometry: Geometry) -> Array:
    """An input and [B, *outputs, C_out] to the kernel's shape: `conv`, transposed in the kernel."""
    return _kernel_p.bind(x, slope, geometry=geometry)


def _lax_conv(x: Array, kernel: Array, *, geometry: Geometry) -> Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        geometry.strides,
        geometry.padding(),
        rhs_dilation=geometry.dilation,
        dimension_numbers=windows.channels_last(len(geometry.window)),
        feature_group_count=geometry.groups,
    )


def _lax_input_gradient(slope: Array, kernel: Array, *, geometry: Geometry) -> Array:
    shape = (slope.shape[0], *geometry.inputs, kernel.shape[-2] * geometry.groups)
    x = jax.ShapeDtypeStruct(shape, slope.dtype)
    transposed = jax.linear_transpose(lambda x: _lax_conv(x, kernel, geometry=geometry), x)
    return transposed(slope)[0]


def _lax_kernel_gradient(x: Array, slope: Array, *, geometry: Geometry) -> Array:
    shape = (*geometry.window, x.shape[-1] // geometry.groups, slope.shape[-1])
    kernel = jax.ShapeDtypeStruct(shape, x.dtype)
    transposed = jax.linear_transpose(lambda k: _lax_conv(x, k, geometry=geometry), kernel)
    return transposed(slope)[0]


def _lower_native(target: str, ctx: Any, a: Any, b: Any, *, geometry: Geometry) -> Any:
    (first, second), (out,) = ctx.avals_in, ctx.avals_out
    images, slopes = {
        "jaxnets_conv": (first, out),
        "jaxnets_conv_input_gradient": (out, first),
        "jaxnets_conv_kernel_gradient": (first, second),
    }[target]
    numbers = geometry.numbers(images.shape[0], images.shape[-1], slopes.shape[-1])
    return jax.ffi.ffi_lowering(target)(ctx, a, b, geometry=numbers)


def _batch(
    primitive: Primitive, args: Sequence[Array], dims: Sequence[int | None], *, geometry: Geometry
) -> tuple[Array, int]:
    """Examples of a batch are independent: another axis of them is more examples.

    Only where the kernel (given, or asked for) has that axis too are there several convolutions.
    """
    of_images = [
        None if d is None else jnp.moveaxis(a, d, 0) for a, d in zip(args, dims, strict=True)
    ]
    bind = functools.partial(primitive.bind, geometry=geometry)
    if primitive is not _kernel_p and dims[1] is None:
        x = of_images[0]
        assert x is not None
        y = bind(x.reshape(-1, *x.shape[2:]), args[1])
        return y.reshape(*x.shape[:2], *y.shape[1:]), 0

    def one(members: tuple[Array | None, ...]) -> Array:
        return bind(*(a if m is None else m for a, m in zip(args, members, strict=True)))

    return jax.lax.map(one, tuple(of_images)), 0


def _define(primitive: Primitive, shape: Any, fallback: Any, first: Any, second: Any) -> None:
    """Gives a primitive its meaning; `first` and `second` are its transposes' rules."""

    def abstract(a: Any, b: Any, *, geometry: Geometry) -> Any:
        return a.update(shape=shape(a.shape, b.shape, geometry), weak_type=False)

    primitive.def_abstract_eval(abstract)
    primitive.def_impl(lambda a, b, *, geometry: _apply(primitive, geometry)(a, b))
    ad.defbilinear(primitive, first, second)
    batching.primitive_batchers[primitive] = functools.partial(_batch, primitive)
    mlir.register_lowering(primitive, mlir.lower_fun(fallback, multiple_results=False))
    mlir.register_lowering(
        primitive, functools.partial(_lower_native, primitive.name), platform="cpu"
    )


@functools.cache
def _apply(primitive: Primitive, geometry: Geometry) -> Any:
    return jax.jit(functools.partial(primitive.bind, geometry=geometry))


_define(
    _conv_p,
    lambda x, k, g: (x[0], *g.outputs, k[-1]),
    _lax_conv,
    lambda ct, x, kernel, *, geometry: input_gradient(ct, kernel, geometry),
    lambda ct, x, kernel, *, geometry: kernel_gradient(x, ct, geometry),
)
_define(
    _input_p,
    lambda slope, k, g: (slope[0], *g.inputs, k[-2] * g.groups),
    _lax_input_gradient,
    lambda ct, slope, kernel, *, geometry: conv(ct, kernel, geometry),
    lambda ct, slope, kernel, *, geometry: kernel_gradient(ct, slope, geometry),
)
_define(
    _kernel_p,
    lambda x, slope, g: (*g.window, x[-1] // g.groups, slope[-1]),
    _lax_kernel_gradient,
    lambda ct, x, slope, *, geometry: input_gradient(slope, ct, geometry),
    lambda ct, x, slope, *, geometry: conv(x, ct, geometry),
)
