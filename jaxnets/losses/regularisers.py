"""What a GAN's losses are joined by, beside the penalties on a critic's gradient."""

import dataclasses
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from jaxnets.axis import psum
from jaxnets.typing import Array

__all__ = ["FeatureMatching", "LeCam", "feature_distance", "lecam"]


def lecam(real: Array, fake: Array, mean_real: Array, mean_fake: Array) -> Array:
    """`relu(D(x) - a_f)^2 + relu(a_r - D(G(z)))^2`: a critic kept near what it said so far.

    a_r and a_f are moving averages of its logits of reals and fakes. The cut at zero is that of
    the authors' code; eq. 5 of the paper has none.

    Args:
      real: [B] logits of reals.
      fake: [B] logits of fakes.
      mean_real: a_r, [].
      mean_fake: a_f, [].

    Returns:
      [B]; the caller multiplies by the weight.

    Reference:
      Tseng et al. 2021, Regularizing Generative Adversarial Networks under Limited Data,
      arXiv:2104.03310.
    """
    chex.assert_equal_shape([real, fake])
    above = jax.nn.relu(real - mean_fake)
    below = jax.nn.relu(mean_real - fake)
    return jnp.square(above) + jnp.square(below)


@dataclasses.dataclass(frozen=True)
class LeCam:
    """`lecam` in a step, which keeps the two averages in the state's `extra`.

    Attributes:
      weight: factor in the discriminator's loss; the paper has 0.3 for CIFAR at a tenth of the
        data, 0.01 for all of it.
      decay: share of the old averages that a step keeps.
    """

    weight: Array | float = 0.3
    decay: float = 0.99

    def after(self, mean: Array, new: Array) -> Array:
        """The next average [], where a step's mean logit is `new`."""
        return self.decay * mean + (1.0 - self.decay) * jax.lax.stop_gradient(new)


def feature_distance(real: Array, fake: Array, mask: Array) -> Array:
    """`|mean f(x) - mean f(G(z))|^2`, the means over the batches of all devices.

    Args:
      real: [B, ...] features of reals; no gradient flows into them.
      fake: [B, ...] features of fakes.
      mask: [B], zero for an example that does not count.

    Returns:
      [B], the same number for each example.

    Reference:
      Salimans et al. 2016, Improved Techniques for Training GANs, arXiv:1606.03498, section 3.1.
    """
    chex.assert_equal_shape([real, fake])
    real = jax.lax.stop_gradient(real)
    difference = (fake - real).reshape(len(mask), -1).astype(jnp.float32)
    kept = jnp.where(mask[:, None] > 0, difference, 0.0)
    total, count = psum((kept.sum(axis=0), (mask > 0).astype(jnp.float32).sum()))
    distance = jnp.square(total / jnp.maximum(count, 1.0)).sum()
    return jnp.full(mask.shape, distance)


@dataclasses.dataclass(frozen=True)
class FeatureMatching:
    """`feature_distance` in the generator's loss.

    Attributes:
      weight: its factor.
      features: images [B, H, W, C] in [-1, 1] -> features [B, ...], of any CNN; None takes the
        discriminator's "penultimate".
    """

    weight: Array | float = 1.0
    features: Callable[[Array], Array] | None = None
