"""The mean as a sum and a count, which merge exactly over steps, devices and padded batches."""

import dataclasses
import operator

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.typing import Array

__all__ = ["Mean"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean that is not divided until the end.

    A mean of per-batch means is wrong as soon as one batch is padded; a sum and a count are not.

    >>> a = Mean.of(jnp.array([1.0, 2.0]))
    >>> b = Mean.of(jnp.array([6.0, 99.0]), jnp.array([True, False]))
    >>> (a + b).compute()
    3.0

    Attributes:
      total: [] float32, the sum of the values that count.
      count: [] float32, how many they are (exact up to 2**24).
    """

    total: Array
    count: Array

    @classmethod
    def of(cls, values: Array, mask: Array | None = None) -> "Mean":
        """Sums the values that the mask keeps.

        Args:
          values: [B], or any shape; one per example.
          mask: bool in the shape of `values`, False on padding; None keeps all. What it drops
            may be anything, NaN included.
        """
        values = jnp.asarray(values, jnp.float32)
        if mask is None:
            return cls(values.sum(), jnp.full((), values.size, jnp.float32))
        chex.assert_equal_shape([values, mask])
        keep = mask.astype(bool)
        return cls(jnp.where(keep, values, 0.0).sum(), keep.sum(dtype=jnp.float32))

    def __add__(self, other: "Mean") -> "Mean":
        """The mean of both; over devices, `jaxnets.devices.axis.psum` of it is the merge."""
        chex.assert_trees_all_equal_shapes(self, other)
        merged: Mean = jax.tree.map(operator.add, self, other)
        return merged

    def on_device(self) -> Array:
        """The mean as an array [], inside a compiled program; 0 if nothing was counted."""
        return self.total / jnp.maximum(self.count, 1.0)

    def compute(self) -> float:
        """The mean on the host, in float64; NaN if nothing was counted."""
        total, count = np.float64(self.total), np.float64(self.count)
        return float(total / count) if count else float("nan")
