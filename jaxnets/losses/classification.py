"""Losses of a classifier: logits and labels in, one value per example out."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxnets.errors import UserError
from jaxnets.registry import Registry
from jaxnets.typing import Array, traced

__all__ = [
    "CLASSIFICATION_LOSSES",
    "balanced_softmax",
    "cross_entropy",
    "effective_weights",
    "focal",
    "inverse_weights",
]


def _targets(
    logits: Array, labels: Array, label_smoothing: float, class_weights: ArrayLike | None
) -> Array:
    """[B, K] float32 factors of the classes' terms, out of either form of label."""
    if not traced(label_smoothing) and not 0.0 <= label_smoothing < 1.0:
        raise UserError(f"label_smoothing={label_smoothing} is outside [0, 1); choose one inside.")
    batch, classes = logits.shape
    if labels.ndim == 2:
        chex.assert_shape(labels, (batch, classes))
        targets = labels.astype(jnp.float32)
    else:
        chex.assert_shape(labels, (batch,))
        chex.assert_type(labels, int)
        targets = jax.nn.one_hot(labels, classes, dtype=jnp.float32)
        # A one-hot row of zeros would make a wrong label look perfectly learnt.
        known = (labels >= 0) & (labels < classes)
        targets = jnp.where(known[:, None], targets, jnp.nan)
    if class_weights is None:
        return (1.0 - label_smoothing) * targets + label_smoothing / classes
    weights = jnp.asarray(class_weights, jnp.float32)
    chex.assert_shape(weights, (classes,))
    # What smoothing gives to the other classes weighs as much as the example does, not as they do.
    targets = targets * weights[None, :]
    total = targets.sum(axis=1, keepdims=True)
    return (1.0 - label_smoothing) * targets + label_smoothing / classes * total


def cross_entropy(
    logits: Array,
    labels: Array,
    *,
    label_smoothing: float = 0.0,
    class_weights: ArrayLike | None = None,
) -> Array:
    """Cross-entropy: `-sum_k t_k log softmax(logits)_k`, times w of the example's class.

    With smoothing e the targets are `t = (1 - e) t + e / K` (Szegedy et al. 2016,
    arXiv:1512.00567).

    Args:
      logits: [B, K], any finite values.
      labels: [B] integers in 0..K-1, or [B, K] probabilities. An integer outside gives NaN for its
        example, since a compiled program cannot raise.
      label_smoothing: e, in [0, 1).
      class_weights: w, [K] factors of the classes' examples, of a blend of classes their mean;
        None for all ones. The result is not divided by them.

    Returns:
      [B] float32.

    Raises:
      UserError: if `label_smoothing` is outside [0, 1).
    """
    chex.assert_rank(logits, 2)
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    targets = _targets(logits, labels, label_smoothing, class_weights)
    return -(targets * log_p).sum(axis=-1)


def focal(
    logits: Array,
    labels: Array,
    *,
    gamma: float = 2.0,
    label_smoothing: float = 0.0,
    class_weights: ArrayLike | None = None,
) -> Array:
    """Focal loss: `-sum_k t_k (1 - p_k)^gamma log p_k` with `p = softmax(logits)`, times w.

    What is already classified well counts less; `gamma = 0` is the cross-entropy, which has the
    same arguments. The class weights are the paper's alpha.

    Raises:
      UserError: if `gamma` is negative or `label_smoothing` is outside [0, 1).

    Reference:
      Lin et al. 2017, Focal Loss for Dense Object Detection, arXiv:1708.02002.
    """
    if not traced(gamma) and gamma < 0.0:
        raise UserError(f"gamma={gamma} is negative; choose 0 (cross-entropy) or more.")
    chex.assert_rank(logits, 2)
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    targets = _targets(logits, labels, label_smoothing, class_weights)
    # 1 - p underflows to 0 where the power has no finite slope for gamma < 1.
    doubt = jnp.maximum(-jnp.expm1(log_p), 1e-12) ** gamma
    return -(targets * doubt * log_p).sum(axis=-1)


def inverse_weights(counts: ArrayLike) -> np.ndarray:
    """Class weights `N / (K n_k)` [K], whose mean over the examples is 1; counts n are [K]."""
    there = np.maximum(np.asarray(counts, np.float64), 1.0)
    return (np.sum(counts) / (len(there) * there)).astype(np.float32)


def effective_weights(counts: ArrayLike, beta: float) -> np.ndarray:
    """Class weights by the effective number of examples, `(1 - beta) / (1 - beta^n_k)`, scaled.

    With beta = 0 all are 1; towards 1 they become the inverse frequencies.

    Args:
      counts: n, [K] training examples of the classes.
      beta: in [0, 1).

    Returns:
      [K], whose sum is K.

    Reference:
      Cui et al. 2019, Class-Balanced Loss Based on Effective Number of Samples, arXiv:1901.05555.
    """
    there = np.maximum(np.asarray(counts, np.float64), 1.0)
    weights = 1.0 / -np.expm1(there * np.log(beta)) if beta else np.ones(len(there))
    return (weights * len(there) / weights.sum()).astype(np.float32)


def balanced_softmax(loss: Callable[..., Array], counts: ArrayLike) -> Callable[..., Array]:
    """The loss of `logits + log prior`, for training alone.

    A network whose logits are right after the shares of the classes in training were added is
    right, without them, where all classes are equally frequent.

    Args:
      loss: (logits [B, K], labels) -> [B].
      counts: [K] training examples of the classes.

    Reference:
      Ren et al. 2020, Balanced Meta-Softmax for Long-Tailed Visual Recognition, arXiv:2007.10740.
    """
    there = np.maximum(np.asarray(counts, np.float64), 1.0)
    prior = np.log(there / there.sum()).astype(np.float32)
    return lambda logits, labels: loss(logits.astype(jnp.float32) + prior[None, :], labels)


CLASSIFICATION_LOSSES: Registry[Callable[..., Array]] = Registry(
    "classification loss", {"cross_entropy": cross_entropy, "focal": focal}
)
