"""Kernel distance between features (KID), unbiased, with a standard error that counts both sets."""

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxnets.errors import UserError
from jaxnets.metrics.pairs import checked, row_blocks

__all__ = ["KernelDistance", "kernel_distance"]


@dataclasses.dataclass(frozen=True)
class KernelDistance:
    """An estimate and how far it may be off.

    Attributes:
      value: squared maximum mean discrepancy; 0 on average for two sets of one distribution, so it
        may be negative. Papers print it times 1000.
      standard_error: of `value`, over draws of both sets.
    """

    value: float
    standard_error: float


class _Sums(NamedTuple):
    """Sums of kernel values between two sets, in float64: by row, by column, of all squares."""

    rows: np.ndarray
    columns: np.ndarray
    squares: float


def kernel_distance(samples: ArrayLike, reference: ArrayLike) -> KernelDistance:
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
    below 0.

    Args:
      samples: [N, F] features of generated images, 4 or more.
      reference: [M, F] features of real images, of the same extractor; 4 or more.

    Raises:
      UserError: with fewer than 4 examples in a set, or if features are not finite or do not
        compare.

    Reference:
      Binkowski et al. 2018, Demystifying MMD GANs, arXiv:1801.01401, section 4; Sutherland and
      Deka 2019, Unbiased estimators for the variance of MMD estimators, arXiv:1906.02104.
    """
    y, x = checked(("the reference", reference), ("the samples", samples))
    for name, values in {"samples": x, "reference images": y}.items():
        if len(values) < 4:
            raise UserError(f"a kernel distance of {len(values)} {name}; give it at least 4.")
    xx, yy, xy = _sums(x, x, within=True), _sums(y, y, within=True), _sums(x, y, within=False)
    n, m = len(x), len(y)
    value = (
        xx.rows.sum() / (n * (n - 1))
        + yy.rows.sum() / (m * (m - 1))
        - 2.0 * xy.rows.sum() / (n * m)
    )
    error = np.sqrt(_variance(xx, yy, xy))
    return KernelDistance(float(value), float(error))


def _sums(x: np.ndarray, y: np.ndarray, *, within: bool) -> _Sums:
    """Of `k(x, y)`; `within` leaves out a set's pairs of an example with itself."""
    rows, columns, squares = np.empty(len(x)), np.zeros(len(y)), 0.0
    for here in row_blocks(len(x), len(y)):
        base = (x[here] / x.shape[1]) @ y.T
        base += 1.0
        kernel = np.square(base)
        kernel *= base
        if within:
            np.fill_diagonal(kernel[:, here], 0.0)
        rows[here] = kernel.sum(axis=1)
        columns += kernel.sum(axis=0)
        squares += float(np.vdot(kernel, kernel))
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
