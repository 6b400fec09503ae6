"""Path length regularisation against its definition: reverse mode over reverse mode, float64."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from jaxnets.devices import parallel
from jaxnets.devices.axis import example_keys
from jaxnets.errors import UserError
from jaxnets.losses import PathLength, path_length_penalty
from jaxnets.train import state, steps

KEY = jax.random.key(5)
RNG = np.random.default_rng(0)
LATENTS, WIDTH, STYLES, SHAPE, DECAY, MEAN = 3, 4, 2, (5, 3, 2), 0.25, 0.7
PARAMS = {
    "mapping": RNG.normal(size=(LATENTS, STYLES * WIDTH)),
    "hidden": RNG.normal(size=(STYLES * WIDTH, 6)),
    "inputs": RNG.normal(size=(6, 30)),
}
Z = RNG.normal(size=(5, LATENTS))


def path_lengths(synthesise, key, w):
    """The lengths alone: how far a mean of 0 would move with nothing kept of it."""
    return path_length_penalty(synthesise, key, w, 0.0, decay=1.0)[1]


def synthesise(params, w):
    hidden = jnp.tanh(w.reshape(len(w), -1) @ params["hidden"])
    return (hidden**2 @ params["inputs"]).reshape(-1, *SHAPE)


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

    grads = jax.jit(jax.grad(means, argnums=(0, 1)))(params, jnp.float32(1.0))
    assert not any(leaf.any() for leaf in jax.tree.leaves(grads))


class Styled(nn.Module):
    """What a step asks of a StyleGAN2, with noise, and compiled in no time."""

    def setup(self):
        self.mapping = nn.Dense(STYLES * WIDTH)
        self.synthesis = nn.Dense(tiny.SIZE**2)

    def map(self, z, label):
        z = z + jax.nn.one_hot(label, tiny.LATENT)
        return jnp.sin(self.mapping(z)).reshape(-1, STYLES, WIDTH)

    def synthesise(self, w, *, train):
        x = self.synthesis(jnp.tanh(w.reshape(len(w), -1)))
        if train:
            keys = example_keys(self.make_rng("dropout"), len(x))
            x = x + 0.1 * jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys)
        return jnp.tanh(x).reshape(-1, tiny.SIZE, tiny.SIZE, 1), {}

    def __call__(self, z, label, *, train):
        return self.synthesise(self.map(z, label), train=train)


GENERATOR = Styled()
LENGTH = PathLength(3.0, decay=0.5)


def styled(*path_length, mean=0.2):
    """The state and step of a GAN that has styles."""
    start, step = tiny.gan("hinge", generator=GENERATOR, b2=0.99, penalty=None, terms=path_length)
    extra = dict.fromkeys(start.extra, mean)
    return state.TrainState.create(start.key, start.nets, extra), step


@functools.cache
def step_on(devices, mode="jit"):
    """The state after one step on so many devices, and its metrics."""
    start, step = styled(LENGTH)
    mesh = parallel.make_mesh(devices)
    compiled = parallel.compile_step(step, mesh, mode)
    return jax.device_get(compiled(parallel.replicate(start, mesh), tiny.batch(8)))


def test_a_step_penalises_the_generator_alone_and_moves_the_mean():
    before, plain = styled()
    start, _ = styled(LENGTH)
    batch = tiny.batch(8)
    without, _ = jax.jit(plain)(before, batch)
    after, metrics = step_on(1)
    expected = 0.2 + 0.5 * (jax.jit(length_of)(start, batch) - 0.2)
    np.testing.assert_allclose(after.extra["path_length_mean"], expected, rtol=1e-4)
    assert metrics["path_length"].compute() > 0
    same = jax.tree.map(
        np.array_equal, after.nets["discriminator"].params, without.nets["discriminator"].params
    )
    assert all(jax.tree.leaves(same))
    nets = [of.nets["generator"].params for of in (after, without)]
    mapping, synthesis = (jax.tree.map(np.array_equal, *(n[k] for n in nets)) for k in PARTS)
    # The mapping learns from it, and so does the synthesis.
    assert not all(jax.tree.leaves(mapping)) and not all(jax.tree.leaves(synthesis))


PARTS = ("mapping", "synthesis")


def length_of(start, batch):
    """The mean path length of the first step's styles, by its keys."""
    key = jax.random.split(jax.random.fold_in(start.key, start.step))[1]
    latent_key, y_key, noise_key = jax.random.split(jax.random.fold_in(key, 1), 3)
    variables = start.nets["generator"].variables
    z = steps.sample_latents(latent_key, len(batch["target"]), tiny.LATENT)
    w = GENERATOR.apply(variables, z, batch["target"], method="map")

    def synthesise(w):
        rngs = {"dropout": noise_key}
        return GENERATOR.apply(variables, w, train=True, method="synthesise", rngs=rngs)[0]

    return path_lengths(synthesise, y_key, w).mean()


@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_the_penalty_in_a_step_is_the_same_on_four_devices(mode):
    states = step_on(1)[0], step_on(4, mode)[0]
    found = [jax.tree.leaves((after.nets["generator"].params, after.extra)) for after in states]
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_a_generator_without_styles_has_no_path_length():
    start, step = tiny.gan(terms=[PathLength()])
    with pytest.raises(UserError, match="TinyGenerator has none"):
        jax.eval_shape(step, start, tiny.batch(8))
