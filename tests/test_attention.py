"""Self-attention: its equation, its start, and its place in every family."""

from functools import partial

import jax
import numpy as np
import pytest

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
