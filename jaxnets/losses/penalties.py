"""Penalties on a critic: on its gradient in the images, and on what it makes of shifts.

Differentiating a norm of a gradient differentiates a gradient: reverse over reverse, which is slow
with XLA's convolutions, on a CPU above all (strided ones transposed twice). It is not needed. For a
penalty `phi(g)` of `g = grad_x D(x)`, the chain rule gives

    d phi(g) / d theta = <v, d g / d theta>,  v = grad phi(g) held constant,

and `<v, g>` is the directional derivative of D along v: one forward-mode pass, differentiated once
in reverse. `D` and its R1 step fall from 11.1 to 3.3 ms on two CPU cores, with the same gradient to
4e-8. The returned *value* is `phi(g)` itself; the difference is a constant that carries no slope.

With the kernels of `jaxnets.ops.native` there is nothing slow to avoid, for the transposes of a
convolution are convolutions of the same kind. Then reverse over reverse it is: six passes over the
network (forward, backward, and two for each of them), where the other way takes seven.

A critic here maps images [B, ...] to logits [B], and every logit must depend on its own image alone
(no BatchNorm over the batch), for the sum of the logits stands in for each of them. A convolution
with a `custom_vjp` has no forward mode and cannot be used inside one.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import chex
import jax
import jax.numpy as jnp

from jaxnets import ops
from jaxnets.augment import apply, translate
from jaxnets.axis import example_keys
from jaxnets.registry import Registry
from jaxnets.typing import Array, PRNGKey

__all__ = [
    "PENALTIES",
    "Penalty",
    "consistency",
    "dragan",
    "gradient_penalty",
    "logits_and_r1",
    "penalty",
    "r1",
    "r2",
]

Critic = Callable[[Array], Array]


@dataclasses.dataclass(frozen=True)
class Penalty:
    """A penalty, and where it looks: `(critic, key, real, fake) -> [B]`.

    Attributes:
      at: "real" or "fake" where it differentiates the critic at those very images, so that the
        critic's logits there are to be had for nothing; "between" for anywhere else.
      with_logits: `(critic, key, real, fake) -> (logits [B], penalties [B])`.
    """

    at: Literal["real", "fake", "between"]
    with_logits: Callable[[Critic, PRNGKey, Array, Array], tuple[Array, Array]]

    def __call__(self, critic: Critic, key: PRNGKey, real: Array, fake: Array) -> Array:
        """The penalties [B]."""
        return self.with_logits(critic, key, real, fake)[1]


def _penalised(critic: Critic, images: Array, phi: Callable[[Array], Array]) -> tuple[Array, Array]:
    """Logits [B] and `phi(grad_x critic)` [B], with first derivatives exact for both."""

    def total(x: Array) -> tuple[Array, Array]:
        logits = critic(x)
        chex.assert_shape(logits, (images.shape[0],))
        return logits.sum(), logits

    gradient, logits = jax.grad(total, has_aux=True)(images)
    if ops.form(images.dtype) == "native":
        return logits, phi(gradient)
    gradient = jax.lax.stop_gradient(gradient)
    value = phi(gradient)
    direction = jax.grad(lambda g: phi(g).sum())(gradient)
    logits, slope = jax.jvp(critic, (images,), (direction,))
    return logits, value + (slope - jax.lax.stop_gradient(slope))


def _half_squared_norm(gradient: Array) -> Array:
    return 0.5 * jnp.square(gradient).sum(axis=tuple(range(1, gradient.ndim)))


def logits_and_r1(critic: Critic, images: Array) -> tuple[Array, Array]:
    """The critic's logits and `r1`, for the price of `r1` alone.

    Args:
      critic: images -> logits [B].
      images: [B, ...].

    Returns:
      logits [B] and penalties [B].
    """
    return _penalised(critic, images, _half_squared_norm)


def r1(critic: Critic, images: Array) -> Array:
    """`|grad_x D(x)|^2 / 2` for each example, the square summed over all its axes.

    Args:
      critic: images -> logits [B]; with augmentation, the critic behind it, so that the gradient
        is with respect to the plain images.
      images: [B, ...], reals.

    Returns:
      [B]; the caller multiplies by gamma.

    Reference:
      Mescheder et al. 2018, Which Training Methods for GANs do actually Converge?,
      arXiv:1801.04406, eq. 9.
    """
    return logits_and_r1(critic, images)[1]


def r2(critic: Critic, images: Array) -> Array:
    """`r1` on fakes: `|grad_x D(G(z))|^2 / 2` (Mescheder et al. 2018, eq. 10)."""
    return r1(critic, images)


def gradient_penalty(
    critic: Critic, key: PRNGKey, real: Array, fake: Array, *, target: float = 1.0
) -> Array:
    """WGAN-GP: `(|grad D(x)| - target)^2` at `x = e real + (1 - e) fake`, e uniform on [0, 1].

    Args:
      critic: images -> logits [B].
      key: equal on every device; each global example draws its own e.
      real: [B, ...].
      fake: [B, ...], the same shape.
      target: the gradient norm to hold.

    Returns:
      [B]; the caller multiplies by lambda (10 in the paper).

    Reference:
      Gulrajani et al. 2017, Improved Training of Wasserstein GANs, arXiv:1704.00028, eq. 3.
    """
    return _logits_and_gradient_penalty(critic, key, real, fake, target)[1]


def _logits_and_gradient_penalty(
    critic: Critic, key: PRNGKey, real: Array, fake: Array, target: float = 1.0
) -> tuple[Array, Array]:
    chex.assert_equal_shape([real, fake])
    keys = example_keys(key, real.shape[0])
    share = jax.vmap(lambda k: jax.random.uniform(k, dtype=real.dtype))(keys)
    share = share.reshape(-1, *(1,) * (real.ndim - 1))
    between = share * real + (1.0 - share) * fake

    return _penalised(critic, between, _distance_of_norm(target))


def _distance_of_norm(target: float) -> Callable[[Array], Array]:
    def phi(gradient: Array) -> Array:
        # The square root has no slope at 0: a flat critic gives a finite penalty, not NaN.
        norm = jnp.sqrt(2.0 * _half_squared_norm(gradient) + 1e-12)
        return jnp.square(norm - target)

    return phi


def dragan(critic: Critic, key: PRNGKey, real: Array, *, target: float = 1.0) -> Array:
    """DRAGAN: `(|grad D(x)| - target)^2` around the reals, at `x = real + a s u / 2`.

    a is uniform on [0, 1] for each example, u for each of its numbers, and s the standard deviation
    of that image's numbers; the authors' code takes that of the batch, which would depend on what
    else is in it.

    Args:
      critic: images -> logits [B].
      key: equal on every device; each global example draws its own a and u.
      real: [B, ...].
      target: the gradient norm to hold.

    Returns:
      [B]; the caller multiplies by lambda (10 in the paper).

    Reference:
      Kodali et al. 2017, On Convergence and Stability of GANs, arXiv:1705.07215, section 2.3.
    """
    return _logits_and_dragan(critic, key, real, target)[1]


def _logits_and_dragan(
    critic: Critic, key: PRNGKey, real: Array, target: float = 1.0
) -> tuple[Array, Array]:
    def near(key: PRNGKey, image: Array) -> Array:
        share_key, noise_key = jax.random.split(key)
        share = jax.random.uniform(share_key, dtype=image.dtype)
        noise = jax.random.uniform(noise_key, image.shape, image.dtype)
        return image + 0.5 * share * image.std() * noise

    around = jax.vmap(near)(example_keys(key, real.shape[0]), real)
    return _penalised(critic, around, _distance_of_norm(target))


def consistency(critic: Critic, key: PRNGKey, real: Array) -> Array:
    """`(D(x) - D(T(x)))^2`, T a random shift by up to an eighth: a critic that heeds no shifts.

    The paper's T also mirrors, which neither digits nor letters survive; mirror the data instead
    where it may be.

    Args:
      critic: images -> logits [B].
      key: equal on every device; each global example draws its own T.
      real: [B, *spatial, C].

    Returns:
      [B]; the caller multiplies by lambda (10 in the paper).

    Reference:
      Zhang et al. 2020, Consistency Regularization for Generative Adversarial Networks,
      arXiv:1910.12027, eq. 4.
    """
    return _logits_and_consistency(critic, key, real)[1]


def _logits_and_consistency(critic: Critic, key: PRNGKey, real: Array) -> tuple[Array, Array]:
    logits = critic(real)
    chex.assert_shape(logits, (real.shape[0],))
    shifted = apply(translate, example_keys(key, real.shape[0]), real)
    return logits, jnp.square(logits - critic(shifted))


def _logits_and_both(critic: Critic, key: PRNGKey, real: Array, fake: Array) -> tuple[Array, Array]:
    logits, at_real = logits_and_r1(critic, real)
    return logits, at_real + r2(critic, fake)


PENALTIES: Registry[Penalty] = Registry(
    "penalty",
    {
        "r1": Penalty("real", lambda critic, key, real, fake: logits_and_r1(critic, real)),
        "r2": Penalty("fake", lambda critic, key, real, fake: logits_and_r1(critic, fake)),
        # Both, as in Huang et al. 2024, The GAN is dead; long live the GAN!, arXiv:2501.05441.
        "r1_r2": Penalty("real", _logits_and_both),
        "wgan_gp": Penalty("between", _logits_and_gradient_penalty),
        "dragan": Penalty(
            "between", lambda critic, key, real, fake: _logits_and_dragan(critic, key, real)
        ),
        "consistency": Penalty(
            "real", lambda critic, key, real, fake: _logits_and_consistency(critic, key, real)
        ),
    },
)


def penalty(name: str) -> Penalty:
    """The penalty `(critic, key, real, fake) -> [B]` registered under `name`.

    Raises:
      UserError: if there is none; the message lists those there are.
    """
    return PENALTIES[name]
