"""Generators at work: samples, truncated or not, mixtures of styles, walks through the latents."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.columns import to_uint8
from jaxnets.devices.placement import own_copy
from jaxnets.errors import UserError
from jaxnets.typing import Array, PRNGKey, PyTree

__all__ = [
    "Sample",
    "Walk",
    "apply",
    "has_styles",
    "make_sample",
    "make_walk",
    "mean_style",
    "slerp",
    "style_mixing",
]

#: (variables, key, labels [N] or count N[, truncation]) -> images [N, H, W, C] in [-1, 1].
Sample = Callable[..., np.ndarray]

#: (variables, key, labels [K] or count K, points, frames) -> images [points * frames, K, H, W, C].
Walk = Callable[..., np.ndarray]

#: Latents whose styles are averaged: the mean of 1024 is a 32nd of their spread away from that of
#: all.
_MAPPED = 1024


def apply(module: nn.Module, variables: PyTree, *inputs: Any) -> tuple[Array, Any]:
    """What the module gives in evaluation: (output, features)."""
    output: Any = module.apply(variables, *inputs, train=False)
    return output


def has_styles(generator: nn.Module) -> bool:
    """Whether its latents become styles first, by `map`, and those images, by `synthesise`."""
    return all(hasattr(generator, name) for name in ("map", "synthesise", "num_styles"))


def _map(generator: nn.Module, variables: PyTree, latents: Array, labels: Array | None) -> Array:
    styles: Any = generator.apply(variables, latents, labels, method="map")
    return styles


def _synthesise(generator: nn.Module, variables: PyTree, styles: Array) -> Array:
    output: Any = generator.apply(variables, styles, train=False, method="synthesise")
    return output[0]


def _keys(key: PRNGKey, index: Array) -> Array:
    return jax.vmap(partial(jax.random.fold_in, key))(index)


def _latents(key: PRNGKey, index: Array, size: int) -> Array:
    """[N, size] from N(0, I): that of sample i depends on the key and on i alone."""
    return jax.vmap(lambda one: jax.random.normal(one, (size,)))(_keys(key, index))


def mean_style(
    generator: nn.Module,
    variables: PyTree,
    key: PRNGKey,
    labels: Array | None = None,
    count: int = _MAPPED,
) -> Array:
    """The mean style of each class [K, S, W], over the same `count` latents.

    The generator has styles (see `has_styles`), and labels [K]; without classes K is 1.
    """
    size: int = generator.latent_size  # type: ignore[attr-defined]
    latents = jax.random.normal(key, (count, size))

    def of_class(label: Array) -> Array:
        asked = None if labels is None else jnp.full(count, label)
        return _map(generator, variables, latents, asked).mean(axis=0)

    return jax.lax.map(of_class, jnp.zeros(1, jnp.int32) if labels is None else jnp.asarray(labels))


def _classes(labels: np.ndarray | int, conditional: bool) -> np.ndarray:
    """Labels [N] int32; zeros, which stand for no class, where only their number is given.

    Raises:
      UserError: if there are none, or a number where classes are needed.
    """
    if isinstance(labels, int | np.integer):
        if conditional:
            raise UserError("this generator takes a class label for each image")
        labels = np.zeros(max(0, int(labels)), np.int32)
    if not len(labels):
        raise UserError("no samples were asked for; the count must be at least 1")
    return np.asarray(labels, np.int32)


def _in_batches(make: Callable[..., np.ndarray], size: int, *inputs: np.ndarray) -> np.ndarray:
    """What `make` makes of inputs [N, ...], all batches of one size: the last wraps around."""
    count = len(inputs[0])
    made = np.empty(0)
    for start in range(0, count, size):
        rows = np.arange(start, start + size) % count
        part = make(*(each[rows] for each in inputs))[: count - start]
        if not start:
            made = np.empty((count, *part.shape[1:]), part.dtype)
        made[start : start + len(part)] = part
    return made


def make_sample(
    generator: nn.Module,
    *,
    latent_size: int,
    conditional: bool,
    batch_size: int = 256,
    whole_batches: bool = False,
) -> Sample:
    """Compiles a generator for sampling.

    Args:
      generator: `(latents [B, Z], labels or None, train) -> (images, features)`.
      latent_size: Z.
      conditional: whether it takes labels.
      batch_size: images made at a time; has no influence on what they look like.
      whole_batches: make so many even where fewer are asked for, so that an image has the same
        bits in any number of images; how sums are rounded depends on the batch.

    Returns:
      `(variables, key, labels, truncation=None, as_bytes=False) -> images [N, H, W, C]`, float32
      in [-1, 1], or uint8 in a fourth of the memory. Image i depends on the key, on i and on label
      i alone. `labels` is [N] integers, or the number N for a generator without classes. With a
      truncation T in (0, 1], latents are T times a normal cut off at two deviations: more typical
      samples, and less variety. A generator with styles (see `has_styles`) is truncated in these,
      as its authors do: they are moved towards the mean style of their class, to T of the distance;
      1 is no truncation.
    """
    styled = has_styles(generator)
    means_of = jax.jit(partial(mean_style, generator))

    @jax.jit
    def make(
        variables: PyTree,
        key: PRNGKey,
        truncation: Array,
        index: Array,
        labels: Array,
        means: Array | None,
    ) -> Array:
        asked = labels if conditional else None
        latents = _latents(key, index, latent_size)
        if means is not None:
            styles = _map(generator, variables, latents, asked)
            return _synthesise(generator, variables, means + truncation * (styles - means))

        def cut(one: PRNGKey) -> Array:
            return truncation * jax.random.truncated_normal(one, -2.0, 2.0, (latent_size,))

        latents = jnp.where(truncation > 0, jax.vmap(cut)(_keys(key, index)), latents)
        return apply(generator, variables, latents, asked)[0]

    def sample(
        variables: PyTree,
        key: PRNGKey,
        labels: np.ndarray | int,
        truncation: float | None = None,
        as_bytes: bool = False,
    ) -> np.ndarray:
        if truncation is not None and not 0 < truncation <= 1:
            raise UserError(f"truncation {truncation} is outside (0, 1]")
        asked = _classes(labels, conditional)
        # It takes no other process to sample, and no second device to make the same image.
        variables = own_copy(variables)
        means, place = None, np.zeros(len(asked), np.int32)
        if styled and truncation is not None:
            classes, place = np.unique(asked, return_inverse=True)
            # From a key of its own: what is typical depends on nothing that is asked for.
            means = means_of(variables, jax.random.key(0), classes if conditional else None)

        def batch(index: np.ndarray, labels: np.ndarray, place: np.ndarray) -> np.ndarray:
            near = None if means is None else means[place]
            images = make(variables, key, np.float32(truncation or 0), index, labels, near)
            return to_uint8(np.asarray(images)) if as_bytes else np.asarray(images)

        size = batch_size if whole_batches else min(batch_size, len(asked))
        return _in_batches(batch, size, np.arange(len(asked)), asked, place)

    return sample


def style_mixing(
    generator: nn.Module,
    variables: PyTree,
    key: PRNGKey,
    labels: np.ndarray | int,
    crossover: int,
) -> np.ndarray:
    """Every sample's coarse styles with every sample's fine ones.

    The generator has styles (see `has_styles`); the samples are those of `make_sample`. Fine styles
    begin at the stage `crossover`, from 1 to the last.

    Returns:
      Images [N, N, H, W, C] float32: row i has the styles of sample i up to the crossover, column
      j those of sample j from there on. The diagonal shows the samples themselves.

    Raises:
      UserError: for a generator without styles, no samples, or a stage that there is not.
    """
    if not has_styles(generator):
        raise UserError("only a generator with styles can mix them; stylegan2 is one")
    last = generator.num_styles // 2 - 1  # type: ignore[attr-defined]
    if not 1 <= crossover <= last:
        raise UserError(f"styles cross over at one of the stages 1 to {last}, got {crossover}")
    conditional = not isinstance(labels, int | np.integer)
    asked = _classes(labels, conditional)
    variables = own_copy(variables)
    size: int = generator.latent_size  # type: ignore[attr-defined]

    @jax.jit
    def styles_of(variables: PyTree, key: PRNGKey, labels: Array | None) -> Array:
        return _map(generator, variables, _latents(key, jnp.arange(len(asked)), size), labels)

    @jax.jit
    def row(variables: PyTree, coarse: Array, styles: Array) -> Array:
        fine = jnp.arange(styles.shape[1]) >= 2 * crossover - 1
        mixed = jnp.where(fine[None, :, None], styles, coarse[None])
        return _synthesise(generator, variables, mixed)

    styles = styles_of(variables, key, asked if conditional else None)
    return np.stack([np.asarray(row(variables, coarse, styles)) for coarse in styles])


def slerp(a: Array, b: Array, share: Array | float) -> Array:
    """Between two vectors along the arc: as long and as likely on the way as at its ends.

    The straight line between two draws of N(0, I) leads through vectors that are too short for it.

    Vectors are [..., Z] and not zero, shares [...] in [0, 1]: 0 gives a, 1 gives b.

    Reference:
      White 2016, Sampling Generative Networks, arXiv:1609.04468, section 2.1.
    """
    share = jnp.asarray(share)[..., None]
    sizes = jnp.linalg.norm(a, axis=-1, keepdims=True) * jnp.linalg.norm(b, axis=-1, keepdims=True)
    angle = jnp.arccos(jnp.clip((a * b).sum(axis=-1, keepdims=True) / sizes, -1.0, 1.0))
    sine = jnp.sin(angle)
    flat = sine < 1e-4  # one direction, or the opposite one: there is no arc
    safe = jnp.where(flat, 1.0, sine)
    arc = (jnp.sin((1.0 - share) * angle) * a + jnp.sin(share * angle) * b) / safe
    return jnp.where(flat, (1.0 - share) * a + share * b, arc)


def make_walk(
    generator: nn.Module, *, latent_size: int, conditional: bool, batch_size: int = 256
) -> Walk:
    """Compiles a generator for a walk through its latents, and back to the first.

    Args:
      generator: `(latents [B, Z], labels or None, train) -> (images, features)`.
      latent_size: Z.
      conditional: whether it takes labels.
      batch_size: images made at a time.

    Returns:
      `(variables, key, labels, points, frames) -> images [points * frames, K, H, W, C]` float32:
      `frames` pictures from each of `points` latents towards the next, by `slerp`. `labels` is [K]
      integers, of which all take the same walk, or the number K of walks without classes.
    """

    @partial(jax.jit, static_argnums=(1, 2, 3))
    def path(key: PRNGKey, walks: int, points: int, frames: int) -> Array:
        stops = jax.random.normal(key, (points, walks, latent_size))
        share = jnp.arange(frames)[:, None] / frames
        ways = jax.vmap(lambda a, b: jax.vmap(lambda s: slerp(a, b, s))(share))
        return ways(stops, jnp.roll(stops, -1, axis=0)).reshape(-1, walks, latent_size)

    @jax.jit
    def make(variables: PyTree, latents: Array, labels: Array) -> Array:
        return apply(generator, variables, latents, labels if conditional else None)[0]

    def walk(
        variables: PyTree, key: PRNGKey, labels: np.ndarray | int, points: int, frames: int
    ) -> np.ndarray:
        for name, number in {"points": points, "frames": frames}.items():
            if number < 1:
                raise UserError(f"a walk of {number} {name}; there must be at least 1")
        asked = _classes(labels, conditional)
        count = len(asked)
        latents = np.asarray(path(key, 1 if conditional else count, points, frames))
        latents = np.broadcast_to(latents, (len(latents), count, latent_size))
        variables = own_copy(variables)

        def batch(latents: np.ndarray, labels: np.ndarray) -> np.ndarray:
            return np.asarray(make(variables, latents, labels))

        flat = latents.reshape(-1, latent_size)
        size = min(batch_size, len(flat))
        images = _in_batches(batch, size, flat, np.tile(asked, len(latents)))
        return images.reshape(len(latents), count, *images.shape[1:])

    return walk
