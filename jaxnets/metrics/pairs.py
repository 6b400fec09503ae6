"""Pairs of features, a block of rows at a time: no matrix of all pairs is ever whole.

Everything is in float64 on the host. A squared distance is `|x|^2 + |y|^2 - 2 x.y`, a matrix
product, whose error is a share of `|x|^2 + |y|^2`: so sets are centred first.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from jaxnets.errors import UserError

__all__ = ["centred", "checked", "row_blocks", "squared_distances"]

#: Of larger features, sums of sixth powers would leave float64.
_LARGEST = 1e15

#: Pairs in memory at a time, 32 MB of them.
_PAIRS = 1 << 22


def checked(reference: tuple[str, ArrayLike], *others: tuple[str, ArrayLike]) -> list[np.ndarray]:
    """Sets of features that compare.

    Args:
      reference: what the features are of, for messages, and the features [N, F], any float type.
      *others: more of them.

    Returns:
      [N, F] float64 for each set.

    Raises:
      UserError: if they are not finite, or differ in F.
    """
    sets = []
    for name, features in (reference, *others):
        values = np.asarray(features).astype(np.float64)
        if values.ndim != 2:
            raise ValueError(f"{name} have features of shape {values.shape}; they must be [N, F].")
        if sets and values.shape[1] != sets[0].shape[1]:
            raise UserError(
                f"features of {values.shape[1]} ({name}) and of {sets[0].shape[1]} dimensions do "
                "not compare; use one extractor for all sets."
            )
        if not (np.abs(values) <= _LARGEST).all():
            raise UserError(
                f"the features of {name} hold NaN or numbers beyond {_LARGEST:.0e}; check the "
                "images and the extractor."
            )
        sets.append(values)
    return sets


def centred(reference: tuple[str, ArrayLike], *others: tuple[str, ArrayLike]) -> list[np.ndarray]:
    """As `checked`, less the mean of the first set."""
    sets = checked(reference, *others)
    centre = sets[0].mean(axis=0) if len(sets[0]) else 0.0
    for values in sets:
        values -= centre
    return sets


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of the rows of a matrix of pairs, each few enough to be in memory."""
    size = max(1, _PAIRS // max(1, columns))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def squared_distances(
    x: np.ndarray, y: np.ndarray
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Which rows of x [N, F], their squared distances from y [M, F], and how wrong each may be.

    Errors of a sum of F products add up like the steps of a random walk.
    """
    x_squares, y_squares = (np.einsum("nf,nf->n", values, values) for values in (x, y))
    rounding = np.finfo(np.float64).eps * (2.0 + np.sqrt(x.shape[1]))
    for rows in row_blocks(len(x), len(y)):
        sums = x_squares[rows, None] + y_squares
        yield rows, sums - 2.0 * (x[rows] @ y.T), rounding * sums
