"""Which checkpoints of a run are kept: the latest, and beside them the best."""

import math
from collections.abc import Sequence
from typing import Any

__all__ = ["Retention"]


class Retention:
    """Ranks checkpoints by their values, and says which are kept.

    Attributes:
      values: step -> its value, NaN where it has none; such a step never ranks.
    """

    def __init__(self, keep: int, keep_best: int, *, higher_is_better: bool):
        """Sets it up.

        Args:
          keep: how many of the latest are kept.
          keep_best: how many of those with the best values are kept beside them.
          higher_is_better: what best means.
        """
        self.values: dict[int, float] = {}
        self._keep, self._keep_best = keep, keep_best
        self._sign = 1 if higher_is_better else -1

    def ranked(self, steps: Sequence[int]) -> list[int]:
        """The steps that have a value, the best first; of equals the older."""
        known = [s for s in sorted(steps) if math.isfinite(self.values.get(s, math.nan))]
        return sorted(known, key=lambda step: -self._sign * self.values[step])

    def would_be_kept(self, value: float, steps: Sequence[int]) -> bool:
        """Whether a state with this value would be among the best, these steps being there."""
        if not math.isfinite(value) or self._keep_best < 1:
            return False
        ranked = self.ranked(steps)
        return len(ranked) < self._keep_best or (
            self._sign * value > self._sign * self.values[ranked[self._keep_best - 1]]
        )

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Orbax's question which checkpoints to keep."""
        del context
        steps = sorted(checkpoint.step for checkpoint in checkpoints)
        kept = {*steps[-self._keep :], *self.ranked(steps)[: self._keep_best]}
        return [checkpoint.step in kept for checkpoint in checkpoints]
