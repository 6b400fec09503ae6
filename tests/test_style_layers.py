"""The layers of style-based networks, against their definitions written with lax alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.models import style_layers
from model_cases import KEY, untyped

RNG = np.random.default_rng(0)


def plain_conv(x, kernel, pads, *, lhs=1, strides=1):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (strides, strides),
        pads,
        lhs_dilation=(lhs, lhs),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def blur(x, before, after):
    """[1, 3, 3, 1] / 8 along both axes, of each channel for itself."""
    taps = jnp.array([1.0, 3.0, 3.0, 1.0], x.dtype) / 8
    kernel = jnp.einsum("a,b,io->abio", taps, taps, jnp.eye(x.shape[-1], dtype=x.dtype))
    return plain_conv(x, kernel, [(before, after)] * 2)


@pytest.mark.parametrize("window", [(3, 3), (1, 1)])
@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
def test_the_modulated_convolution_is_one_with_a_kernel_for_each_example(window, up, demodulate):
    if up and window == (1, 1):
        window = (5, 5)
    x, w = RNG.normal(size=(3, 4, 5, 6)), RNG.normal(size=(3, 7))
    module = untyped(style_layers.ModulatedConv(4, window, up, demodulate, jnp.float64))
    with jax.enable_x64(True):
        shapes = jax.eval_shape(module.init, KEY, jnp.asarray(x), jnp.asarray(w))
        params = jax.tree.map(lambda leaf: jnp.asarray(RNG.normal(size=leaf.shape)), shapes)
        y = jax.jit(module.apply)(params, jnp.asarray(x), jnp.asarray(w))
        params = params["params"]
        affine = params["affine"]
        for i in range(3):
            scale = w[i] @ affine["kernel"] / np.sqrt(7) + affine["bias"]
            size = window[0]
            kernel = params["kernel"] / np.sqrt(size * size * 6) * scale[None, None, :, None]
            if demodulate:
                norm = jnp.sqrt((kernel**2).sum(axis=(0, 1, 2)) + 1e-8)
                kernel = kernel / norm[None, None, None]
            if up:
                # Zeros between the pixels; all places that see one; the blur, to twice the size.
                every = plain_conv(jnp.asarray(x[i : i + 1]), kernel, [(size - 1,) * 2] * 2, lhs=2)
                more = size - 3
                expected = 4 * blur(every, 1, 1)[:, : 8 + more, : 10 + more]
                expected = expected[:, :8, :10]
            else:
                expected = plain_conv(jnp.asarray(x[i : i + 1]), kernel, [(size // 2,) * 2] * 2)
            np.testing.assert_allclose(y[i], expected[0], rtol=1e-9, atol=1e-10)


def test_the_halving_convolution_is_a_blur_and_every_other_place():
    x = RNG.normal(size=(2, 6, 8, 3))
    module = untyped(style_layers.EqualisedConv(4, (3, 3), down=True, dtype=jnp.float64))
    with jax.enable_x64(True):
        params = jax.tree.map(
            lambda leaf: jnp.asarray(RNG.normal(size=leaf.shape)),
            jax.eval_shape(module.init, KEY, jnp.asarray(x)),
        )
        y = module.apply(params, jnp.asarray(x))
        kernel = params["params"]["kernel"] / np.sqrt(27)
        expected = plain_conv(blur(jnp.asarray(x), 2, 2), kernel, [(0, 0)] * 2, strides=2)
        np.testing.assert_allclose(
            y - params["params"]["bias"][None, None, None], expected, rtol=1e-9, atol=1e-10
        )


def test_layers_start_with_the_gain_of_their_size_at_any_rate():
    x = jax.random.normal(KEY, (500, 40))
    for rate in (1.0, 0.01):
        module = untyped(style_layers.EqualisedDense(50, rate, bias=2.0))
        y, made = module.init_with_output(KEY, x)
        np.testing.assert_allclose(made["params"]["kernel"].std(), 1 / rate, rtol=0.05)
        np.testing.assert_allclose((y.mean(), y.std()), (2.0, 1.0), atol=0.05)
    y, _ = untyped(style_layers.Mapping(50, 8)).init_with_output(KEY, x)
    assert 0.5 < y.std() < 1.5
    scaled, _ = untyped(style_layers.Mapping(50, 8)).init_with_output(KEY, 7 * x)
    np.testing.assert_allclose(scaled, y, rtol=1e-3, atol=1e-4)
