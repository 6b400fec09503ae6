"""Gradient penalties against analytic gradients, finite differences and reverse over reverse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ops
from jaxnets.data.augment import translate
from jaxnets.errors import UserError
from jaxnets.losses import PENALTIES, penalty
from jaxnets.models import dcgan
from jaxnets.ops import native
from jaxnets.typing import DATA_AXIS
from model_cases import random_variables

RNG = np.random.default_rng(0)
SHAPE = (5, 4, 1)  # large enough for shifts to reach a pixel
REAL = RNG.normal(size=(8, *SHAPE))
FAKE = RNG.normal(size=(8, *SHAPE))
MATRIX = RNG.normal(size=(20, 20))
KEY = jax.random.key(3)


def values_of(name, critic, real, fake):
    return PENALTIES[name].with_logits(critic, KEY, real, fake)[1]


def quadratic(matrix):
    """D(x) = x^T M x / 2 + sum x, whose gradient is (M + M^T) x / 2 + 1."""

    def critic(images):
        x = images.reshape(images.shape[0], -1)
        return 0.5 * jnp.einsum("bi,ij,bj->b", x, matrix, x) + x.sum(axis=1)

    return critic


def analytic_gradient(matrix, images):
    return images.reshape(len(images), -1) @ (0.5 * (matrix + matrix.T)) + 1.0


def value_of(matrix, images):
    x = images.reshape(len(images), -1)
    return 0.5 * np.einsum("bi,ij,bj->b", x, matrix, x) + x.sum(axis=1)


def analytic(name, matrix, points=None):
    """What the penalty is by its formula; `points` as `drawn` gives them."""
    if name == "r1_r2":
        return analytic("r1", matrix) + analytic("r2", matrix)
    if name == "consistency":
        return (value_of(matrix, REAL) - value_of(matrix, points)) ** 2
    at = {"r1": REAL, "r2": FAKE}.get(name, points)
    norm = np.linalg.norm(analytic_gradient(matrix, at), axis=1)
    return 0.5 * norm**2 if name in ("r1", "r2") else (norm - 1.0) ** 2


def drawn(name):
    """The images that a penalty looks at besides reals and fakes, drawn with its key."""
    keys = [jax.random.fold_in(KEY, i) for i in range(8)]
    if name == "wgan_gp":
        share = np.stack([jax.random.uniform(k, dtype=jnp.float64) for k in keys])
        share = share.reshape(8, 1, 1, 1)
        return share * REAL + (1.0 - share) * FAKE
    if name == "dragan":
        points = []
        for k, image in zip(keys, REAL, strict=True):
            of_share, of_noise = jax.random.split(k)
            share = float(jax.random.uniform(of_share, dtype=jnp.float64))
            noise = np.asarray(jax.random.uniform(of_noise, image.shape, jnp.float64))
            points.append(image + 0.5 * share * image.std() * noise)
        return np.stack(points)
    if name == "consistency":
        shift = jax.jit(translate)
        return np.stack([shift(k, jnp.asarray(x)) for k, x in zip(keys, REAL, strict=True)])
    return None


@pytest.mark.parametrize("name", PENALTIES)
def test_value_and_parameter_gradient_in_float64(name):
    with jax.enable_x64(True):
        real, fake, matrix = jnp.asarray(REAL), jnp.asarray(FAKE), jnp.asarray(MATRIX)
        points = drawn(name)

        def total(m):
            return values_of(name, quadratic(m), real, fake).sum()

        values = jax.jit(lambda m: values_of(name, quadratic(m), real, fake))(matrix)
        gradient = np.asarray(jax.jit(jax.grad(total))(matrix))
    np.testing.assert_allclose(values, analytic(name, MATRIX, points), rtol=1e-9)
    for i, j in ((0, 0), (1, 4), (17, 12)):
        step = np.zeros_like(MATRIX)
        step[i, j] = 1e-6
        up, down = (analytic(name, MATRIX + s * step, points).sum() for s in (1, -1))
        np.testing.assert_allclose(gradient[i, j], (up - down) / 2e-6, rtol=1e-6, atol=1e-6)


def test_logits_come_with_the_penalty_and_keep_their_own_gradient():
    real, matrix = jnp.asarray(REAL, jnp.float32), jnp.asarray(MATRIX, jnp.float32)

    def r1(m):
        return PENALTIES["r1"].with_logits(quadratic(m), KEY, real, real)

    logits, penalties = jax.jit(r1)(matrix)
    np.testing.assert_allclose(logits, quadratic(matrix)(real), rtol=1e-6)
    np.testing.assert_allclose(penalties, analytic("r1", MATRIX), rtol=1e-5)
    got = jax.jit(jax.grad(lambda m: r1(m)[0].sum()))(matrix)
    want = jax.grad(lambda m: quadratic(m)(real).sum())(matrix)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_a_flat_critic_has_a_finite_penalty_and_gradient():
    def total(w):
        critic = lambda x: w * x.sum(axis=(1, 2, 3))  # noqa: E731
        return values_of("wgan_gp", critic, jnp.ones((2, 2, 2, 1)), jnp.zeros((2, 2, 2, 1))).sum()

    value, gradient = jax.jit(jax.value_and_grad(total))(0.0)
    np.testing.assert_allclose(value, 2.0, atol=1e-5)
    assert np.isfinite(gradient)


@pytest.mark.parametrize("name", PENALTIES)
def test_eight_devices_give_what_one_gives(name):
    real, fake = jnp.asarray(REAL, jnp.float32), jnp.asarray(FAKE, jnp.float32)
    critic = quadratic(jnp.asarray(MATRIX, jnp.float32))
    one = jax.jit(lambda r, f: values_of(name, critic, r, f))(real, fake)
    shares = [x.reshape(8, 1, *SHAPE) for x in (real, fake)]
    eight = jax.pmap(lambda r, f: values_of(name, critic, r, f), axis_name=DATA_AXIS)(*shares)
    np.testing.assert_allclose(np.asarray(eight).reshape(8), one, rtol=1e-5, atol=1e-9)


def test_errors():
    with pytest.raises(UserError, match="r1, r2, r1_r2, wgan_gp, dragan, consistency"):
        penalty("gp")
    with pytest.raises(AssertionError):
        values_of("r1", lambda x: x.sum(axis=(1, 2)), *2 * [jnp.ones((4, 2, 2, 1))])


@pytest.mark.skipif(not native.available(), reason=f"no kernels: {native.why_not()}")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in ("r1_r2", "wgan_gp")))
        for name in PENALTIES
    ],
)
def test_both_orders_of_differentiation_agree(name):
    """Reverse over reverse, where the kernels are our own, and forward over reverse elsewhere."""
    real, fake = (np.resize(images, (4, 8, 8, 1)).astype(np.float32) for images in (REAL, FAKE))
    model = dcgan.Discriminator(width=4, norm="none")
    variables = random_variables(model, real)

    def total(params):
        def critic(images):
            return model.apply({"params": params}, images, train=True)[0]

        logits, penalties = PENALTIES[name].with_logits(critic, KEY, real, fake)
        return (jnp.tanh(logits) + 3.0 * penalties).sum()

    def gradient(params):  # a new function each time, so that nothing is found in jax's caches
        return jax.jit(jax.value_and_grad(lambda p: total(p)))(params)

    one = gradient(variables["params"])
    with ops.plain_convolutions():
        other = gradient(variables["params"])
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * float(jnp.abs(b).max()))
