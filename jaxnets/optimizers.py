"""Optimisers and learning-rate schedules by name, over optax."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from jaxnets.errors import UserError
from jaxnets.typing import Array, PyTree

__all__ = ["OPTIMIZERS", "SCHEDULES", "decays", "make_optimizer", "make_schedule"]

#: name -> function of keyword arguments that gives the transformation *before* weight decay and
#: learning rate, so that decay is decoupled from the gradient's scaling for each of them.
OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": lambda momentum, **_: optax.trace(momentum, nesterov=False),
    "nesterov": lambda momentum, **_: optax.trace(momentum, nesterov=True),
    "adam": lambda b1, b2, eps, **_: optax.scale_by_adam(b1, b2, eps),
    "rmsprop": lambda b2, eps, **_: optax.scale_by_rms(b2, eps),
    "lion": lambda b1, b2, **_: optax.scale_by_lion(b1, b2),
    "lamb": lambda b1, b2, eps, **_: optax.chain(
        optax.scale_by_adam(b1, b2, eps), optax.scale_by_trust_ratio()
    ),
}

#: name -> function of (peak, total, warmup) that gives step -> learning rate.
SCHEDULES: dict[str, Callable[[Any, int, int], optax.Schedule]] = {
    "constant": lambda peak, total, warmup: optax.join_schedules(
        [optax.linear_schedule(0.0, peak, max(warmup, 1)), optax.constant_schedule(peak)],
        [warmup],
    ),
    "cosine": lambda peak, total, warmup: optax.join_schedules(
        [
            optax.linear_schedule(0.0, peak, max(warmup, 1)),
            optax.cosine_decay_schedule(peak, max(total - warmup, 1)),
        ],
        [warmup],
    ),
    "linear": lambda peak, total, warmup: optax.join_schedules(
        [
            optax.linear_schedule(0.2 * peak, peak, max(warmup, 1)),
            optax.linear_schedule(peak, 0.0, max(total - warmup, 1)),
        ],
        [warmup],
    ),
}


def decays(params: PyTree) -> PyTree:
    """True where weight decay applies: kernels and embeddings, not biases nor norms' scales.

    By name as well as by rank: a conditional norm has a [K, C] scale and bias.
    """

    def applies(path: tuple[Any, ...], leaf: Any) -> bool:
        name = jax.tree_util.keystr(path[-1:], simple=True) if path else ""
        return leaf.ndim > 1 and name not in ("scale", "bias")

    return jax.tree_util.tree_map_with_path(applies, params)


def make_schedule(
    name: str, peak: Array | float, total_steps: int, warmup: float = 0.0
) -> optax.Schedule:
    """A learning rate as a function of the step.

    Args:
      name: one of `SCHEDULES`: "constant", "cosine" (to zero), or "linear" (from a fifth of the
        peak up to it, then down to zero), each after the warm-up.
      peak: the highest value; may be traced.
      total_steps: where the schedule ends.
      warmup: the share of `total_steps`, in [0, 1), that climbs linearly to the peak.

    Returns:
      A function step -> rate.

    Raises:
      UserError: for an unknown name or a warm-up outside [0, 1).
    """
    if name not in SCHEDULES:
        raise UserError(f"unknown schedule {name!r}; known are {', '.join(sorted(SCHEDULES))}")
    if not 0 <= warmup < 1:
        raise UserError(f"warm-up {warmup} is outside [0, 1), the share of steps that it takes")
    return SCHEDULES[name](peak, total_steps, round(warmup * total_steps))


def make_optimizer(
    name: str,
    learning_rate: Array | float | optax.Schedule,
    *,
    weight_decay: Array | float = 0.0,
    clip_norm: float | None = None,
    momentum: float = 0.9,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """Clip, precondition, decay, scale: an optimiser with decoupled weight decay.

    Each update is `-lr * (preconditioned gradient + weight_decay * params)`, the decay only where
    `decays` says so.

    Args:
      name: one of `OPTIMIZERS`.
      learning_rate: a number, or a function of the step. It and the decay may be traced.
      weight_decay: coefficient of the decoupled decay, per unit of learning rate.
      clip_norm: the greatest global norm that a gradient keeps; None leaves gradients alone.
      momentum: of "sgd" and "nesterov".
      b1: decay of the first moment, where the optimiser keeps one.
      b2: decay of the second moment, likewise.
      eps: added to the denominator, likewise.

    Returns:
      An optax transformation.

    Raises:
      UserError: for an unknown name.

    Reference:
      Loshchilov and Hutter, "Decoupled Weight Decay Regularization", arXiv:1711.05101.
    """
    if name not in OPTIMIZERS:
        raise UserError(f"unknown optimizer {name!r}; known are {', '.join(sorted(OPTIMIZERS))}")
    parts: list[Any] = []
    if clip_norm is not None:
        parts.append(optax.clip_by_global_norm(clip_norm))
    parts.append(OPTIMIZERS[name](momentum=momentum, b1=b1, b2=b2, eps=eps))
    # A traced number, of a member of a population, may be zero or not.
    if not isinstance(weight_decay, int | float) or weight_decay:
        parts.append(optax.add_decayed_weights(weight_decay, mask=decays))
    parts.append(optax.scale_by_learning_rate(learning_rate))
    return optax.chain(*parts)
