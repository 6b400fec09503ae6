"""Spectral normalisation: the singular value itself, and when its estimate moves."""

from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from jaxnets.devices import parallel
from jaxnets.nn import layers
from jaxnets.nn.spectral import SpectralNorm
from jaxnets.train import state
from model_cases import KEY, untyped

SHAPES = {"dense": (7, 5), "conv": (3, 3, 4, 6)}


def random_kernel(shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def matrix_of(kernel):
    """As the paper reshapes it: output channels by input channels and taps, in float64."""
    return np.moveaxis(np.asarray(kernel, np.float64), -1, 0).reshape(kernel.shape[-1], -1)


def state_of(u):
    return {"spectral_norm": {"u": jnp.asarray(u, jnp.float32)}}


def unit(vector):
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_spectral_norm_becomes_one(shape):
    kernel = random_kernel(shape)
    module = untyped(SpectralNorm())

    def train(variables, _):
        return module.apply(variables, kernel, train=True, mutable=["spectral_norm"])[::-1]

    start = state_of(np.random.default_rng(1).normal(size=shape[-1]))
    variables, kernels = jax.lax.scan(train, start, None, 300)
    sigma = np.linalg.svd(matrix_of(kernel), compute_uv=False)[0]
    np.testing.assert_allclose(kernels[-1], kernel / sigma, rtol=1e-4)
    assert np.abs(kernels[0] / kernels[-1] - 1).max() > 0.01, "one step was as good as 300"
    np.testing.assert_allclose(module.apply(variables, kernel, train=False), kernels[-1], rtol=1e-5)


def test_a_new_layer_has_an_estimate_already():
    kernel = random_kernel((3, 3, 16, 24))
    normalised, _ = untyped(SpectralNorm()).init_with_output(KEY, kernel, train=False)
    assert 0.97 < np.linalg.svd(matrix_of(normalised), compute_uv=False)[0] < 1.05


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_u_takes_one_step_in_training_and_none_in_evaluation(shape):
    kernel, matrix = random_kernel(shape), matrix_of(random_kernel(shape))
    u = np.random.default_rng(1).normal(size=shape[-1])
    apply = partial(untyped(SpectralNorm()).apply, state_of(u), kernel, mutable=["spectral_norm"])
    seen, after = apply(train=False)
    chex.assert_trees_all_equal(after, state_of(u))
    v = unit(matrix.T @ u)
    np.testing.assert_allclose(seen, kernel / (unit(u) @ matrix @ v), rtol=1e-4)
    seen, after = apply(train=True)
    moved = unit(matrix @ v)
    np.testing.assert_allclose(after["spectral_norm"]["u"], moved, atol=1e-5)
    np.testing.assert_allclose(seen, kernel / (moved @ matrix @ v), rtol=1e-4)
    _, variables = untyped(SpectralNorm()).init_with_output(KEY, kernel, train=False)
    chex.assert_trees_all_equal(variables, untyped(SpectralNorm()).init(KEY, kernel, train=True))


@pytest.mark.parametrize("train", [True, False])
def test_the_gradient_takes_u_and_v_for_constants(train):
    """Eq. 12 of the paper, where u is still far from the singular vector."""
    kernel, slope = random_kernel((3, 2, 4)), np.random.default_rng(2).normal(size=(3, 2, 4))
    u = np.random.default_rng(1).normal(size=4)

    def loss(kernel):
        seen, _ = untyped(SpectralNorm()).apply(
            state_of(u), kernel, train=train, mutable=["spectral_norm"]
        )
        return (seen * slope.astype(np.float32)).sum()

    actual = matrix_of(jax.grad(loss)(kernel))
    matrix = matrix_of(kernel)
    v = unit(matrix.T @ u)
    u = unit(matrix @ v) if train else unit(u)
    sigma = u @ matrix @ v
    expected = (
        matrix_of(slope) - (matrix_of(slope) * matrix).sum() / sigma * np.outer(u, v)
    ) / sigma
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-5)


