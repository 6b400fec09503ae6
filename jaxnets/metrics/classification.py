"""What a classifier gets right, of logits [N, K] and labels [N] in 0..K-1 on the host."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import softmax

__all__ = ["balanced_accuracy", "calibration_error"]


def balanced_accuracy(confusion: ArrayLike) -> float:
    """Mean recall of the classes that occur; NaN if none does.

    Args:
      confusion: counts [K, K], true class by predicted class.
    """
    counts = np.asarray(confusion)
    asked = counts.sum(axis=1)
    occur = asked > 0
    return float((np.diag(counts)[occur] / asked[occur]).mean()) if occur.any() else float("nan")


def calibration_error(logits: ArrayLike, labels: ArrayLike, *, bins: int = 15) -> float:
    """Expected calibration error, `sum_i |correct_i - confidence_i| / N`; NaN without examples.

    The sums are over the examples in bin i, whose largest probability is in
    `(i / bins, (i + 1) / bins]`.

    Reference:
      Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv:1706.04599, eq. 3.
    """
    values = np.asarray(logits, np.float64)
    confidence = softmax(values, axis=1).max(axis=1)
    gap = (values.argmax(axis=1) == np.asarray(labels)) - confidence
    place = np.ceil(confidence * bins).astype(int)
    return float(np.abs(np.bincount(place, gap)).sum() / len(gap)) if len(gap) else float("nan")
