"""What a discriminator and a generator minimise, by name.

Every function takes the logits of reals and fakes, [B] each, and returns one value per pair; of a
discriminator with S heads, [B, S], it is the sum over the heads. Only the relativistic generator
looks at the reals.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from jaxnets.registry import Registry
from jaxnets.typing import Array

__all__ = ["ADVERSARIAL_LOSSES", "AdversarialLoss", "adversarial_loss"]

_Objective = Callable[[Array, Array], Array]


@dataclasses.dataclass(frozen=True)
class AdversarialLoss:
    """The two sides of one game.

    Attributes:
      d_loss: (real_logits [B], fake_logits [B]) -> [B] float32, for the discriminator.
      g_loss: the same for the generator.
      relative: whether only differences of logits count, so that the sign of one says nothing.
      border: the logit of an image that a discriminator can't place, where they are not relative.
    """

    d_loss: _Objective
    g_loss: _Objective
    relative: bool = False
    border: float = 0.0

    def signs(self, real_logits: Array, fake_logits: Array) -> tuple[Array, Array]:
        """Signs [B] of the distances of reals and of fakes from the border; 1 is taken for real.

        Where the loss is relative, an image's border is the logit of the other one of its pair.
        """
        if self.relative:
            return jnp.sign(real_logits - fake_logits), jnp.sign(fake_logits - real_logits)
        return jnp.sign(real_logits - self.border), jnp.sign(fake_logits - self.border)


def _checked(objective: _Objective) -> _Objective:
    def loss(real_logits: Array, fake_logits: Array) -> Array:
        chex.assert_rank([real_logits, fake_logits], {1, 2})
        chex.assert_equal_shape([real_logits, fake_logits])
        values = objective(real_logits.astype(jnp.float32), fake_logits.astype(jnp.float32))
        return values if values.ndim == 1 else values.sum(axis=1)

    return loss


def _logistic(real: Array, fake: Array) -> Array:
    # -log s(D(x)) - log(1 - s(D(G(z)))) with s the sigmoid; both logarithms by softplus.
    return jax.nn.softplus(-real) + jax.nn.softplus(fake)


def _game(d_loss: _Objective, g_loss: _Objective, **more: Any) -> AdversarialLoss:
    return AdversarialLoss(_checked(d_loss), _checked(g_loss), **more)


ADVERSARIAL_LOSSES: Registry[AdversarialLoss] = Registry(
    "adversarial loss",
    {
        # The first paper's saturating game: Goodfellow et al. 2014, arXiv:1406.2661, eq. 1.
        "minimax": _game(
            _logistic,
            lambda real, fake: -jax.nn.softplus(fake),  # vanishes where the discriminator is sure
        ),
        # The logistic game with the generator's useful gradient: the same, section 3.
        "non_saturating": _game(_logistic, lambda real, fake: jax.nn.softplus(-fake)),
        # Squared distance to labels 1 and 0: Mao et al. 2017, LSGAN, arXiv:1611.04076, eq. 9.
        "least_squares": _game(
            lambda real, fake: 0.5 * (jnp.square(real - 1.0) + jnp.square(fake)),
            lambda real, fake: 0.5 * jnp.square(fake - 1.0),
            border=0.5,
        ),
        # Margins of the discriminator: Lim and Ye 2017, arXiv:1705.02894; Miyato et al. 2018,
        # arXiv:1802.05957, eq. 16 and 17.
        "hinge": _game(
            lambda real, fake: jax.nn.relu(1.0 - real) + jax.nn.relu(1.0 + fake),
            lambda real, fake: -fake,
        ),
        # Difference of a critic's means, which wants a Lipschitz penalty: Arjovsky et al. 2017,
        # arXiv:1701.07875.
        "wasserstein": _game(
            lambda real, fake: fake - real, lambda real, fake: -fake, relative=True
        ),
        # Each real against its own fake: Jolicoeur-Martineau 2018, arXiv:1807.00734; with R1 and R2
        # in Huang et al. 2024, R3GAN, arXiv:2501.05441.
        "relativistic": _game(
            lambda real, fake: jax.nn.softplus(fake - real),  # one real paired with one fake
            lambda real, fake: jax.nn.softplus(real - fake),
            relative=True,
        ),
    },
)


def adversarial_loss(name: str) -> AdversarialLoss:
    """The game registered under `name`.

    Raises:
      UserError: if there is none; the message lists those there are.
    """
    return ADVERSARIAL_LOSSES[name]
