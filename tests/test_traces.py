"""What detectors see: neighbours, spectra; and the changes that they are trained to see through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.columns import Image
from jaxnets.data import augment, degrade
from jaxnets.errors import UserError
from jaxnets.media.jpeg import recompressed
from jaxnets.models import classifier_of
from jaxnets.models.traces import Spectrum, neighbour_differences

KEY = jax.random.key(0)


def photographs(count=4, size=20, channels=1):
    coarse = np.random.default_rng(0).uniform(-1, 1, (count, 6, 6, channels))
    grown = jax.image.resize(coarse, (count, size, size, channels), "cubic")
    return jnp.clip(grown, -1, 1).astype(jnp.float32)


def test_differences_are_those_of_the_published_residual():
    """NPR: the image less its nearest-neighbour halving and doubling."""
    x = np.asarray(photographs(2, 7, 3))[:, :6, :6]
    doubled = x[:, ::2, ::2].repeat(2, axis=1).repeat(2, axis=2)
    residual = x - doubled
    found = neighbour_differences(photographs(2, 7, 3))
    assert found.shape == (2, 3, 3, 9)
    for number, (down, right) in enumerate([(0, 1), (1, 0), (1, 1)]):
        part = found[..., 3 * number : 3 * number + 3]
        np.testing.assert_allclose(part, residual[:, down::2, right::2], atol=1e-6)


def test_a_wave_has_its_power_in_the_circle_of_its_frequency():
    place = np.arange(16)
    waves = {k: np.cos(2 * np.pi * k * place / 16) for k in (2, 5)}
    rows = np.stack([np.broadcast_to(w, (16, 16)) for w in waves.values()])[..., None]
    rows = np.concatenate([rows, rows.transpose(0, 2, 1, 3)]).astype(np.float32)
    module = Spectrum(2)
    variables = module.init(KEY, rows, train=False)
    _, features = module.apply(variables, rows, train=False)
    profile = np.asarray(features["penultimate"])
    assert profile[:, :9].argmax(axis=1).tolist() == [2, 5, 2, 5]
    np.testing.assert_allclose(profile[:2], profile[2:], atol=0.2)


@pytest.mark.parametrize("name", ["npr", "spectrum"])
def test_networks_of_traces_are_classifiers(name):
    module = classifier_of(name, Image((9, 12, 3)), num_classes=2, width=0.25)
    x = photographs(4, 12, 3)[:, :9]
    variables = module.init(KEY, x, train=False)
    apply = jax.jit(lambda x: module.apply(variables, x, train=False))
    logits, features = apply(x)
    assert logits.shape == (4, 2) and features["penultimate"].ndim == 2
    np.testing.assert_allclose(logits, module.apply(variables, x, train=False)[0], atol=1e-4)
    with pytest.raises(UserError, match=f"{name} needs images of at least 8x8 pixels, got 7x12"):
        classifier_of(name, Image((7, 12, 3)), num_classes=2)


@pytest.mark.parametrize("quality", [40, 75, 95])
def test_compression_is_that_of_the_encoder(quality):
    images = photographs()
    found = augment.apply(
        lambda key, x: degrade.compress(key, x, low=quality, high=quality),
        jax.random.split(KEY, 4),
        images,
    )
    rows = np.asarray(jnp.round((images + 1) * 127.5)).astype(np.uint8)
    expected = np.stack([recompressed(row, quality) for row in rows]).astype(float)
    ours = np.asarray((found + 1) * 127.5)
    assert np.abs(ours - expected).mean() < 0.3 * np.abs(rows - expected).mean() + 0.2


def test_resizing_is_that_of_jax_image():
    images = photographs()
    keys = jax.random.split(KEY, 4)
    same = augment.apply(lambda k, x: degrade.resize(k, x, least=1.0), keys, images)
    np.testing.assert_allclose(same, images, atol=1e-5)
    for key, image in zip(keys, images, strict=True):
        found = degrade.resize(key, image, least=0.3)
        side = round(20 * float(jax.random.uniform(key, (), jnp.float32, 0.3, 1.0)))
        small = jax.image.resize(image, (side, side, 1), "linear")
        np.testing.assert_allclose(found, jax.image.resize(small, image.shape, "linear"), atol=1e-4)


def test_a_blur_keeps_what_is_even_and_spreads_a_point():
    even = jnp.full((9, 9, 1), 0.5)
    np.testing.assert_allclose(degrade.blur(KEY, even), even, atol=1e-6)
    point = jnp.zeros((15, 15, 1)).at[7, 7].set(1.0)
    spread = degrade.blur(KEY, point, most=2.0)
    assert float(spread.sum()) == pytest.approx(1, abs=1e-2) and float(spread[7, 7, 0]) < 0.9
    np.testing.assert_allclose(spread, spread.transpose(1, 0, 2), atol=1e-6)


def test_degrading_is_done_to_a_share_and_gradients_pass():
    images = photographs(32, 12)
    keys = jax.random.split(KEY, 32)
    half = augment.apply(augment.augmentation(degrading=0.5), keys, images)
    changed = np.abs(np.asarray(half - images)).max(axis=(1, 2, 3)) > 1e-6
    assert 0.6 < changed.mean() < 1  # one of three, each with one half
    gradient = jax.grad(lambda x: degrade.compress(KEY, x).sum())(images[0])
    np.testing.assert_array_equal(gradient, jnp.ones_like(gradient))
