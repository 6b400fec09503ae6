"""Mean: exact merging over padding, steps and devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.metrics import Mean

VALUES = np.random.default_rng(0).normal(size=(16,)).astype(np.float32)
MASK = np.arange(16) % 5 != 0


def test_masked_mean_ignores_padding_even_when_it_is_nan():
    dirty = np.where(MASK, VALUES, np.nan)
    mean = Mean.of(jnp.asarray(dirty), jnp.asarray(MASK)).compute()
    assert isinstance(mean, float)
    np.testing.assert_allclose(mean, VALUES[MASK].astype(np.float64).mean(), rtol=1e-6)


def test_gradient_through_a_masked_mean_is_finite_and_zero_on_padding():
    gradient = jax.grad(lambda x: Mean.of(x, jnp.asarray(MASK)).total)(jnp.asarray(VALUES))
    np.testing.assert_array_equal(gradient, MASK.astype(np.float32))


def test_scan_carries_a_mean():
    def step(mean, values):
        return mean + Mean.of(values), None

    mean = jax.jit(lambda x: jax.lax.scan(step, Mean.of(jnp.zeros(0)), x)[0])(VALUES.reshape(4, 4))
    np.testing.assert_allclose(mean.compute(), VALUES.mean(), rtol=1e-6)


def test_mean_of_nothing_is_nan_and_a_scalar_counts_once():
    assert np.isnan(Mean.of(jnp.zeros(0)).compute())
    assert float(Mean.of(jnp.float32(3.0)).count) == 1


def test_values_and_mask_of_other_shapes_are_refused():
    with pytest.raises(AssertionError):
        Mean.of(jnp.zeros(4), jnp.ones((4, 1), bool))
