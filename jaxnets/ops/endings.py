"""What follows a convolution in evaluation, done before its sums are stored."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.ops import bilinear
from jaxnets.ops.bilinear import Geometry
from jaxnets.typing import Array

__all__ = ["Activation", "Ending", "conv"]

Activation = Callable[[Array], Array] | None

#: Between which values an activation keeps its input: those that the native kernels know.
_LIMITS: dict[Any, tuple[float, float]] = {
    None: (-np.inf, np.inf),
    jax.nn.relu: (0.0, np.inf),
    jax.nn.relu6: (0.0, 6.0),
}


class Ending(NamedTuple):
    """act(y * scale + shift + add), of the result y [B, *spatial, C] of a convolution.

    Attributes:
      scale: [C] float32.
      shift: [C] float32.
      add: as large as y, if anything is added.
      act: the activation, if there is one.
    """

    scale: Array
    shift: Array
    add: Array | None = None
    act: Activation = None

    @property
    def native(self) -> bool:
        """Whether the native kernels can do it."""
        return self.act in _LIMITS

    def __call__(self, y: Array) -> Array:
        """Computed in float32 after the convolution; of y's type."""
        shape = (1,) * (y.ndim - 1) + self.scale.shape
        z = y.astype(jnp.float32) * self.scale.reshape(shape) + self.shift.reshape(shape)
        z = z if self.add is None else z + self.add
        return (z if self.act is None else self.act(z)).astype(y.dtype)


def conv(x: Array, kernel: Array, geometry: Geometry, ending: Ending) -> Array:
    """`bilinear.conv` with an ending that is `native`; derivatives are those of the two apart."""
    return _conv(geometry, ending.act, x, kernel, *ending[:3])


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _conv(geometry: Geometry, act: Activation, *arrays: Any) -> Array:
    @jax.custom_batching.custom_vmap
    def call(x: Array, kernel: Array, scale: Array, shift: Array, add: Array | None) -> Array:
        sizes = x.shape[0], x.shape[-1], kernel.shape[-1]
        result = jax.ShapeDtypeStruct((sizes[0], *geometry.outputs, sizes[2]), jnp.float32)
        low, high = map(np.float32, _LIMITS[act])
        options: Any = {"geometry": geometry.numbers(*sizes), "low": low, "high": high}
        add = jnp.zeros((0,)) if add is None else add.astype(jnp.float32)
        return jax.ffi.ffi_call("jaxnets_conv_ending", result)(
            x, kernel, scale, shift, add, **options
        )

    @call.def_vmap
    def _(size: int, batched: Any, *arrays: Any) -> tuple[Array, bool]:
        axes = jax.tree.map(lambda each: 0 if each else None, tuple(batched))
        return jax.vmap(functools.partial(_apart, geometry, act), axes)(*arrays), True

    return call(*arrays)


def _apart(geometry: Geometry, act: Activation, x: Array, kernel: Array, *arrays: Any) -> Array:
    return Ending(*arrays, act=act)(bilinear.conv(x, kernel, geometry))


@_conv.defjvp
def _(geometry: Geometry, act: Activation, primals: Any, tangents: Any) -> Any:
    return jax.jvp(functools.partial(_apart, geometry, act), primals, tangents)