def test_the_length_of_u_does_not_count_and_a_kernel_of_zeros_stays_zero():
    kernel, u = random_kernel((7, 5)), np.random.default_rng(1).normal(size=5)
    apply = partial(untyped(SpectralNorm()).apply, train=False)
    np.testing.assert_allclose(
        apply(state_of(0.01 * u), kernel), apply(state_of(u), kernel), rtol=1e-5
    )
    assert not apply(state_of(u), jnp.zeros((7, 5))).any()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    "make,like",
    [
        (partial(layers.Conv, 6, (3, 3), 2), partial(nn.Conv, 6, (3, 3), 2)),
        (
            partial(layers.Conv, 6, (1, 1), feature_group_count=2),
            partial(nn.Conv, 6, (1, 1), feature_group_count=2),
        ),
        (partial(layers.Dense, 6), partial(nn.Dense, 6)),
    ],
    ids=["conv", "grouped", "dense"],
)
def test_a_layer_is_flax_own_with_the_kernel_divided(make, like, dtype):
    x = jax.random.normal(KEY, (2, 5, 5, 4))
    layer = untyped(make(spectral_norm=True, dtype=dtype))
    variables = jax.jit(partial(layer.init, train=True))(KEY, x)
    variables["params"]["bias"] += 1.0
    train = jax.jit(partial(layer.apply, train=True, mutable=["spectral_norm"]))
    y, after = train(variables, x)
    assert y.dtype == dtype
    kernel = variables["params"]["kernel"]
    assert kernel.dtype == jnp.float32
    u = after["spectral_norm"]["spectral_norm"]["u"]
    matrix = matrix_of(kernel)
    first = np.asarray(variables["spectral_norm"]["spectral_norm"]["u"], np.float64)
    sigma = u @ matrix @ unit(matrix.T @ first)
    params = {**variables["params"], "kernel": kernel / sigma}
    expected = untyped(like(dtype=dtype)).apply({"params": params}, x)
    tolerance = 1e-4 if dtype == jnp.float32 else 3e-2
    np.testing.assert_allclose(
        y.astype(jnp.float32), expected.astype(jnp.float32), rtol=tolerance, atol=tolerance
    )


def test_a_layer_must_be_told_whether_it_trains():
    for layer in (layers.Dense(3, spectral_norm=True), layers.Conv(3, (1,), spectral_norm=True)):
        with pytest.raises(ValueError, match="pass train="):
            layer.init(KEY, jnp.ones((1, 4, 2)))


class Discriminator(nn.Module):
    """Two normalised layers."""

    @nn.compact
    def __call__(self, x, label=None, *, train):
        x = layers.Conv(6, (4, 4), 2, spectral_norm=True, name="conv")(x, train=train)
        x = nn.leaky_relu(x, 0.2).mean(axis=(1, 2))
        return layers.Dense(1, spectral_norm=True, name="head")(x, train=train)[:, 0], {}


gan = partial(tiny.gan, "hinge", discriminator=Discriminator(), keys=(3, 3), gamma=0.1)


def vectors(model_state):
    return {name: np.asarray(leaf["spectral_norm"]["u"]) for name, leaf in model_state.items()}


def stepped(net, count):
    """The vectors after so many steps of the power iteration with the net's parameters."""
    current = vectors(net.model_state["spectral_norm"])
    for name, u in current.items():
        matrix = matrix_of(net.params[name]["kernel"])
        for _ in range(count):
            u = unit(matrix @ unit(matrix.T @ u))
        current[name] = u
    return current


@pytest.mark.parametrize(
    "penalty",
    ["r1", "wgan_gp", *(pytest.param(name, marks=pytest.mark.slow) for name in (None, "r2"))],
)
def test_one_step_of_the_power_iteration_for_each_update_of_the_discriminator(penalty):
    first, step = gan(penalty=penalty)
    # A vector that is far from converged, so that another step of the iteration would show.
    net = first.nets["discriminator"]
    far = jax.tree.map(lambda u: jnp.cos(jnp.arange(u.size, dtype=jnp.float32)), net.model_state)
    net = state.Net(net.params, far, net.opt_state)
    first = state.TrainState.create(first.key, {**first.nets, "discriminator": net})
    after, metrics = jax.jit(step)(first, tiny.batch(8))
    moved = vectors(after.nets["discriminator"].model_state["spectral_norm"])
    chex.assert_trees_all_close(moved, stepped(net, 1), atol=1e-4)
    assert np.abs(moved["conv"] - stepped(net, 2)["conv"]).max() > 1e-2
    chex.assert_tree_all_finite(metrics)


@pytest.mark.parametrize(
    "mode,penalty", [("jit", "r1"), pytest.param("pmap", "wgan_gp", marks=pytest.mark.slow)]
)
def test_the_vectors_are_those_of_one_device_on_eight(mode, penalty):
    nets = []
    for devices in (1, 8):
        mesh = parallel.make_mesh(devices)
        first, step = gan(penalty=penalty)
        compiled = parallel.compile_step(step, mesh, mode)
        after = parallel.replicate(first, mesh)
        for seed in range(2):
            after, _ = compiled(after, tiny.batch(16, seed))
        nets.append(jax.device_get(after.nets["discriminator"]))
    chex.assert_trees_all_close(nets[0].model_state, nets[1].model_state, atol=1e-5)
    chex.assert_trees_all_close(nets[0].params, nets[1].params, atol=1e-4)
