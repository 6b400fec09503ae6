"""Classification losses against optax, scikit-learn and float64 formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import log_softmax

from jaxnets.errors import UserError
from jaxnets.losses import CLASSIFICATION_LOSSES, cross_entropy, focal

RNG = np.random.default_rng(0)
LOGITS = jnp.asarray(3.0 * RNG.normal(size=(16, 5)), jnp.float32)
LOGITS_64 = np.asarray(LOGITS, np.float64)
LABELS = RNG.integers(0, 5, 16).astype(np.int32)
WEIGHTS = np.array([0.2, 1.0, 3.0, 0.5, 2.0], np.float32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
def test_smoothing_is_that_of_optax_for_both_forms_of_label(smoothing):
    onehot = jax.nn.one_hot(LABELS, 5)
    expected = optax.softmax_cross_entropy(LOGITS, optax.smooth_labels(onehot, smoothing))
    for labels in (jnp.asarray(LABELS), onehot):
        np.testing.assert_allclose(
            cross_entropy(LOGITS, labels, label_smoothing=smoothing), expected, rtol=2e-6
        )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_is_its_formula_in_float64(gamma):
    log_p = log_softmax(LOGITS_64, axis=1)[np.arange(16), LABELS]
    expected = -WEIGHTS[LABELS] * (1.0 - np.exp(log_p)) ** gamma * log_p
    actual = focal(LOGITS, jnp.asarray(LABELS), gamma=gamma, class_weights=WEIGHTS)
    np.testing.assert_allclose(actual, expected, rtol=3e-5, atol=1e-7)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_gradient_is_finite_where_the_model_is_certain(gamma):
    sure = jnp.array([[200.0, -200.0], [-200.0, 200.0]])
    gradient = jax.grad(lambda x: focal(x, jnp.array([0, 0]), gamma=gamma).sum())(sure)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[1]).max() > 0.5  # surely wrong still learns


@pytest.mark.parametrize("wrong", [-1, 5])
def test_a_label_outside_the_classes_is_nan_for_its_example_only(wrong):
    labels = jnp.asarray(LABELS).at[3].set(wrong)
    for loss in CLASSIFICATION_LOSSES.values():
        np.testing.assert_array_equal(np.isnan(loss(LOGITS, labels)), np.arange(16) == 3)


def test_half_precision_logits_give_float32():
    for loss in CLASSIFICATION_LOSSES.values():
        assert loss(LOGITS.astype(jnp.bfloat16), jnp.asarray(LABELS)).dtype == jnp.float32


def test_errors_name_the_value_and_the_choices():
    with pytest.raises(UserError, match=r"label_smoothing=1\.0"):
        cross_entropy(LOGITS, jnp.asarray(LABELS), label_smoothing=1.0)
    with pytest.raises(UserError, match="gamma=-1"):
        focal(LOGITS, jnp.asarray(LABELS), gamma=-1)
    with pytest.raises(UserError, match="cross_entropy, focal"):
        CLASSIFICATION_LOSSES["crossentropy"]
    with pytest.raises(AssertionError):
        cross_entropy(LOGITS, jnp.asarray(LABELS[:3]))
