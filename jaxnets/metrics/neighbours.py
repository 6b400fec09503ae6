"""Nearest neighbours among features, and whether samples are copies of training images."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from numpy.typing import ArrayLike

from jaxnets.errors import UserError
from jaxnets.metrics.blocks import (
    BLOCK,
    Points,
    blocks,
    centred,
    checked,
    on_mesh,
    padded,
    row_block,
    squared_distances,
)
from jaxnets.typing import Array

__all__ = ["Memorisation", "Neighbours", "memorisation", "nearest", "nearest_neighbours"]

#: Candidates beyond k: where float32 can't tell who is nearer, float64 decides among these.
_SPARE = 2

#: Numbers of rows that are none: a column that is padding, and a row that is not to skip itself.
_NO_COLUMN, _NO_ROW = -1, -2


class Neighbours(NamedTuple):
    """The k nearest of each query, nearest first.

    Attributes:
      index: [N, k] int32, rows of the set that was searched.
      distance: [N, k] float64, Euclidean, from the differences themselves: 0 for a copy.
    """

    index: np.ndarray
    distance: np.ndarray


@functools.cache
def _search(mesh: Mesh | None, k: int) -> Callable[..., Any]:
    """Compiled: the k best so far of each row, with one more block of columns looked at."""

    def step(
        best: Array,
        index: Array,
        rows: Array,
        row_squares: Array,
        row_index: Array,
        columns: Array,
        column_squares: Array,
        column_index: Array,
    ) -> tuple[Array, Array]:
        squares, _ = squared_distances(rows, row_squares, columns, column_squares)
        unwanted = (column_index[None, :] == row_index[:, None]) | (
            column_index[None, :] == _NO_COLUMN
        )
        squares = jnp.where(unwanted, jnp.inf, squares)
        near, place = jax.lax.top_k(-squares, min(k, squares.shape[1]))
        both = jnp.concatenate([best, -near], axis=1)
        which = jnp.concatenate([index, column_index[place]], axis=1)
        near, place = jax.lax.top_k(-both, k)
        return -near, jnp.take_along_axis(which, place, axis=1)

    return on_mesh(step, mesh, "rrrrrwww", "rr")


def nearest(
    queries: Points, points: Points, k: int, *, within: bool, mesh: Mesh | None, block: int
) -> Neighbours:
    """The k nearest of at least k points to each query, all of them centred on the same point.

    With `within` the two sets are one, and no point is its own neighbour.
    """
    size, width = row_block(len(queries), block, mesh), row_block(len(points), block, None)
    wanted = min(k + _SPARE, len(points) - within)
    search = _search(mesh, wanted)
    parts = []
    for rows in blocks(len(queries), size):
        numbers = np.arange(rows.start, rows.stop, dtype=np.int32)
        row = (
            padded(queries.values[rows], size),
            padded(queries.squares[rows], size),
            padded(numbers if within else np.full_like(numbers, _NO_ROW), size, _NO_ROW),
        )
        best = np.full((size, wanted), np.inf, np.float32)
        index = np.full((size, wanted), _NO_COLUMN, np.int32)
        for columns in blocks(len(points), width):
            numbers = np.arange(columns.start, columns.stop, dtype=np.int32)
            best, index = search(
                best,
                index,
                *row,
                padded(points.values[columns], width),
                padded(points.squares[columns], width),
                padded(numbers, width, _NO_COLUMN),
            )
        index = np.asarray(index)[: rows.stop - rows.start]
        parts.append(_exact(queries.values[rows], points.values, index, k))
    return Neighbours(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _exact(rows: np.ndarray, points: np.ndarray, index: np.ndarray, k: int) -> Neighbours:
    """The nearest k of the candidates [R, c], by their differences in float64."""
    squares = np.empty(index.shape)
    for j in range(index.shape[1]):  # one candidate at a time: memory for one difference each
        gap = np.subtract(rows, points[index[:, j]], dtype=np.float64)
        squares[:, j] = np.einsum("nf,nf->n", gap, gap)
    order = np.argsort(squares, axis=1, kind="stable")[:, :k]
    chosen = [np.take_along_axis(values, order, axis=1) for values in (index, squares)]
    return Neighbours(chosen[0], np.sqrt(chosen[1]))


def nearest_neighbours(
    queries: ArrayLike,
    points: ArrayLike,
    *,
    k: int = 1,
    mesh: Mesh | None = None,
    block: int = BLOCK,
) -> Neighbours:
    """For each query its nearest points, as of samples among the training images.

    Candidates are chosen in float32 and compared in float64, so a distance is exact, and an index
    is wrong only if more than two others lie within the rounding of float32
    (`jaxnets.metrics.blocks.rounding`).

    Args:
      queries: [N, F] features.
      points: [M, F] features of the same extractor.
      k: how many neighbours.
      mesh: devices of this process over which queries are spread; by default one device.
      block: rows and columns of the distance matrix that are in memory at a time.

    Returns:
      Indices into `points` and distances, [N, k] each, nearest first.

    Raises:
      UserError: if there are no queries, `k` is not in 1..M, or features are not finite or do not
        compare.
    """
    points = checked(points, "the points")
    queries = checked(queries, "the queries", points.shape[1])
    if not len(queries):
        raise UserError("there are no queries to find neighbours of.")
    if not 1 <= k <= len(points):
        raise UserError(f"{k} neighbours among {len(points)} points; choose 1 to {len(points)}.")
    centre = points.mean(axis=0, dtype=np.float64)
    return nearest(
        centred(queries, centre), centred(points, centre), k, within=False, mesh=mesh, block=block
    )


@dataclasses.dataclass(frozen=True)
class Memorisation:
    """How near to the training images samples are, against real images that were held out.

    Attributes:
      nearer: the share of pairs of a sample and a held-out image in which the sample is nearer to
        its nearest training image (a tie counts half): 0.5 if samples are as new as real images,
        1 if all are nearer than any.
      median_ratio: median distance of the samples over that of the held-out images; 1 if as new.
      copies: the share of samples as near as the nearest 1% of held-out images: 0.01 if as new.
      unseen: the share of samples whose nearest image of all, training and held-out, is a held-out
        one (a tie counts half). Samples that are all typical have small distances, by which the
        three numbers above take them for copies; they are as near to images that were held out.
      unseen_expected: the share of the held-out images among all: what `unseen` is in the mean of
        a generator that does not know which images it was trained on. With copies alone it is 0.
      unseen_deviation: how far it is from that by chance, such a generator's standard deviation:
        of drawing anew which images are held out, as many samples may share a nearest image.
      samples: their nearest training images.
      held_out: those of the held-out images.
    """

    nearer: float
    median_ratio: float
    copies: float
    unseen: float
    unseen_expected: float
    unseen_deviation: float
    samples: Neighbours
    held_out: Neighbours

    @property
    def unseen_ratio(self) -> float:
        """`unseen` by what is expected: 1 if as new, 0 of copies."""
        return self.unseen / self.unseen_expected


def memorisation(
    samples: ArrayLike,
    held_out: ArrayLike,
    train: ArrayLike,
    *,
    mesh: Mesh | None = None,
    block: int = BLOCK,
) -> Memorisation:
    """Whether samples lie nearer to the training images than unseen real images do.

    Samples of low quality are far from everything and look new, so this number says something
    only beside one of quality. The extractor should be another than what the GAN was trained with.
    The share of nearer pairs is the statistic of Meehan et al. 2020
    (https://arxiv.org/abs/2004.05675), for all of the space as one cell; `unseen` is that of
    Platzer and Reutterer 2021 (Holdout-Based Empirical Assessment of Mixed-Type Synthetic Data,
    Frontiers in Big Data 4), for sets of any sizes.

    Args:
      samples: [N, F] features of generated images.
      held_out: [M, F] features of real images that the GAN has not seen.
      train: [T, F] features of the images it was trained on.
      mesh: devices of this process over which rows are spread; by default one device.
      block: rows and columns of the distance matrix that are in memory at a time.

    Raises:
      UserError: if a set is empty, features are not finite or do not compare, or more than half of
        the held-out images are themselves training images.
    """
    train = checked(train, "the training images")
    sets = {"the samples": samples, "the held-out images": held_out}
    kept = {name: checked(values, name, train.shape[1]) for name, values in sets.items()}
    for name, values in {**kept, "the training images": train}.items():
        if not len(values):
            raise UserError(f"{name} are none; memorisation compares three sets of images.")
    centre = train.mean(axis=0, dtype=np.float64)
    made, unseen, points = (centred(values, centre) for values in (*kept.values(), train))
    search = functools.partial(nearest, k=1, within=False, mesh=mesh, block=block)
    near = [search(made, points), search(unseen, points)]
    beyond = search(made, unseen)
    ours, theirs = (neighbours.distance[:, 0] for neighbours in near)
    middle = float(np.median(theirs))
    if not middle:
        raise UserError(
            "most of the held-out images are training images too; hold out others to compare with."
        )
    ordered = np.sort(theirs)
    farther = len(ordered) - np.searchsorted(ordered, ours, side="right")
    tied = np.searchsorted(ordered, ours, side="right") - np.searchsorted(ordered, ours)
    away = beyond.distance[:, 0]
    expected = len(unseen) / (len(unseen) + len(train))
    nearest_of_all = np.where(away < ours, len(train) + beyond.index[:, 0], near[0].index[:, 0])
    weights = np.unique(nearest_of_all, return_counts=True)[1] / len(made)
    return Memorisation(
        nearer=float((farther + 0.5 * tied).mean() / len(ordered)),
        median_ratio=float(np.median(ours)) / middle,
        copies=float((ours <= np.quantile(theirs, 0.01)).mean()),
        unseen=float(((away < ours) + 0.5 * (away == ours)).mean()),
        unseen_expected=expected,
        unseen_deviation=float(np.sqrt(expected * (1 - expected) * np.square(weights).sum())),
        samples=near[0],
        held_out=near[1],
    )
