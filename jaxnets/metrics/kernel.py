"""Kernel distance between features (KID), unbiased, with a standard error that counts both sets."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from numpy.typing import ArrayLike

from jaxnets.devices import axis
from jaxnets.errors import UserError
from jaxnets.metrics.blocks import BLOCK, blocks, checked, inner, on_mesh, padded, row_block
from jaxnets.typing import Array

__all__ = ["KernelDistance", "kernel_distance"]

#: Numbers of padding in rows and in columns; they differ from each other and from all that count.
_NO_ROW, _NO_COLUMN = -2, -1


@dataclasses.dataclass(frozen=True)
class KernelDistance:
    """An estimate and how far it may be off.

    Attributes:
      value: squared maximum mean discrepancy; 0 on average for two sets of one distribution, so it
        may be negative. Papers print it times 1000.
      standard_error: of `value`, over draws of both sets.
      samples: how many there were.
      reference: how many real images.
    """

    value: float
    standard_error: float
    samples: int
    reference: int


class _Sums(NamedTuple):
    """Sums of kernel values between two sets, in float64: by row, by column, of all squares."""

    rows: np.ndarray
    columns: np.ndarray
    squares: float


@functools.cache
def _summed(mesh: Mesh | None) -> Callable[..., Any]:
    """Compiled: a block of kernel values, summed by row and by column."""

    def step(
        rows: Array, row_index: Array, columns: Array, column_index: Array, one: Array, shift: Array
    ) -> tuple[Array, Array, Array]:
        kernel = (inner(rows, columns) + one) ** 3 - shift
        # A set's pairs of an example with itself don't count, nor does padding.
        left_out = (row_index[:, None] == column_index[None, :]) | (row_index[:, None] == _NO_ROW)
        kernel = jnp.where(left_out | (column_index[None, :] == _NO_COLUMN), 0.0, kernel)
        return kernel.sum(axis=1), axis.psum(kernel.sum(axis=0)), jnp.square(kernel).sum(axis=1)

    return on_mesh(step, mesh, "rrwwww", "rwr")


def kernel_distance(
    samples: ArrayLike, reference: ArrayLike, *, mesh: Mesh | None = None, block: int = BLOCK
) -> KernelDistance:
    """KID: the squared MMD of all samples and all real images, `k(x, y) = (x.y / F + 1)^3`.

    `mean_{i!=j} k(x_i, x_j) + mean_{i!=j} k(y_i, y_j) - 2 mean_{i,j} k(x_i, y_j)`, of every pair
    there is. Papers average it over random subsets and print their spread, which is neither the
    error of the average nor independent of the subsets' size. Here the variance is that of the
    estimator itself by Hoeffding's decomposition, every part of it estimated without bias out of
    sums by row: also where the sets are alike and the first order vanishes. An order that chance
    makes negative counts as 0.

    For Gaussians of 60 to 1000 examples, 1.96 standard errors hold the truth in 93 to 95% of draws,
    and in 98 to 100% where the distributions are one: there the error is up to a fifth too large.
    The sets must be independent: two copies of one set are nearer than two draws, so their value is
    below 0. Kernel values are float32, less a constant that cancels, and their sums float64: the
    value is off by about 1e-7 of a mean kernel value.

    Args:
      samples: [N, F] features of generated images, 4 or more.
      reference: [M, F] features of real images, of the same extractor; 4 or more.
      mesh: devices of this process over which rows are spread; by default one device.
      block: rows and columns of the kernel matrix that are in memory at a time.

    Raises:
      UserError: with fewer than 4 examples in a set, or if features are not finite or do not
        compare.

    Reference:
      Binkowski et al. 2018, Demystifying MMD GANs, arXiv:1801.01401, section 4; Sutherland and
      Deka 2019, Unbiased estimators for the variance of MMD estimators, arXiv:1906.02104.
    """
    real = checked(reference, "the reference")
    made = checked(samples, "the samples", real.shape[1])
    for name, values in {"samples": made, "reference images": real}.items():
        if len(values) < 4:
            raise UserError(f"a kernel distance of {len(values)} {name}; give it at least 4.")
    x, y, one, shift, scale = _scaled(made, real)
    program = functools.partial(_sums, one=one, shift=shift, mesh=mesh, block=block)
    xx, yy, xy = program(x, x, within=True), program(y, y, within=True), program(x, y, within=False)
    n, m = len(x), len(y)
    value = (
        xx.rows.sum() / (n * (n - 1))
        + yy.rows.sum() / (m * (m - 1))
        - 2.0 * xy.rows.sum() / (n * m)
    )
    error = np.sqrt(_variance(xx, yy, xy))
    return KernelDistance(float(scale * value), float(scale * error), n, m)


def _scaled(
    made: np.ndarray, real: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.float32, np.float32, float]:
    """Both sets, 1, and the kernel at the mean, all in a scale in which kernel values are near 1.

    The scale keeps squares of kernel values, sixth powers of features, inside float32. The kernel
    at the mean, when it is taken from every value, cancels in the distance and in its variance,
    and leaves more digits to both.
    """
    dims, count = real.shape[1], len(made) + len(real)
    squares = sum(
        np.einsum("nf,nf->", v, v, dtype=np.float64, casting="safe") for v in (made, real)
    )
    size = float(squares) / count / dims + 1.0
    root = np.sqrt(size * dims)
    x, y = ((values / root).astype(np.float32) for values in (made, real))
    total = sum(values.sum(axis=0, dtype=np.float64) for values in (x, y))
    centre = np.asarray(total) / count
    shift = (centre @ centre + 1.0 / size) ** 3
    return x, y, np.float32(1.0 / size), np.float32(shift), size**3


def _sums(
    x: np.ndarray,
    y: np.ndarray,
    *,
    within: bool,
    one: np.float32,
    shift: np.float32,
    mesh: Mesh | None,
    block: int,
) -> _Sums:
    size, width = row_block(len(x), block, mesh), row_block(len(y), block, None)
    program = _summed(mesh)
    rows, columns, squares = np.zeros(len(x)), np.zeros(len(y)), 0.0
    # Between two sets, rows are numbered after the columns, and none is a column's own.
    first = 0 if within else len(y)
    row_index = np.arange(first, first + len(x), dtype=np.int32)
    column_index = np.arange(len(y), dtype=np.int32)
    for there in blocks(len(y), width):
        column = padded(y[there], width), padded(column_index[there], width, _NO_COLUMN)
        for here in blocks(len(x), size):
            row = padded(x[here], size), padded(row_index[here], size, _NO_ROW)
            by_row, by_column, square = program(*row, *column, one, shift)
            rows[here] += np.asarray(by_row)[: here.stop - here.start]
            columns[there] += np.asarray(by_column)[: there.stop - there.start]
            squares += float(np.asarray(square, np.float64).sum())
    return _Sums(rows, columns, squares)


def _variance(xx: _Sums, yy: _Sums, xy: _Sums) -> float:
    """Variance of the distance: its first order in each set, and its second order in each pair.

    With the witness `a(x) = E k(x, x') - E k(x, y)`, and Var2 the variance of what a function of
    two points has beyond functions of one:
    `4 Var a / n + 4 Var b / m + 2 Var2 k_xx / n(n-1) + 2 Var2 k_yy / m(m-1) + 4 Var2 k_xy / nm`.
    """
    n, m = len(xx.rows), len(yy.rows)
    back = _Sums(xy.columns, xy.rows, xy.squares)
    pairs = xy.squares / (n * m)
    second = pairs - _sharing(xy) - _sharing(back) + _apart_between(xy)
    first = 4.0 / n * _witness(xx, xy) + 4.0 / m * _witness(yy, back)
    second = (
        2.0 / (n * (n - 1)) * _second(xx)
        + 2.0 / (m * (m - 1)) * _second(yy)
        + 4.0 / (n * m) * second
    )
    return max(0.0, first) + max(0.0, second)


def _witness(xx: _Sums, xy: _Sums) -> float:
    """`Var(E k(x, x') - E k(x, y))` over x; every product is of values that share x at most."""
    n, m = len(xx.rows), len(xy.columns)
    mixed = xx.rows @ xy.rows
    total = xx.rows.sum() * xy.rows.sum()
    square = _sharing_within(xx) - 2.0 * mixed / (n * (n - 1) * m) + _sharing(xy)
    apart = 2.0 * (total - 2.0 * mixed) / (n * (n - 1) * (n - 2) * m)
    return square - (_apart_within(xx) - apart + _apart_between(xy))


def _second(xx: _Sums) -> float:
    """Var2 of a set's own kernel."""
    n = len(xx.rows)
    return xx.squares / (n * (n - 1)) - 2.0 * _sharing_within(xx) + _apart_within(xx)


def _sharing_within(xx: _Sums) -> float:
    """`E k(x, x') k(x, x'')`."""
    n = len(xx.rows)
    return float((xx.rows @ xx.rows - xx.squares) / (n * (n - 1) * (n - 2)))


def _apart_within(xx: _Sums) -> float:
    """`(E k(x, x'))^2`, of pairs with no example in common."""
    n = len(xx.rows)
    total = xx.rows.sum()
    squares = total * total - 4.0 * (xx.rows @ xx.rows) + 2.0 * xx.squares
    return squares / (n * (n - 1) * (n - 2) * (n - 3))


def _sharing(xy: _Sums) -> float:
    """`E k(x, y) k(x, y')`."""
    n, m = len(xy.rows), len(xy.columns)
    return float((xy.rows @ xy.rows - xy.squares) / (n * m * (m - 1)))


def _apart_between(xy: _Sums) -> float:
    """`(E k(x, y))^2`, of pairs with no example in common."""
    n, m = len(xy.rows), len(xy.columns)
    total = xy.rows.sum()
    squares = total * total - xy.rows @ xy.rows - xy.columns @ xy.columns + xy.squares
    return squares / (n * (n - 1) * m * (m - 1))
