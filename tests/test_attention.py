"""Self-attention: its equation, its start, and its place in every family."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.models import resnet_gan
from jaxnets.nn.attention import SelfAttention
from model_cases import KEY, random_variables, untyped


def test_it_is_the_papers_equation():
    x = jax.random.normal(KEY, (2, 3, 4, 16))
    module = untyped(SelfAttention(reduction=4))
    variables = random_variables(module, x)
    params = {
        name: np.asarray(leaf["kernel"][0, 0], np.float64) if "conv" in name else leaf
        for name, leaf in variables["params"].items()
    }
    y = jax.jit(partial(module.apply, train=False))(variables, x)
    for one, seen in zip(np.asarray(x, np.float64), y, strict=True):
        pixels = one.reshape(-1, 16)
        scores = (pixels @ params["conv_f"]) @ (pixels @ params["conv_g"]).T  # [i, j]
        shares = np.exp(scores) / np.exp(scores).sum(axis=0)
        out = (shares.T @ (pixels @ params["conv_h"])) @ params["conv_v"]
        expected = pixels + float(params["gamma"]) * out
        np.testing.assert_allclose(seen.reshape(-1, 16), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_it_starts_as_the_identity_and_gamma_learns(rank):
    x = jax.random.normal(KEY, (2, *(3,) * rank, 4))
    module = untyped(SelfAttention())

    @jax.jit
    def start():
        def square(variables):
            y = module.apply(variables, x, train=False)
            return (y**2).sum(), y

        return jax.grad(square, has_aux=True)(module.init(KEY, x, train=False))

    grads, y = start()
    np.testing.assert_array_equal(y, x)
    assert grads["params"]["gamma"] != 0


def test_its_kernels_can_be_normalised():
    x = jax.random.normal(KEY, (2, 4, 4, 8))
    module = untyped(SelfAttention(spectral_norm=True, dtype=jnp.bfloat16))
    variables = random_variables(module, x)
    train = partial(module.apply, train=True, mutable=["spectral_norm"])
    y, after = jax.eval_shape(train, variables, x)
    assert y.dtype == jnp.bfloat16
    assert set(after["spectral_norm"]) == {"conv_f", "conv_g", "conv_h", "conv_v"}


def test_a_stage_sees_the_whole_image_through_it():
    """Without it the first block of a discriminator knows its own neighbourhood only."""
    x = jnp.zeros((1, 32, 32, 1))
    changed = x.at[0, 31, 31].set(1.0)
    for attention, reach in (((), False), ((1,), True)):
        module = untyped(resnet_gan.Discriminator(widths=(4, 4), halvings=1, attention=attention))
        variables = random_variables(module, x)
        apply = jax.jit(partial(module.apply, variables, train=False))
        features = [apply(image)[1]["stage1"][0, 0, 0] for image in (x, changed)]
        assert bool(jnp.any(features[0] != features[1])) == reach
