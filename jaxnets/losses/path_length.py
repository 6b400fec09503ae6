"""Path length regularisation: a step in the styles is to change the image by as much everywhere.

The length is that of `g = J_w^T y`, a gradient, and a loss of it would be differentiated in reverse
over reverse. As in `jaxnets.losses.penalties` it need not be: for a penalty `phi(g)`

    d phi(g) / d theta = <v, d g / d theta>,  v = grad phi(g) held constant,

and `<v, g> = y^T (J_w v)`: the directional derivative of the images along v, one forward-mode pass,
differentiated once in reverse. The returned value is `phi(g)` itself.

Reference: Karras et al. 2020, https://arxiv.org/abs/1912.04958, section 3.2 and appendix B
"""

import dataclasses
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from jaxnets.axis import example_keys
from jaxnets.typing import Array, PRNGKey

__all__ = ["PathLength", "path_length_penalty", "path_lengths"]

#: Styles [B, S, W] -> images [B, *spatial, C], each of its own styles alone.
Synthesise = Callable[[Array], Array]


def path_lengths(synthesise: Synthesise, key: PRNGKey, w: Array) -> Array:
    """`|J_w^T y|` for each example, y ~ N(0, I) / sqrt(pixels), as if w were constant.

    Args:
      synthesise: styles -> images; the same noise at each call.
      key: equal on every device; each global example draws its own y.
      w: styles [B, S, W], one for each layer; the square of the length is a mean over these.

    Returns:
      [B], not differentiable: see `path_length_penalty`.
    """
    return _length(_slopes(synthesise, key, w)[0])


def path_length_penalty(
    synthesise: Synthesise, key: PRNGKey, w: Array, mean: Array | float, decay: float = 0.01
) -> tuple[Array, Array]:
    """`(|J_w^T y| - mean)^2` for each example, and what moves the mean.

    Both networks learn from it: the synthesis by `synthesise`, the mapping by `w`.

    Args:
      synthesise: see `path_lengths`.
      key: likewise.
      w: likewise.
      mean: a moving average of the lengths, which starts at 0 and is part of the state. The
        authors move it before they use it, here it is that of the steps before: then nothing has
        to cross the devices in the midst of a step.
      decay: how much of a batch goes into the average.

    Returns:
      Penalties [B], which the caller multiplies by a weight (2 in the paper), and [B] of which the
      mean over the whole batch, on all devices, is the next `mean`.
    """
    gradient, y = _slopes(synthesise, key, w)
    mean = jax.lax.stop_gradient(jnp.asarray(mean, gradient.dtype))

    def phi(g: Array) -> Array:
        return jnp.square(_length(g) - mean)

    direction = jax.grad(lambda g: phi(g).sum())(gradient)
    _, change = jax.jvp(synthesise, (w,), (direction,))
    slope = (y * change).sum(axis=tuple(range(1, y.ndim)))
    penalty = phi(gradient) + (slope - jax.lax.stop_gradient(slope))
    return penalty, mean + decay * (_length(gradient) - mean)


@dataclasses.dataclass(frozen=True)
class PathLength:
    """`path_length_penalty` in a step, which keeps the mean length in the state's `extra`.

    Attributes:
      weight: factor in the generator's loss; the paper has 2. Where the penalty is applied at
        every n-th step only, n times that.
      decay: how much of a batch goes into the mean.
    """

    weight: Array | float = 2.0
    decay: float = 0.01

    def of(
        self, synthesise: Synthesise, key: PRNGKey, w: Array, mean: Array | float
    ) -> tuple[Array, Array]:
        """See `path_length_penalty`."""
        return path_length_penalty(synthesise, key, w, mean, self.decay)


def _length(gradient: Array) -> Array:
    # The square root has no slope at 0: a generator that heeds no styles gives no NaN.
    return jnp.sqrt(jnp.square(gradient).sum(axis=2).mean(axis=1) + 1e-12)


def _slopes(synthesise: Synthesise, key: PRNGKey, w: Array) -> tuple[Array, Array]:
    """`J_w^T y` [B, S, W] and y [B, *spatial, C], both constant."""
    chex.assert_rank(w, 3)
    images, pull = jax.vjp(synthesise, w)
    keys = example_keys(key, w.shape[0])
    pixels = 1
    for size in images.shape[1:-1]:
        pixels *= size
    draw = jax.vmap(lambda k: jax.random.normal(k, images.shape[1:], images.dtype))
    y = draw(keys) * pixels**-0.5
    return jax.lax.stop_gradient(pull(y)[0]), y
