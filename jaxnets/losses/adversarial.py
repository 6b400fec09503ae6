"""What a discriminator and a generator minimise, by name.

Every function takes the logits of reals and fakes, [B] each, and returns one value per pair.
Only the relativistic generator looks at the reals.
"""

import dataclasses
from collections.abc import Callable

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
      name: key in `ADVERSARIAL_LOSSES`.
      d_loss: (real_logits [B], fake_logits [B]) -> [B] float32, for the discriminator.
      g_loss: the same for the generator.
      doc: one sentence with the paper, for help texts.
      relative: whether only differences of logits count, so that the sign of one says nothing.
      border: the logit of an image that a discriminator can't place, where they are not relative.
    """

    name: str
    d_loss: _Objective
    g_loss: _Objective
    doc: str
    relative: bool = False
    border: float = 0.0

    def signs(self, real_logits: Array, fake_logits: Array) -> tuple[Array, Array]:
        """On which side of its border a discriminator puts reals and fakes.

        Args:
          real_logits: [B].
          fake_logits: [B].

        Returns:
          Signs [B] of the distances from the border, above 0 for what is taken for real. Where the
          loss is relative, the border of each image is the logit of the other one of its pair.
        """
        if self.relative:
            return jnp.sign(real_logits - fake_logits), jnp.sign(fake_logits - real_logits)
        return jnp.sign(real_logits - self.border), jnp.sign(fake_logits - self.border)


ADVERSARIAL_LOSSES: Registry[AdversarialLoss] = Registry("adversarial loss", {})


def _checked(objective: _Objective) -> _Objective:
    def loss(real_logits: Array, fake_logits: Array) -> Array:
        chex.assert_rank([real_logits, fake_logits], 1)
        chex.assert_equal_shape([real_logits, fake_logits])
        return objective(real_logits.astype(jnp.float32), fake_logits.astype(jnp.float32))

    loss.__doc__ = objective.__doc__
    return loss


def _register(
    name: str, doc: str, d_loss: _Objective, g_loss: _Objective, **border: bool | float
) -> None:
    loss = AdversarialLoss(name, _checked(d_loss), _checked(g_loss), doc, **border)  # type: ignore[arg-type]
    ADVERSARIAL_LOSSES[name] = loss


def _logistic_d(real: Array, fake: Array) -> Array:
    """`-log s(D(x)) - log(1 - s(D(G(z))))` with s the sigmoid; both logarithms by softplus."""
    return jax.nn.softplus(-real) + jax.nn.softplus(fake)


def _minimax_g(real: Array, fake: Array) -> Array:
    """`log(1 - s(D(G(z))))`: vanishes where the discriminator is sure."""
    return -jax.nn.softplus(fake)


def _non_saturating_g(real: Array, fake: Array) -> Array:
    """`-log s(D(G(z)))`."""
    return jax.nn.softplus(-fake)


def _least_squares_d(real: Array, fake: Array) -> Array:
    """`((D(x) - 1)^2 + D(G(z))^2) / 2`."""
    return 0.5 * (jnp.square(real - 1.0) + jnp.square(fake))


def _least_squares_g(real: Array, fake: Array) -> Array:
    """`(D(G(z)) - 1)^2 / 2`."""
    return 0.5 * jnp.square(fake - 1.0)


def _hinge_d(real: Array, fake: Array) -> Array:
    """`max(0, 1 - D(x)) + max(0, 1 + D(G(z)))`."""
    return jax.nn.relu(1.0 - real) + jax.nn.relu(1.0 + fake)


def _critic_g(real: Array, fake: Array) -> Array:
    """`-D(G(z))`."""
    return -fake


def _wasserstein_d(real: Array, fake: Array) -> Array:
    """`D(G(z)) - D(x)`."""
    return fake - real


def _relativistic_d(real: Array, fake: Array) -> Array:
    """`softplus(-(D(x) - D(G(z))))`, one real paired with one fake."""
    return jax.nn.softplus(fake - real)


def _relativistic_g(real: Array, fake: Array) -> Array:
    """`softplus(-(D(G(z)) - D(x)))`."""
    return jax.nn.softplus(real - fake)


_register(
    "minimax",
    "The saturating game of the first paper: Goodfellow et al. 2014, arXiv:1406.2661, eq. 1.",
    _logistic_d,
    _minimax_g,
)
_register(
    "non_saturating",
    "The logistic game with the generator's useful gradient: Goodfellow et al. 2014, "
    "arXiv:1406.2661, section 3.",
    _logistic_d,
    _non_saturating_g,
)
_register(
    "least_squares",
    "Squared distance to the labels 1 and 0: Mao et al. 2017, LSGAN, arXiv:1611.04076, eq. 9.",
    _least_squares_d,
    _least_squares_g,
    border=0.5,
)
_register(
    "hinge",
    "Margins of the discriminator: Lim and Ye 2017, arXiv:1705.02894; Miyato et al. 2018, "
    "arXiv:1802.05957, eq. 16 and 17.",
    _hinge_d,
    _critic_g,
)
_register(
    "wasserstein",
    "Difference of a critic's means, which wants a Lipschitz penalty: Arjovsky et al. 2017, "
    "arXiv:1701.07875.",
    _wasserstein_d,
    _critic_g,
    relative=True,
)
_register(
    "relativistic",
    "Each real against its own fake: Jolicoeur-Martineau 2018, arXiv:1807.00734; with R1 and R2 "
    "in Huang et al. 2024, R3GAN, arXiv:2501.05441.",
    _relativistic_d,
    _relativistic_g,
    relative=True,
)


def adversarial_loss(name: str) -> AdversarialLoss:
    """The game registered under `name`.

    Raises:
      UserError: if there is none; the message lists those there are.
    """
    return ADVERSARIAL_LOSSES[name]
