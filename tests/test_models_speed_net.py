"""The speed net: whitening, what is frozen, and the form of its initial weights."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from jaxnets.models.speed_net import SpeedNet, whiten

KEY = jax.random.key(0)
NET = SpeedNet(4, widths=(8, 12, 12))


def natural_images(channels, count=60, size=8):
    """Smooth random images: neighbouring pixels, and channels, are strongly correlated."""
    noise = np.random.default_rng(0).normal(size=(count, size, size, channels))
    noise += noise.sum(-1, keepdims=True)
    smooth = gaussian_filter(noise, (0, 0.8, 0.8, 0))
    return (smooth / np.abs(smooth).max()).astype(np.float32)


def init(channels, size=8):
    x = jnp.zeros((2, size, size, channels))
    return jax.jit(partial(NET.init, train=False))(KEY, x)


@pytest.mark.parametrize("channels", [1, 3])
def test_whitened_responses_are_uncorrelated_and_of_size_one(channels):
    images = natural_images(channels)
    variables = whiten(init(channels), images, epsilon=1e-9)
    kernel = variables["constants"]["whitening"]["kernel"]
    half = 4 * channels
    chex.assert_shape(kernel, (2, 2, channels, 2 * half))
    np.testing.assert_array_equal(kernel[..., :half], -kernel[..., half:])
    response = jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    response = np.asarray(response, np.float64) + np.asarray(
        variables["params"]["whitening"]["bias"]
    )
    response = response.reshape(-1, 2 * half)[:, :half]
    np.testing.assert_allclose(response.mean(axis=0), 0, atol=2e-3)
    moment = response.T @ response / len(response)
    np.testing.assert_allclose(moment, np.eye(half), atol=2e-3)


def test_whitening_changes_nothing_else_and_not_its_argument():
    variables = init(1)
    before = jax.tree.map(np.asarray, variables)
    after = whiten(variables, natural_images(1))
    chex.assert_trees_all_equal(variables, before)
    chex.assert_trees_all_equal_structs(variables, after)
    changed = [
        jax.tree_util.keystr(path)
        for (path, old), new in zip(
            jax.tree_util.tree_leaves_with_path(variables), jax.tree.leaves(after), strict=True
        )
        if (old != new).any()
    ]
    assert changed == ["['constants']['whitening']['kernel']", "['params']['whitening']['bias']"]


def test_whitening_of_images_without_variation_is_finite():
    variables = whiten(init(1), np.full((5, 8, 8, 1), -1.0, np.float32))
    chex.assert_tree_all_finite(variables)


def test_whitening_rejects_other_images():
    with pytest.raises(ValueError, match=r"\[N, H, W, 3\], got shape \(60, 8, 8, 1\)"):
        whiten(init(3), natural_images(1))


def test_the_whitening_kernel_is_no_parameter_and_training_keeps_it():
    variables = init(1)
    assert "kernel" not in variables["params"]["whitening"]
    assert list(jax.tree.leaves(variables["constants"])[0].shape) == [2, 2, 1, 8]
    x = jnp.asarray(natural_images(1)[:16])
    _, after = NET.apply(variables, x, train=True, mutable=["batch_stats", "constants"])
    chex.assert_trees_all_equal(after["constants"], variables["constants"])


def test_convolutions_start_by_passing_their_input_on():
    kernel = init(1)["params"]["block2"]["conv1"]["kernel"]  # 8 channels to 12
    x = jax.random.normal(KEY, (1, 5, 5, 8))
    y = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(y[..., :8], x, atol=1e-5)
    assert (y[..., 8:] != 0).all()
