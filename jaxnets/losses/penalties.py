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
from jaxnets.data.augment import apply, translate
from jaxnets.devices.axis import example_keys
from jaxnets.losses.terms import Play, Term, Weight
from jaxnets.registry import Registry
from jaxnets.typing import Array, Metrics, PRNGKey

__all__ = ["PENALTIES", "Penalty", "penalty"]

Critic = Callable[[Array], Array]


@dataclasses.dataclass(frozen=True)
class Penalty(Term):
    """A penalty on the critic, as a term of the discriminator's loss.

    Attributes:
      at: "real" or "fake" where it looks at the critic at those very images, so that the critic's
        logits there are to be had for nothing; "between" for anywhere else.
      with_logits: `(critic, key, real, fake) -> (logits [B], penalties [B])`.
      weight: its factor: gamma of R1 and R2, lambda of the others.
    """

    at: Literal["real", "fake", "between"]
    with_logits: Callable[[Critic, PRNGKey, Array, Array], tuple[Array, Array]]
    weight: Weight = 1.0

    def __call__(self, play: Play, key: PRNGKey) -> tuple[Array, Metrics]:
        """Values [B] and the metric `penalty`."""
        critic = play.critics[self.at == "fake"]
        values = self.with_logits(critic, key, play.real.inputs, play.fake.inputs)[1]
        return values, {"penalty": play.mean(values)}

    def knowing(self, outputs: tuple[Array, Array]) -> "Penalty":
        """The same term, whose pass was made already, with these logits and penalties."""
        return dataclasses.replace(self, with_logits=lambda *_: outputs)


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


def _distance_of_norm(gradient: Array) -> Array:
    # The square root has no slope at 0: a flat critic gives a finite penalty, not NaN.
    norm = jnp.sqrt(2.0 * _half_squared_norm(gradient) + 1e-12)
    return jnp.square(norm - 1.0)


def _r1(critic: Critic, key: PRNGKey, real: Array, fake: Array) -> tuple[Array, Array]:
    """`|grad_x D(x)|^2 / 2` at the reals, the square summed over all axes of an example.

    Reference:
      Mescheder et al. 2018, Which Training Methods for GANs do actually Converge?,
      arXiv:1801.04406, eq. 9.
    """
    return _penalised(critic, real, _half_squared_norm)


def _r2(critic: Critic, key: PRNGKey, real: Array, fake: Array) -> tuple[Array, Array]:
    """R1 at the fakes: `|grad_x D(G(z))|^2 / 2` (Mescheder et al. 2018, eq. 10)."""
    return _penalised(critic, fake, _half_squared_norm)


def _r1_r2(critic: Critic, key: PRNGKey, real: Array, fake: Array) -> tuple[Array, Array]:
    """The sum of both, as in Huang et al. 2024, R3GAN, arXiv:2501.05441."""
    logits, at_real = _r1(critic, key, real, fake)
    return logits, at_real + _r2(critic, key, real, fake)[1]


def _wgan_gp(critic: Critic, key: PRNGKey, real: Array, fake: Array) -> tuple[Array, Array]:
    """`(|grad D(x)| - 1)^2` at `x = e real + (1 - e) fake`, e uniform on [0, 1].

    Reference:
      Gulrajani et al. 2017, Improved Training of Wasserstein GANs, arXiv:1704.00028, eq. 3, with a
      weight of 10.
    """
    chex.assert_equal_shape([real, fake])
    keys = example_keys(key, real.shape[0])
    share = jax.vmap(lambda k: jax.random.uniform(k, dtype=real.dtype))(keys)
    share = share.reshape(-1, *(1,) * (real.ndim - 1))
    return _penalised(critic, share * real + (1.0 - share) * fake, _distance_of_norm)


def _dragan(critic: Critic, key: PRNGKey, real: Array, fake: Array) -> tuple[Array, Array]:
    """`(|grad D(x)| - 1)^2` around the reals, at `x = real + a s u / 2`.

    a is uniform on [0, 1] for each example, u for each of its numbers, and s the standard deviation
    of that image's numbers; the authors' code takes that of the batch, which would depend on what
    else is in it.

    Reference:
      Kodali et al. 2017, On Convergence and Stability of GANs, arXiv:1705.07215, section 2.3, with
      a weight of 10.
    """

    def near(key: PRNGKey, image: Array) -> Array:
        share_key, noise_key = jax.random.split(key)
        share = jax.random.uniform(share_key, dtype=image.dtype)
        noise = jax.random.uniform(noise_key, image.shape, image.dtype)
        return image + 0.5 * share * image.std() * noise

    around = jax.vmap(near)(example_keys(key, real.shape[0]), real)
    return _penalised(critic, around, _distance_of_norm)


def _consistency(critic: Critic, key: PRNGKey, real: Array, fake: Array) -> tuple[Array, Array]:
    """`(D(x) - D(T(x)))^2`, T a random shift by up to an eighth: a critic that heeds no shifts.

    The paper's T also mirrors, which neither digits nor letters survive; mirror the data instead
    where it may be.

    Reference:
      Zhang et al. 2020, Consistency Regularization for Generative Adversarial Networks,
      arXiv:1910.12027, eq. 4, with a weight of 10.
    """
    logits = critic(real)
    chex.assert_shape(logits, (real.shape[0],))
    shifted = apply(translate, example_keys(key, real.shape[0]), real)
    return logits, jnp.square(logits - critic(shifted))


PENALTIES: Registry[Penalty] = Registry(
    "penalty",
    {
        "r1": Penalty("real", _r1),
        "r2": Penalty("fake", _r2),
        "r1_r2": Penalty("real", _r1_r2),
        "wgan_gp": Penalty("between", _wgan_gp),
        "dragan": Penalty("between", _dragan),
        "consistency": Penalty("real", _consistency),
    },
)


def penalty(name: str, weight: Weight = 1.0) -> Penalty:
    """The penalty registered under `name`, with this weight.

    Raises:
      UserError: if there is none; the message lists those there are.
    """
    return dataclasses.replace(PENALTIES[name], weight=weight)
