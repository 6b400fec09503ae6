"""Layers: interchangeable with flax's own, and the same on any number of devices."""

from functools import partial
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.errors import UserError
from jaxnets.nn import layers
from jaxnets.nn.labels import class_weights

KEY = jax.random.key(0)


@pytest.mark.parametrize("resample", ["double", "halve"])
def test_a_convolution_that_resamples_has_the_same_parameters(resample):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 4, 3)), jnp.float32)
    plain, layer = layers.Conv(5, (3, 3)), layers.Conv(5, (3, 3), resample=resample)
    variables = plain.init(KEY, x)
    variables["params"]["bias"] += 0.5
    chex.assert_trees_all_equal_shapes(variables, layer.init(KEY, x))
    if resample == "double":
        expected = plain.apply(variables, x.repeat(2, 1).repeat(2, 2))
    else:
        expected = nn.avg_pool(plain.apply(variables, x), (2, 2), (2, 2))
    np.testing.assert_allclose(layer.apply(variables, x), expected, atol=1e-5)
    with pytest.raises(ValueError, match=f"{resample}.*strides"):
        layers.Conv(5, (3, 3), 2, resample=resample).init(KEY, x)


def run(module, *args, **options) -> Any:
    return jax.jit(partial(module.apply, **options))(*args)


def batch(shape=(16, 3, 3, 4)):
    return 2.0 * jax.random.normal(KEY, shape) + 3.0


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_matches_flax(train):
    x = batch()
    ours = layers.BatchNorm(momentum=0.7, epsilon=1e-3)
    theirs = nn.BatchNorm(use_running_average=not train, momentum=0.7, epsilon=1e-3)
    variables = ours.init(KEY, x, train=True)
    chex.assert_trees_all_equal(variables, theirs.init(KEY, x))
    variables = jax.tree.map(lambda leaf: leaf + 0.5, variables)
    actual = ours.apply(variables, x, train=train, mutable=["batch_stats"])
    expected = theirs.apply(variables, x, mutable=["batch_stats"])
    chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 300.3, -1e4])
def test_batch_norm_of_a_constant_channel_is_finite(value):
    x = jnp.full((7, 3, 3, 2), value)
    norm = layers.BatchNorm(epsilon=1e-12)
    variables = norm.init(KEY, x, train=True)

    def loss(x):
        y, state = norm.apply(variables, x, train=True, mutable=["batch_stats"])
        return jnp.square(y).sum(), state

    (_, state), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(x)
    chex.assert_tree_all_finite((state, grad))
    assert (state["batch_stats"]["var"] >= 0.9 * (1 - 1e-6)).all()


def test_batch_norm_in_bfloat16_keeps_float32_statistics():
    # Squares of numbers near 20 summed in bfloat16 would lose a variance of 1 altogether.
    x = (20.0 + jax.random.normal(KEY, (64, 4, 4, 2))).astype(jnp.bfloat16)
    norm = layers.BatchNorm(momentum=0.0, dtype=jnp.bfloat16)
    variables = norm.init(KEY, x, train=True)
    y, state = run(norm, variables, x, train=True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    expected = np.asarray(x, np.float64).var((0, 1, 2))
    np.testing.assert_allclose(state["batch_stats"]["var"], expected, rtol=0.01)


def test_batch_norm_is_accurate_far_from_zero_once_it_knows_where():
    """A mean of 10,000 deviations leaves no digit of E[x^2] - E[x]^2 in float32."""
    x = 1e4 + jax.random.normal(KEY, (64, 4, 4, 2))
    norm = layers.BatchNorm(momentum=0.5)
    variables = norm.init(KEY, x, train=True)
    variables["batch_stats"]["mean"] = jnp.full(2, 1e4 - 3)
    y, state = run(norm, variables, x, train=True, mutable=["batch_stats"])
    exact = np.asarray(x, np.float64)
    expected = 0.5 + 0.5 * exact.var((0, 1, 2))
    np.testing.assert_allclose(state["batch_stats"]["var"], expected, rtol=1e-5)
    normal = (exact - exact.mean((0, 1, 2))) / exact.std((0, 1, 2))
    np.testing.assert_allclose(y, normal, atol=2e-3)


def drop(x, *, key=KEY, rate=0.25, train=True) -> Any:
    return run(layers.Dropout(rate), {}, x, train=train, rngs={"dropout": key})


def test_dropout_keeps_the_share_and_the_mean():
    y = drop(jnp.ones((40, 500)))
    assert set(np.unique(y).tolist()) == {0.0, np.float32(1 / 0.75).item()}
    assert abs(float((y == 0).mean()) - 0.25) < 0.01


def test_dropout_masks_differ_between_examples_and_keys():
    y = drop(jnp.ones((2, 100)))
    assert (y[0] != y[1]).any()
    assert (y != drop(jnp.ones((2, 100)), key=jax.random.key(1))).any()
    np.testing.assert_array_equal(y, drop(jnp.ones((2, 100))))


def test_dropout_of_an_example_does_not_depend_on_the_batch_size():
    np.testing.assert_array_equal(drop(jnp.ones((8, 10)))[:3], drop(jnp.ones((3, 10))))


def test_dropout_does_nothing_when_evaluating():
    x = batch()
    np.testing.assert_array_equal(drop(x, train=False), x)
    assert drop(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_dropout_rejects_rates(rate):
    with pytest.raises(UserError, match=f"below 1, got {rate}"):
        drop(batch(), rate=rate)


def test_conditional_batch_norm_scales_and_shifts_by_class():
    x = batch((8, 3, 3, 4))
    label = jnp.arange(8) % 2
    weights = class_weights(label, 2)
    norm = layers.ConditionalBatchNorm()
    variables = norm.init(KEY, x, weights, train=True)
    variables["params"]["scale"] = jnp.array([[0.0] * 4, [1.0] * 4])
    variables["params"]["bias"] = jnp.array([[0.0] * 4, [5.0] * 4])
    apply = partial(norm.apply, variables, x, train=True, mutable=["batch_stats"])
    y, _ = apply(weights)
    plain, _ = apply(jnp.zeros_like(weights))
    np.testing.assert_allclose(y[::2], plain[::2], atol=1e-6)
    np.testing.assert_allclose(y[1::2], 2 * plain[1::2] + 5, atol=1e-5)


def test_class_weights_takes_integers_and_probabilities():
    label = jnp.array([2, 0, -1])
    expected = np.array([[0, 0, 1], [1, 0, 0], [0, 0, 0]], np.float32)
    np.testing.assert_array_equal(class_weights(label, 3), expected)
    np.testing.assert_array_equal(class_weights(expected / 2, 3), expected / 2)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, "conditional on 3 classes and got no labels"),
        (np.zeros((2, 4), np.float32), r"probabilities \[B, 3\], got float32 \[2, 4\]"),
        (np.zeros(2, np.float32), r"got float32 \[2\]"),
    ],
)
def test_class_weights_rejects_what_is_no_label(label, message):
    with pytest.raises(UserError, match=message):
        class_weights(label, 3)
