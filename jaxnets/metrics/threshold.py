"""From which score on something is said to be there."""

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["best_threshold"]


def best_threshold(
    scores: ArrayLike, present: ArrayLike, false_alarms: float | None = None
) -> float:
    """The threshold that suits examples of which the truth is known.

    An example counts as present from the threshold on. Thresholds lie in the middle between two
    scores; of those that are equally good, the one nearest to a half is taken.

    Args:
      scores: [N].
      present: [N] booleans; some are true and some are not.
      false_alarms: share of the absent that may be taken for present: the lowest threshold with no
        more. By default the mean of the accuracies on the present and on the absent decides.

    Returns:
      A number above all scores where only that keeps the share.
    """
    values, truth = np.asarray(scores, np.float64), np.asarray(present, bool)
    levels = np.unique(values)
    middles = np.concatenate(
        [levels[:1], (levels[1:] + levels[:-1]) / 2, np.nextafter(levels[-1:], np.inf)]
    )

    def share_from(of: np.ndarray) -> np.ndarray:
        return 1 - np.searchsorted(np.sort(of), middles) / len(of)

    alarms = share_from(values[~truth])
    if false_alarms is not None:
        return float(middles[np.argmax(alarms <= false_alarms)])
    gain = share_from(values[truth]) - alarms
    best = middles[gain >= gain.max() - 1e-12]
    return float(best[np.argmin(np.abs(best - 0.5))])
