"""Pairs of features, block by block: no matrix of all pairs is ever whole.

Features lie on the host in float32; a block of rows and a block of columns go to the devices, and
what comes back has one entry for each row or column.

A squared distance is `|x|^2 + |y|^2 - 2 x.y`, which is a matrix product, and which cancels: its
error is a share of `|x|^2 + |y|^2`, not of itself. So everything is centred first, in float64, on
the mean of the reference, and what remains is bounded by `rounding`. Products are taken in full
float32 also where the hardware would rather not (TF32, bfloat16).
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from numpy.typing import ArrayLike

from jaxnets.errors import UserError
from jaxnets.typing import DATA_AXIS, Array

__all__ = [
    "BLOCK",
    "Points",
    "blocks",
    "centred",
    "checked",
    "inner",
    "on_mesh",
    "padded",
    "rounding",
    "row_block",
    "squared_distances",
]

#: Squares of larger features, summed, would leave float32.
_LARGEST = 1e15

#: Rows and columns of a block: 16 MiB of distances, and matrix products at full speed.
BLOCK = 2048


class Points(NamedTuple):
    """Centred features on the host.

    Attributes:
      values: [N, F] float32.
      squares: [N] float32, their squared lengths, summed in float64.
    """

    values: np.ndarray
    squares: np.ndarray

    def __len__(self) -> int:
        return len(self.values)


def checked(features: ArrayLike, name: str, dims: int | None = None) -> np.ndarray:
    """Features as [N, F] on the host, in a type that numpy computes with.

    Args:
      features: [N, F], any float type.
      name: what they are of, for the message.
      dims: F, where it is given by another set.

    Raises:
      UserError: if they are not finite, or have another number of dimensions than `dims`.
    """
    values = np.asarray(features)
    if values.dtype != np.float64:
        values = values.astype(np.float32, copy=False)  # bfloat16, integers
    if values.ndim != 2:
        raise ValueError(f"{name} have features of shape {values.shape}; they must be [N, F].")
    if dims is not None and values.shape[1] != dims:
        raise UserError(
            f"features of {values.shape[1]} ({name}) and of {dims} dimensions do not compare; "
            "use one extractor for all sets."
        )
    if not (np.abs(values) <= _LARGEST).all():
        raise UserError(
            f"the features of {name} hold NaN or numbers beyond {_LARGEST:.0e}; check the images "
            "and the extractor."
        )
    return values


def centred(values: np.ndarray, centre: np.ndarray) -> Points:
    """The features less a centre [F], which is subtracted in float64."""
    out = np.empty(values.shape, np.float32)
    np.subtract(values, centre, out=out, dtype=np.float64, casting="same_kind")
    squares = np.einsum("nf,nf->n", out, out, dtype=np.float64, casting="safe")
    return Points(out, squares.astype(np.float32))


def rounding(dims: int) -> float:
    """How wrong a squared distance in float32 may be, as a share of `|x|^2 + |y|^2`.

    Errors of a sum of F products add up like the steps of a random walk: 3e-6 for 512 features.
    """
    return float(np.finfo(np.float32).eps * (2.0 + np.sqrt(dims)))


def inner(rows: Array, columns: Array) -> Array:
    """[R, C] products of rows [R, F] and columns [C, F], in float32 on every device."""
    return jnp.matmul(rows, columns.T, precision=jax.lax.Precision.HIGHEST)


def squared_distances(
    rows: Array, row_squares: Array, columns: Array, column_squares: Array
) -> tuple[Array, Array]:
    """[R, C] squared distances, and how wrong each of them may be."""
    sums = row_squares[:, None] + column_squares[None, :]
    return sums - 2.0 * inner(rows, columns), rounding(rows.shape[1]) * sums


def row_block(count: int, block: int, mesh: Mesh | None) -> int:
    """Rows to a block: `block` at most, as many as there are, and the same on every device."""
    if block < 1:
        raise UserError(f"blocks of {block} rows; give them at least 1.")
    devices = 1 if mesh is None else mesh.size
    return -(-min(count, block) // devices) * devices


def blocks(count: int, size: int) -> Iterator[slice]:
    """Slices of `size` that cover `count`; the last may be shorter."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def padded(array: np.ndarray, size: int, fill: float = 0) -> np.ndarray:
    """The array with its first axis filled up to `size`."""
    missing = size - len(array)
    if not missing:
        return array
    return np.pad(
        array, [(0, missing)] + [(0, 0)] * (array.ndim - 1), constant_values=array.dtype.type(fill)
    )


def on_mesh(
    function: Callable[..., Any], mesh: Mesh | None, arguments: str, results: str
) -> Callable[..., Any]:
    """The function compiled, its rows spread over the devices of a mesh.

    Args:
      function: pure, of arrays; what it sums over rows it must bring together by
        `jaxnets.devices.axis.psum`.
      mesh: devices of this process, or None for the default one.
      arguments: a letter for each: "r" for rows (divided along the first axis), "w" for whole.
      results: the same, for a tuple of results.
    """
    if mesh is None or mesh.size == 1:
        return jax.jit(function)
    specs = {"r": PartitionSpec(DATA_AXIS), "w": PartitionSpec()}
    return jax.jit(
        jax.shard_map(
            function,
            mesh=mesh,
            in_specs=tuple(specs[letter] for letter in arguments),
            out_specs=tuple(specs[letter] for letter in results),
            check_vma=False,  # what is equal on all devices is so by psum, which it can't see
        )
    )
