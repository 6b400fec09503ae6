"""What a classifier gets right, as sums: merge over batches and devices, then compute.

Labels are [B] integers, or [B, K] probabilities whose largest counts as the class. A mask that is
False on padding keeps it out of every sum. The counts are float32, exact up to 2**24.
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.metrics.mean import Mean, Sums
from jaxnets.typing import Array

__all__ = ["Calibration", "Confusion", "accuracy"]


def _classes(logits: Array, labels: Array) -> Array:
    """[B] integers out of either form of label."""
    chex.assert_rank(logits, 2)
    if labels.ndim == 2:
        chex.assert_equal_shape([logits, labels])
        return labels.argmax(axis=-1)
    chex.assert_shape(labels, (logits.shape[0],))
    return labels


def _kept(labels: Array, mask: Array | None) -> Array:
    """[B] float32, 1 where an example counts."""
    if mask is None:
        return jnp.ones(labels.shape, jnp.float32)
    chex.assert_equal_shape([labels, mask])
    return mask.astype(jnp.float32)


def accuracy(logits: Array, labels: Array, mask: Array | None = None) -> Mean:
    """The share of examples whose largest logit is at their class.

    Args:
      logits: [B, K].
      labels: [B] integers or [B, K] probabilities.
      mask: [B] bool, or None.
    """
    return Mean.of(logits.argmax(axis=-1) == _classes(logits, labels), mask)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Confusion(Sums):
    """Counts of true class against predicted class.

    Attributes:
      counts: [K, K] float32; row: true class, column: predicted class.
    """

    counts: Array

    @classmethod
    def of(cls, logits: Array, labels: Array, mask: Array | None = None) -> "Confusion":
        """Counts one batch: logits [B, K], labels [B] or [B, K], mask [B] bool or None."""
        classes = _classes(logits, labels)
        width = logits.shape[1]
        true = jax.nn.one_hot(classes, width) * _kept(classes, mask)[:, None]
        predicted = jax.nn.one_hot(logits.argmax(axis=-1), width)
        # Zeros and ones are exact in any matmul precision, and the sums are kept in float32.
        return cls(jnp.einsum("bt,bp->tp", true, predicted))

    def compute(self) -> np.ndarray:
        """[K, K] int64 on the host."""
        return np.rint(np.asarray(self.counts)).astype(np.int64)

    def recall(self) -> np.ndarray:
        """[K] float64: for each class, the share of its examples predicted as it; NaN if none."""
        counts = self.compute()
        return _ratio(np.diag(counts), counts.sum(axis=1))

    def precision(self) -> np.ndarray:
        """[K] float64: of what was predicted as each class, the share that is; NaN if nothing."""
        counts = self.compute()
        return _ratio(np.diag(counts), counts.sum(axis=0))

    def balanced_accuracy(self) -> float:
        """Mean recall of the classes that occur; NaN if none does."""
        recall = self.recall()
        return float(recall[~np.isnan(recall)].mean()) if not np.isnan(recall).all() else np.nan


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Calibration(Sums):
    """Confidence against accuracy, in bins of equal width over the confidence.

    Attributes:
      count: [bins] float32, examples in each bin `(i / bins, (i + 1) / bins]`.
      confidence: [bins] float32, the sum of their largest probabilities.
      correct: [bins] float32, how many of them are right.
    """

    count: Array
    confidence: Array
    correct: Array

    @classmethod
    def of(
        cls, logits: Array, labels: Array, mask: Array | None = None, *, bins: int = 15
    ) -> "Calibration":
        """Sums one batch: logits [B, K], labels [B] or [B, K], mask [B] bool or None."""
        classes = _classes(logits, labels)
        confidence = jax.nn.softmax(logits.astype(jnp.float32)).max(axis=-1)
        place = jnp.clip(jnp.ceil(confidence * bins).astype(jnp.int32) - 1, 0, bins - 1)
        kept = _kept(classes, mask)
        right = (logits.argmax(axis=-1) == classes).astype(jnp.float32)

        def binned(values: Array) -> Array:
            # What the mask drops may be NaN, which no product with 0 removes.
            return jax.ops.segment_sum(jnp.where(kept > 0, values, 0.0), place, bins)

        return cls(binned(kept), binned(confidence), binned(right))

    def compute(self) -> float:
        """Expected calibration error, `sum_i |correct_i - confidence_i| / n`; NaN if n is 0.

        Reference:
          Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv:1706.04599, eq. 3.
        """
        total = float(np.sum(self.count))
        gap = np.abs(np.asarray(self.correct, np.float64) - np.asarray(self.confidence))
        return float(gap.sum() / total) if total else float("nan")
