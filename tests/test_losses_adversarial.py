"""Adversarial losses against their papers' formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_expit

from jaxnets.errors import UserError
from jaxnets.losses import ADVERSARIAL_LOSSES, adversarial_loss

RNG = np.random.default_rng(0)
REAL, FAKE = (4.0 * RNG.normal(size=(2, 12))).astype(np.float32)

# log(1 - sigmoid(x)) = log sigmoid(-x); everything else is as printed in the papers.
ORACLES = {
    "minimax": (lambda r, f: -log_expit(r) - log_expit(-f), lambda r, f: log_expit(-f)),
    "non_saturating": (lambda r, f: -log_expit(r) - log_expit(-f), lambda r, f: -log_expit(f)),
    "least_squares": (
        lambda r, f: ((r - 1) ** 2 + f**2) / 2,
        lambda r, f: (f - 1) ** 2 / 2,
    ),
    "hinge": (
        lambda r, f: -np.minimum(0, r - 1) - np.minimum(0, -f - 1),
        lambda r, f: -f,
    ),
    "wasserstein": (lambda r, f: f - r, lambda r, f: -f),
    "relativistic": (lambda r, f: -log_expit(r - f), lambda r, f: -log_expit(f - r)),
}


@pytest.mark.parametrize("name", ADVERSARIAL_LOSSES)
def test_loss_is_its_formula_eager_and_compiled(name):
    loss = adversarial_loss(name)
    for side, oracle in zip((loss.d_loss, loss.g_loss), ORACLES[name], strict=True):
        expected = oracle(REAL.astype(np.float64), FAKE.astype(np.float64))
        np.testing.assert_allclose(side(REAL, FAKE), expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(jax.jit(side)(REAL, FAKE), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ADVERSARIAL_LOSSES)
def test_extreme_logits_stay_finite(name):
    loss = adversarial_loss(name)
    big = jnp.array([1e4, -1e4, 1e4, -1e4])
    other = jnp.array([1e4, -1e4, -1e4, 1e4])
    for side in (loss.d_loss, loss.g_loss):
        total = jax.jit(jax.value_and_grad(lambda r, f, side=side: side(r, f).sum(), (0, 1)))
        value, slopes = total(big, other)
        assert np.isfinite(value) and np.isfinite(slopes).all()


@pytest.mark.parametrize("name", ADVERSARIAL_LOSSES)
def test_the_border_of_a_relative_loss_is_the_other_image(name):
    loss = adversarial_loss(name)
    moved = [jax.jit(loss.d_loss)(REAL + shift, FAKE + shift) for shift in (0.0, 50.0)]
    assert loss.relative == np.allclose(*moved, atol=1e-4)
    real, fake = loss.signs(jnp.array([3.0, 3.0, -2.0]), jnp.array([1.0, 4.0, -2.0]))
    if loss.relative:
        np.testing.assert_array_equal(real, [1, -1, 0])
        np.testing.assert_array_equal(fake, [-1, 1, 0])
    else:
        np.testing.assert_array_equal(real, [1, 1, -1])
        np.testing.assert_array_equal(fake, [1, 1, -1])
        # A discriminator that knows nothing answers with the border, at which its loss is least.
        answers = jnp.linspace(-1, 1, 201)
        least = answers[jnp.argmin(jax.vmap(lambda x: loss.d_loss(x[None], x[None])[0])(answers))]
        if name != "hinge":  # which is as content anywhere between -1 and 1
            assert least == pytest.approx(loss.border, abs=1e-6)
        near = loss.signs(jnp.array([loss.border + 0.1]), jnp.array([loss.border - 0.1]))
        assert (near[0][0], near[1][0]) == (1, -1)


def test_errors():
    with pytest.raises(UserError, match=r'"hing".*minimax, non_saturating.*relativistic'):
        adversarial_loss("hing")
    with pytest.raises(AssertionError):
        adversarial_loss("hinge").d_loss(jnp.zeros((4, 1, 1)), jnp.zeros((4, 1, 1)))
