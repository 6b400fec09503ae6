"""Nearest neighbours among features, and whether samples are copies of training images."""

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxnets.errors import UserError
from jaxnets.metrics.pairs import centred

__all__ = ["Memorisation", "Neighbours", "memorisation", "nearest", "nearest_neighbours"]

#: Candidates beyond k: what rounding can't tell apart is decided among these.
_SPARE = 2


class Neighbours(NamedTuple):
    """The k nearest of each query, nearest first.

    Attributes:
      index: [N, k] integers, rows of the set that was searched.
      distance: [N, k] float64, Euclidean, from the differences themselves: 0 for a copy.
    """

    index: np.ndarray
    distance: np.ndarray


def nearest(queries: np.ndarray | None, points: np.ndarray, k: int) -> Neighbours:
    """The k nearest of points [M, F] to each of the queries [N, F], all float64 and centred.

    Without queries, those of the points themselves, of which none is its own neighbour.
    """
    from sklearn.neighbors import NearestNeighbors

    own = queries is None
    search = NearestNeighbors(algorithm="brute").fit(points)
    wanted = min(k + _SPARE, len(points) - own)
    index = search.kneighbors(queries, wanted, return_distance=False)
    # By the differences themselves, one candidate at a time: a copy then has the distance 0.
    squares = np.empty(index.shape)
    for j in range(wanted):
        gap = (points if queries is None else queries) - points[index[:, j]]
        squares[:, j] = np.einsum("nf,nf->n", gap, gap)
    order = np.argsort(squares, axis=1, kind="stable")[:, :k]
    chosen = [np.take_along_axis(values, order, axis=1) for values in (index, squares)]
    return Neighbours(chosen[0], np.sqrt(chosen[1]))


def nearest_neighbours(queries: ArrayLike, points: ArrayLike, *, k: int = 1) -> Neighbours:
    """For each query its nearest points, as of samples among the training images.

    Args:
      queries: [N, F] features.
      points: [M, F] features of the same extractor.
      k: how many neighbours.

    Returns:
      Indices into `points` and distances, [N, k] each, nearest first.

    Raises:
      UserError: if there are no queries, `k` is not in 1..M, or features are not finite or do not
        compare.
    """
    around, asked = centred(("the points", points), ("the queries", queries))
    if not len(asked):
        raise UserError("there are no queries to find neighbours of.")
    if not 1 <= k <= len(around):
        raise UserError(f"{k} neighbours among {len(around)} points; choose 1 to {len(around)}.")
    return nearest(asked, around, k)


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


def memorisation(samples: ArrayLike, held_out: ArrayLike, train: ArrayLike) -> Memorisation:
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

    Raises:
      UserError: if a set is empty, features are not finite or do not compare, or more than half of
        the held-out images are themselves training images.
    """
    names = ("the training images", "the samples", "the held-out images")
    points, made, unseen = sets = centred(*zip(names, (train, samples, held_out), strict=True))
    for name, values in zip(names, sets, strict=True):
        if not len(values):
            raise UserError(f"{name} are none; memorisation compares three sets of images.")
    near = [nearest(made, points, 1), nearest(unseen, points, 1)]
    beyond = nearest(made, unseen, 1)
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
    expected = len(unseen) / (len(unseen) + len(points))
    nearest_of_all = np.where(away < ours, len(points) + beyond.index[:, 0], near[0].index[:, 0])
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
