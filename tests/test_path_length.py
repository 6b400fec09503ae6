"""Path length regularisation against its definition: reverse mode over reverse mode, float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.axis import example_keys
from jaxnets.losses import path_length_penalty, path_lengths

KEY = jax.random.key(5)
RNG = np.random.default_rng(0)
LATENTS, WIDTH, STYLES, SHAPE, DECAY, MEAN = 3, 4, 2, (5, 3, 2), 0.25, 0.7
PARAMS = {
    "mapping": RNG.normal(size=(LATENTS, STYLES * WIDTH)),
    "hidden": RNG.normal(size=(STYLES * WIDTH, 6)),
    "image": RNG.normal(size=(6, 30)),
}
Z = RNG.normal(size=(5, LATENTS))


def synthesise(params, w):
    hidden = jnp.tanh(w.reshape(len(w), -1) @ params["hidden"])
    return (hidden**2 @ params["image"]).reshape(-1, *SHAPE)


def styles(params, z):
    return jnp.sin(z @ params["mapping"]).reshape(-1, STYLES, WIDTH)


def ours(params, z):
    w = styles(params, z)
    return path_length_penalty(lambda w: synthesise(params, w), KEY, w, MEAN, DECAY)


def by_definition(params, z):
    w = styles(params, z)
    noise = [jax.random.normal(key, SHAPE, jnp.float64) for key in example_keys(KEY, len(z))]
    y = jnp.stack(noise) / np.sqrt(SHAPE[0] * SHAPE[1])
    slopes = jax.grad(lambda w: (synthesise(params, w) * y).sum())(w)
    lengths = jnp.sqrt((slopes**2).sum(axis=2).mean(axis=1))
    return (lengths - MEAN) ** 2, lengths


def test_value_and_gradient_are_those_of_the_definition():
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, PARAMS)
        got, want = (
            jax.jit(jax.value_and_grad(lambda p, f=f: f(p, jnp.asarray(Z))[0].sum()))(params)
            for f in (ours, by_definition)
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), got, want)
        lengths = by_definition(params, jnp.asarray(Z))[1]
        found = path_lengths(lambda w: synthesise(params, w), KEY, styles(params, jnp.asarray(Z)))
        np.testing.assert_allclose(found, lengths, rtol=1e-9)
        means = ours(params, jnp.asarray(Z))[1]
        np.testing.assert_allclose(means.mean(), MEAN + DECAY * (lengths.mean() - MEAN), rtol=1e-9)
    assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(got[1])) > 1e-3


def test_of_a_linear_generator_it_is_the_norm_of_the_matrix_times_the_noise():
    matrix = RNG.normal(size=(WIDTH, 4)).astype(np.float32)

    def linear(w):
        return (w[:, 0] @ matrix).reshape(-1, 2, 2, 1)

    w = RNG.normal(size=(4000, 1, WIDTH)).astype(np.float32)
    squares = np.asarray(jax.jit(lambda w: path_lengths(linear, KEY, w))(w)) ** 2
    # E |M y|^2 = |M|^2 / pixels
    np.testing.assert_allclose(squares.mean(), (matrix**2).sum() / 4, rtol=0.05)
    assert len(np.unique(squares)) > 3900, "examples share their noise"


@pytest.mark.parametrize("mean", [0.0, jnp.float32(2.0)])
def test_a_generator_that_heeds_no_style_has_a_finite_penalty(mean):
    def penalty(shift):
        def flat(w):
            return jnp.zeros((len(w), 2, 2, 1)) + shift

        return path_length_penalty(flat, KEY, jnp.ones((2, 1, 3)), mean)[0].sum()

    value, slope = jax.value_and_grad(penalty)(1.0)
    np.testing.assert_allclose(value, 2 * float(mean) ** 2, atol=1e-4)
    assert slope == 0.0


def test_the_mean_and_the_lengths_do_not_learn():
    w = jnp.asarray(RNG.normal(size=(3, STYLES, WIDTH)), jnp.float32)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), PARAMS)

    def means(params, mean):
        return path_length_penalty(lambda w: synthesise(params, w), KEY, w, mean)[1].sum()

    grads = jax.grad(means, argnums=(0, 1))(params, jnp.float32(1.0))
    assert not any(leaf.any() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("mode", ["shard_map", "jit"])
def test_it_is_the_same_on_eight_devices(mode):
    from jax.sharding import NamedSharding, PartitionSpec

    from jaxnets import parallel
    from jaxnets.typing import DATA_AXIS

    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), PARAMS)
    z = jnp.asarray(RNG.normal(size=(16, LATENTS)), jnp.float32)
    mesh, split = parallel.make_mesh(8), PartitionSpec(DATA_AXIS)
    want = ours(params, z)
    if mode == "jit":
        got = jax.jit(ours)(params, jax.device_put(z, NamedSharding(mesh, split)))
    else:
        spread = jax.shard_map(
            lambda z: ours(params, z), mesh=mesh, in_specs=split, out_specs=split, check_vma=False
        )
        got = jax.jit(spread)(z)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
