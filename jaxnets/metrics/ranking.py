"""How well scores tell faulty from faultless: areas under curves, of pictures and of pixels.

All sort the scores once and treat equal ones as one step, so that the order of the input does not
matter. Nothing is binned.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from jaxnets.errors import UserError

__all__ = ["auroc", "average_precision", "per_region_overlap"]


def auroc(scores: ArrayLike, positive: ArrayLike) -> float:
    """Area under the ROC curve: how often a positive scores higher than a negative; a tie is half.

    Args:
      scores: [N] or any shape, finite.
      positive: bool of the same shape; some are True and some False.

    Raises:
      UserError: for scores that are not finite, another shape, or only one of both kinds.
    """
    hits, alarms = _steps(*_checked(scores, positive))
    return float(np.trapezoid(hits / hits[-1], alarms / alarms[-1]))


def average_precision(scores: ArrayLike, positive: ArrayLike) -> float:
    """`sum_n (R_n - R_(n-1)) P_n` over all thresholds, with recall R and precision P.

    Arguments and errors are those of `auroc`.
    """
    hits, alarms = _steps(*_checked(scores, positive))
    precision = hits[1:] / (hits[1:] + alarms[1:])
    return float(np.sum(np.diff(hits / hits[-1]) * precision))


def per_region_overlap(maps: ArrayLike, masks: ArrayLike, *, limit: float = 0.3) -> float:
    """PRO: mean share of each faulty region that is found, over false positive rates up to a limit.

    A region is a connected part of a mask, diagonals included, and counts the same whatever its
    size. The false positive rate is the share of all pixels outside of masks, those of faulty
    pictures included. The area under the curve of both is divided by the limit.

    Args:
      maps: [N, H, W] scores of pixels, finite.
      masks: [N, H, W] bool, True on a fault.
      limit: in (0, 1], to which false positive rate the curve is integrated.

    Raises:
      UserError: as for `auroc`.

    Reference:
      Bergmann et al. 2021, The MVTec Anomaly Detection Dataset, IJCV 129, section 5.2.
    """
    scores, positive = _checked(maps, masks)
    shares, regions = np.zeros(positive.shape), 0
    for share, mask in zip(shares, positive, strict=True):
        labeled: Any = ndimage.label(mask, np.ones((3, 3)))
        labels, count = labeled
        sizes = np.bincount(labels.ravel(), minlength=1)
        share[mask] = 1 / sizes[labels[mask]]
        regions += count
    found, alarms = _steps(scores, positive, shares)
    rate, overlap = alarms / alarms[-1], found / regions
    inside = rate <= limit
    end = np.interp(limit, rate, overlap)
    rate, overlap = np.append(rate[inside], limit), np.append(overlap[inside], end)
    return float(np.trapezoid(overlap, rate)) / limit


def _checked(scores: ArrayLike, positive: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    values, kinds = np.asarray(scores), np.asarray(positive, bool)
    if values.shape != kinds.shape:
        raise UserError(f"scores {values.shape} and what they are of {kinds.shape} differ in shape")
    if not np.isfinite(values).all():
        raise UserError("some of the scores are not finite")
    if not kinds.any() or kinds.all():
        raise UserError("a curve needs faulty and faultless examples: there is only one of both")
    return values, kinds


def _steps(
    scores: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Sums over positives (of 1, or of weights) and counts of negatives at or above each score.

    Both begin with 0, where the threshold is above all scores.
    """
    order = np.argsort(-scores.ravel(), kind="stable")
    sorted_scores, hit = scores.ravel()[order], positive.ravel()[order]
    last = np.append(np.flatnonzero(np.diff(sorted_scores)), len(order) - 1)
    values = hit.astype(np.float64) if weights is None else weights.ravel()[order]
    return np.append(0, np.cumsum(values)[last]), np.append(0, np.cumsum(~hit)[last])
