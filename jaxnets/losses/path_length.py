"""Path length regularisation: a step in the styles is to change the image by as much everywhere.

The length is that of `g = J_w^T y`, a gradient, and a loss of it would be differentiated in reverse
over reverse. As in `jaxnets.losses.penalties` it need not be: for a penalty `phi(g)`

    d phi(g) / d theta = <v, d g / d theta>,  v = grad phi(g) held constant,

and `<v, g> = y^T (J_w v)`: the directional derivative of the images along v, one forward-mode pass,
differentiated once in reverse. The returned value is `phi(g)` itself.

Reference: Karras et al. 2020, https://arxiv.org/abs/1912.04958, section 3.2 and appendix B
"""

import dataclasses
import math
import types
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp

from jaxnets.devices.axis import example_keys
from jaxnets.errors import UserError
from jaxnets.losses.terms import Play, Term, Weight
from jaxnets.typing import Array, Metrics, PRNGKey

__all__ = ["PathLength", "path_length_penalty"]

#: Styles [B, S, W] -> images [B, *spatial, C], each of its own styles alone.
Synthesise = Callable[[Array], Array]


def path_length_penalty(
    synthesise: Synthesise, key: PRNGKey, w: Array, mean: Array | float, decay: float = 0.01
) -> tuple[Array, Array]:
    """`(|J_w^T y| - mean)^2` for each example, y ~ N(0, I) / sqrt(pixels), and what moves the mean.

    Both networks learn from it: the synthesis by `synthesise`, the mapping by `w`.

    Args:
      synthesise: styles -> images; the same noise at each call.
      key: equal on every device; each global example draws its own y.
      w: styles [B, S, W], one for each layer; the square of the length is a mean over these.
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
class PathLength(Term):
    """`path_length_penalty` in the loss of a generator with styles; the state keeps the mean.

    Such a generator has the methods `map` and `synthesise`, as
    `jaxnets.models.style_gan.Generator` has. Its latents are drawn for this term alone.

    Attributes:
      weight: the paper has 2. Where the term is there at every n-th step only, n times that.
      decay: how much of a batch goes into the mean.
    """

    weight: Weight = 2.0
    decay: float = 0.01
    player = "generator"
    extra = types.MappingProxyType({"path_length_mean": 0.0})

    def __call__(self, play: Play, key: PRNGKey) -> tuple[Array, Metrics]:
        """Values [B] and the metrics `path_length` and `path_length_mean`."""
        if not hasattr(play.module, "synthesise"):
            raise UserError(
                f"path length regularisation needs a generator with styles, and "
                f"{type(play.module).__name__} has none"
            )
        latent_key, y_key, noise_key = jax.random.split(key, 3)
        apply = partial(play.module.apply, play.variables)
        w: Any = apply(_normal(latent_key, play.latents), play.labels, method="map")

        def synthesise(w: Array) -> Array:
            images = apply(w, train=True, method="synthesise", rngs={"dropout": noise_key})
            return images[0]  # type: ignore[no-any-return]

        mean = play.extra["path_length_mean"]
        values, means = path_length_penalty(synthesise, y_key, w, mean, self.decay)
        return values, {"path_length": play.mean(values), "path_length_mean": play.mean(means)}

    def after(self, extra: Mapping[str, Array], metrics: Metrics) -> Mapping[str, Array]:
        """The mean length, moved towards that of this step."""
        return {"path_length_mean": metrics["path_length_mean"].on_device()}


def _normal(key: PRNGKey, like: Array) -> Array:
    """From N(0, I) in the shape of `like` [B, ...], each global example by its own key."""
    draw = jax.vmap(lambda k: jax.random.normal(k, like.shape[1:], like.dtype))
    return draw(example_keys(key, like.shape[0]))


def _length(gradient: Array) -> Array:
    # The square root has no slope at 0: a generator that heeds no styles gives no NaN.
    return jnp.sqrt(jnp.square(gradient).sum(axis=2).mean(axis=1) + 1e-12)


def _slopes(synthesise: Synthesise, key: PRNGKey, w: Array) -> tuple[Array, Array]:
    """`J_w^T y` [B, S, W] and y [B, *spatial, C], both constant."""
    chex.assert_rank(w, 3)
    images, pull = jax.vjp(synthesise, w)
    y = _normal(key, images) * math.prod(images.shape[1:-1]) ** -0.5
    return jax.lax.stop_gradient(pull(y)[0]), y
