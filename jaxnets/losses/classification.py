"""Losses of a classifier: logits and labels in, one value per example out."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnets.errors import UserError
from jaxnets.registry import Registry
from jaxnets.typing import Array, traced

__all__ = ["CLASSIFICATION_LOSSES", "cross_entropy", "focal"]


def _targets(logits: Array, labels: Array, label_smoothing: float) -> Array:
    """[B, K] float32 probabilities out of either form of label."""
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
    return (1.0 - label_smoothing) * targets + label_smoothing / classes


def _weighted(targets: Array, class_weights: ArrayLike | None) -> Array:
    if class_weights is None:
        return targets
    weights = jnp.asarray(class_weights, jnp.float32)
    chex.assert_shape(weights, (targets.shape[1],))
    return targets * weights[None, :]


def cross_entropy(
    logits: Array,
    labels: Array,
    *,
    label_smoothing: float = 0.0,
    class_weights: ArrayLike | None = None,
) -> Array:
    """Cross-entropy: `-sum_k w_k t_k log softmax(logits)_k`.

    With smoothing e the targets are `t = (1 - e) t + e / K` (Szegedy et al. 2016,
    arXiv:1512.00567).

    Args:
      logits: [B, K], any finite values.
      labels: [B] integers in 0..K-1, or [B, K] probabilities. An integer outside gives NaN for its
        example, since a compiled program cannot raise.
      label_smoothing: e, in [0, 1).
      class_weights: [K] factors of the classes' terms; None for all ones. The result is not
        divided by them.

    Returns:
      [B] float32.

    Raises:
      UserError: if `label_smoothing` is outside [0, 1).
    """
    chex.assert_rank(logits, 2)
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    targets = _targets(logits, labels, label_smoothing)
    return -(_weighted(targets, class_weights) * log_p).sum(axis=-1)


def focal(
    logits: Array,
    labels: Array,
    *,
    gamma: float = 2.0,
    label_smoothing: float = 0.0,
    class_weights: ArrayLike | None = None,
) -> Array:
    """Focal loss: `-sum_k w_k t_k (1 - p_k)^gamma log p_k` with `p = softmax(logits)`.

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
    targets = _targets(logits, labels, label_smoothing)
    # 1 - p underflows to 0 where the power has no finite slope for gamma < 1.
    doubt = jnp.maximum(-jnp.expm1(log_p), 1e-12) ** gamma
    return -(_weighted(targets, class_weights) * doubt * log_p).sum(axis=-1)


CLASSIFICATION_LOSSES: Registry[Callable[..., Array]] = Registry(
    "classification loss", {"cross_entropy": cross_entropy, "focal": focal}
)
