"""Optimisers and learning-rate schedules by name, over optax."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxnets.errors import UserError
from jaxnets.registry import Registry
from jaxnets.typing import Array, PyTree, traced

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "decays",
    "half_life_decay",
    "make_optimizer",
    "make_schedule",
    "over_images",
]


def _adam(
    b1: float, b2: Array | float | optax.Schedule, eps: float
) -> optax.GradientTransformation:
    if callable(b2):
        return optax.inject_hyperparams(optax.scale_by_adam)(b1=b1, b2=b2, eps=eps)
    return optax.scale_by_adam(b1, b2, eps)


#: name -> function of keyword arguments that gives the transformation *before* weight decay and
#: learning rate, so that decay is decoupled from the gradient's scaling for each of them.
OPTIMIZERS: Registry[Callable[..., optax.GradientTransformation]] = Registry(
    "optimizer",
    {
        "sgd": lambda momentum, **_: optax.trace(momentum, nesterov=False),
        "nesterov": lambda momentum, **_: optax.trace(momentum, nesterov=True),
        "adam": lambda b1, b2, eps, **_: _adam(b1, b2, eps),
        "rmsprop": lambda b2, eps, **_: optax.scale_by_rms(b2, eps),
        "lion": lambda b1, b2, **_: optax.scale_by_lion(b1, b2),
        "lamb": lambda b1, b2, eps, **_: optax.chain(
            optax.scale_by_adam(b1, b2, eps), optax.scale_by_trust_ratio()
        ),
    },
)

#: name -> the share of the peak that the warm-up begins at, and a function of (peak, steps) that
#: gives the learning rate after the warm-up, by the step.
SCHEDULES: Registry[tuple[float, Callable[[Any, int], optax.Schedule]]] = Registry(
    "schedule",
    {
        "constant": (0.0, lambda peak, steps: optax.constant_schedule(peak)),
        "cosine": (0.0, optax.cosine_decay_schedule),
        "linear": (0.2, lambda peak, steps: optax.linear_schedule(peak, 0.0, steps)),
    },
)


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
    if not 0 <= warmup < 1:
        raise UserError(f"warm-up {warmup} is outside [0, 1), the share of steps that it takes")
    start, rest = SCHEDULES[name]
    climb = round(warmup * total_steps)
    rising = optax.linear_schedule(start * peak, peak, max(climb, 1))
    return optax.join_schedules([rising, rest(peak, max(total_steps - climb, 1))], [climb])


def over_images(
    start: Array | float, end: Array | float, images: float, batch_size: int
) -> optax.Schedule:
    """A number that goes from `start` to `end` along half a cosine, by the images seen.

    A schedule over images is the same for every batch size and number of devices; over steps it is
    not. `start` and `end` may be traced; with `images` at 0 it is `end` from the start.

    Reference:
      Huang et al. 2024, The GAN is dead; long live the GAN!, arXiv:2501.05441: learning rate, b2,
      gamma, EMA and augmentation.
    """

    def at(step: Any) -> Array:
        share = jnp.clip((step * float(batch_size)) / max(images, 1e-9), 0.0, 1.0)
        share = share if images > 0 else jnp.ones_like(share)
        return end + (start - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * share))

    return at


def half_life_decay(
    half_life: Array | float | optax.Schedule, batch_size: int, *, warmup: float = 0.05
) -> optax.Schedule:
    """The decay of a moving average that forgets half of what it knew after so many images.

    Args:
      half_life: in images, or a function of the step; 0 is no average.
      batch_size: images of a step.
      warmup: the half-life is at most this share of the images seen so far, so that the first
        networks are soon forgotten; 0 is no warm-up.

    Returns:
      A function step -> share of the old average that the step keeps, in [0, 1).

    Reference:
      Karras et al. 2018, Progressive Growing of GANs, arXiv:1710.10196, which averages the
      generator; half-life and warm-up as in the code of StyleGAN2-ADA, arXiv:2006.06676.
    """

    def at(step: Any) -> Array:
        images = (step + 1.0) * batch_size
        length = half_life(step) if callable(half_life) else half_life
        length = jnp.asarray(length, jnp.float32)
        if warmup > 0:
            length = jnp.minimum(length, warmup * images)
        return 0.5 ** (batch_size / jnp.maximum(length, 1e-6))

    return at


def _clip_weights(limit: float) -> optax.GradientTransformation:
    """Changes updates so that the parameters after them lie in [-limit, limit]."""

    def within(updates: PyTree, params: PyTree) -> PyTree:
        return jax.tree.map(lambda u, p: jnp.clip(p + u, -limit, limit) - p, updates, params)

    return optax.stateless(within)


def make_optimizer(
    name: str,
    learning_rate: Array | float | optax.Schedule,
    *,
    weight_decay: Array | float = 0.0,
    clip_norm: float | None = None,
    weight_clip: float | None = None,
    momentum: float = 0.9,
    b1: float = 0.9,
    b2: Array | float | optax.Schedule = 0.999,
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
      weight_clip: after each update, every parameter is cut off at this and minus this (Arjovsky et
        al. 2017, Wasserstein GAN, arXiv:1701.07875); None leaves them alone.
      momentum: of "sgd" and "nesterov".
      b1: decay of the first moment, where the optimiser keeps one.
      b2: decay of the second moment, likewise; of "adam" also a function of the step.
      eps: added to the denominator, likewise.

    Returns:
      An optax transformation.

    Raises:
      UserError: for an unknown name.

    Reference:
      Loshchilov and Hutter, "Decoupled Weight Decay Regularization", arXiv:1711.05101.
    """
    scale = OPTIMIZERS[name]
    if callable(b2) and name != "adam":
        raise UserError(f"a schedule of b2 is for adam; {name} has none")
    parts: list[Any] = []
    if clip_norm is not None:
        parts.append(optax.clip_by_global_norm(clip_norm))
    parts.append(scale(momentum=momentum, b1=b1, b2=b2, eps=eps))
    # A traced number, of a member of a population, may be zero or not.
    if traced(weight_decay) or weight_decay:
        parts.append(optax.add_decayed_weights(weight_decay, mask=decays))
    parts.append(optax.scale_by_learning_rate(learning_rate))
    if weight_clip is not None:
        parts.append(_clip_weights(weight_clip))
    return optax.chain(*parts)
