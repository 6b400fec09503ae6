"""Augmentations: what they may do to an image, how often, and the same on any device count."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.data import augment
from jaxnets.devices import axis
from jaxnets.errors import UserError
from jaxnets.typing import DATA_AXIS

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(-1, 1, size=(16, 6, 5, 3)).astype(np.float32)
KEY = jax.random.key(7)
FUNCTIONS = {
    "crop": lambda k, x: augment.random_crop(k, x, padding=2),
    "crop_zero": lambda k, x: augment.random_crop(k, x, padding=2, mode="zero"),
    "flip": augment.random_flip,
    "cutout": lambda k, x: augment.cutout(k, x, size=3),
    "translate": lambda k, x: augment.translate(k, x, fraction=0.3),
    "brightness": augment.brightness,
    "saturation": augment.saturation,
    "contrast": augment.contrast,
    "classifier": augment.augmentation(crop_padding=2, flip=True, cutout_size=2),
    "translate_mirrored": lambda k, x: augment.translate(k, x, fraction=0.3, mode="reflect"),
    "gan": augment.gan_augmentation("color,translation,cutout,flip,shift"),
}


@functools.cache
def compiled(function):
    def whole(key, images):
        return augment.apply(function, axis.example_keys(key, images.shape[0]), images)

    return jax.jit(whole)


def run(function, images=IMAGES, key=KEY):
    return np.asarray(compiled(function)(key, images))


def many(function, image, count):
    return run(function, np.broadcast_to(image, (count, *image.shape)))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_shape_range_and_determinism_in_the_key(name):
    out = run(FUNCTIONS[name])
    assert out.shape == IMAGES.shape and out.dtype == np.float32 and np.isfinite(out).all()
    assert not np.array_equal(out, IMAGES)
    np.testing.assert_array_equal(out, run(FUNCTIONS[name]))
    assert not np.array_equal(out, run(FUNCTIONS[name], key=jax.random.key(8)))
    assert compiled(FUNCTIONS[name])._cache_size() == 1  # pyright: ignore
    if name not in ("brightness", "saturation", "contrast", "gan"):
        assert np.abs(out).max() <= 1.0


#: The two pipelines have all the others in them, but for one way to fill an edge.
PIPELINES = ("classifier", "gan", "crop_zero")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name not in PIPELINES)) for name in FUNCTIONS],
)
def test_gradient_reaches_the_image(name):
    direction, step = RNG.normal(size=(2, *IMAGES[0].shape)).astype(np.float32)

    @jax.jit
    @jax.value_and_grad
    def f(x):
        return jnp.vdot(direction, FUNCTIONS[name](jax.random.key(1), x))

    # Every augmentation is affine in the image, so a difference of any length is exact.
    (before, gradient), (after, _) = f(IMAGES[0]), f(IMAGES[0] + step)
    np.testing.assert_allclose(after - before, np.vdot(gradient, step), atol=2e-4)
    assert np.abs(gradient).max() > 0


@pytest.mark.parametrize("mode,numpy_mode", [("reflect", "reflect"), ("zero", "constant")])
def test_crop_is_a_window_of_numpys_padding_and_finds_every_place(mode, numpy_mode):
    image, padding = IMAGES[0], 2
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode=numpy_mode)
    windows = {padded[y : y + 6, x : x + 5].tobytes(): (y, x) for y in range(5) for x in range(5)}
    crops = many(lambda k, x: augment.random_crop(k, x, padding=padding, mode=mode), image, 2000)
    counts = np.zeros((5, 5), int)
    for crop in crops:
        counts[windows[crop.tobytes()]] += 1
    # 80 expected for each of 25 places, standard deviation 8.8.
    assert counts.min() > 40 and counts.max() < 120


def test_flip_mirrors_left_and_right_half_of_the_time():
    flipped = (many(augment.random_flip, IMAGES[0], 2000) == IMAGES[0][:, ::-1]).all((1, 2, 3))
    kept = (many(augment.random_flip, IMAGES[0], 2000) == IMAGES[0]).all((1, 2, 3))
    np.testing.assert_array_equal(flipped, ~kept)
    assert abs(flipped.mean() - 0.5) < 0.045  # four standard deviations


@pytest.mark.parametrize("size", [1, 2, 3])
def test_cutout_greys_one_square_that_may_hang_over_the_edge(size):
    cut = many(lambda k, x: augment.cutout(k, x, size=size), np.ones((6, 5, 1), np.float32), 2000)
    holes = (cut == 0)[..., 0]
    assert set(np.unique(cut)) == {0.0, 1.0}
    for hole in holes:
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        assert hole.sum() == rows.size * columns.size  # a full rectangle
        assert np.ptp(rows) + 1 == rows.size <= size and np.ptp(columns) < size
    middle = holes[:, 2, 2].mean()
    assert abs(middle - size * size / 30) < 0.05
    if size == 3:
        assert holes.sum((1, 2)).min() == 4 and holes.sum((1, 2)).max() == 9


def test_translation_reaches_its_fraction_of_each_side_and_fills_with_grey():
    image = np.full((8, 16, 1), 0.5, np.float32)
    moved = many(lambda k, x: augment.translate(k, x, fraction=0.125), image, 300)
    empty_rows = (moved == 0).all((2, 3)).sum(1)
    empty_columns = (moved == 0).all((1, 3)).sum(1)
    assert set(empty_rows) == {0, 1} and set(empty_columns) == {0, 1, 2}


def test_a_shifted_image_is_mirrored_at_its_edge():
    image = RNG.uniform(-1, 1, size=(8, 16, 1)).astype(np.float32)
    padded = np.pad(image, ((1, 1), (2, 2), (0, 0)), mode="reflect")
    windows = {padded[y : y + 8, x : x + 16].tobytes() for y in range(3) for x in range(5)}
    assert {one.tobytes() for one in many(augment.gan_augmentation("shift"), image, 300)} == windows


def test_colour_changes_stay_in_their_ranges():
    shift = many(augment.brightness, IMAGES[0], 500) - IMAGES[0]
    np.testing.assert_allclose(np.ptp(shift, axis=(1, 2, 3)), 0, atol=1e-6)
    assert -0.5 <= shift.min() < -0.48 and 0.48 < shift.max() <= 0.5
    contrasted = many(augment.contrast, IMAGES[0], 500)
    np.testing.assert_allclose(contrasted.mean((1, 2, 3)), IMAGES[0].mean(), atol=1e-5)
    ratio = contrasted.std((1, 2, 3)) / IMAGES[0].std()
    assert 0.5 <= ratio.min() < 0.52 and 1.48 < ratio.max() <= 1.5001
    coloured = many(augment.saturation, IMAGES[0], 500)
    expected = np.broadcast_to(IMAGES[0].mean(-1), (500, 6, 5))
    np.testing.assert_allclose(coloured.mean(-1), expected, atol=1e-6)
    ratio = coloured.std(-1)[:, 0, 0] / IMAGES[0].std(-1)[0, 0]
    assert ratio.min() < 0.05 and 1.95 < ratio.max() <= 2.0001


@pytest.mark.parametrize(
    "function",
    [
        augment.augmentation(),
        augment.gan_augmentation(""),
        augment.compose(),
        lambda k, x: augment.random_crop(k, x, padding=0),
        lambda k, x: augment.cutout(k, x, size=0),
        lambda k, x: augment.translate(k, x, fraction=0.0),
    ],
)
def test_what_is_off_changes_nothing(function):
    np.testing.assert_array_equal(run(function), IMAGES)


@pytest.mark.parametrize("name,shape", [("gan", (4, 9, 2)), ("classifier", (4, 5, 6, 4, 1))])
def test_one_and_three_spatial_axes(name, shape):
    out = run(FUNCTIONS[name], RNG.uniform(-1, 1, shape).astype(np.float32))
    assert out.shape == shape and np.isfinite(out).all()


def test_parts_of_a_composition_draw_independently():
    both = augment.compose(augment.random_flip, augment.random_flip)
    kept = (many(both, IMAGES[0], 400) == IMAGES[0]).all((1, 2, 3)).mean()
    assert 0.4 < kept < 0.6  # one shared coin would flip twice and always keep


def test_mixup_blends_neighbours_and_their_labels_alike_on_one_device_and_eight():
    labels = np.eye(16, dtype=np.float32)

    def step(images, labels):
        keys = axis.example_keys(KEY, images.shape[0])
        return augment.mixup(keys, images, labels, alpha=0.4)

    images, mixed = map(np.asarray, jax.jit(step)(IMAGES, labels))
    np.testing.assert_allclose(mixed.sum(1), 1.0, rtol=1e-6)
    for j in range(0, 16, 2):
        share = mixed[j, j]
        np.testing.assert_allclose(mixed[j + 1, j + 1], share)
        a, b = IMAGES[j], IMAGES[j + 1]
        np.testing.assert_allclose(images[j], share * a + (1 - share) * b, atol=1e-6)
        np.testing.assert_allclose(images[j + 1], share * b + (1 - share) * a, atol=1e-6)
    split = (IMAGES.reshape(8, 2, 6, 5, 3), labels.reshape(8, 2, 16))
    for a, b in zip(jax.pmap(step, axis_name=DATA_AXIS)(*split), (images, mixed), strict=True):
        np.testing.assert_allclose(np.asarray(a).reshape(b.shape), b, atol=1e-6)


def test_mixup_shares_have_the_variance_of_a_beta():
    count, alpha = 4000, 0.2
    ones = np.tile(np.array([[1.0], [0.0]], np.float32), (count // 2, 1))
    step = jax.jit(lambda x: augment.mixup(axis.example_keys(KEY, count), x, x, alpha=alpha)[0])
    share = np.asarray(step(ones))[::2, 0]
    assert abs(share.mean() - 0.5) < 0.04
    np.testing.assert_allclose(share.var(), 1 / (4 * (2 * alpha + 1)), rtol=0.08)


def test_errors_say_what_to_choose():
    image, keys = jnp.zeros((6, 5, 3)), axis.example_keys(KEY, 3)
    with pytest.raises(UserError, match=r"padding 5 does not fit images of 5.*0\.\.4"):
        augment.random_crop(KEY, image, padding=5)
    with pytest.raises(UserError, match="'reflect' or 'zero'"):
        augment.random_crop(KEY, image, padding=1, mode="wrap")  # pyright: ignore
    with pytest.raises(UserError, match="-1"):
        augment.cutout(KEY, image, size=-1)
    with pytest.raises(UserError, match=r"1\.5"):
        augment.translate(KEY, image, fraction=1.5)
    with pytest.raises(UserError, match=r'"colour".*color, translation, shift, cutout, flip'):
        augment.gan_augmentation("colour,cutout")
    with pytest.raises(UserError, match="even"):
        augment.mixup(keys, jnp.zeros((3, 2)), jnp.zeros((3, 2)), alpha=1.0)
    with pytest.raises(UserError, match="alpha=0"):
        augment.mixup(keys[:2], jnp.zeros((2, 2)), jnp.zeros((2, 2)), alpha=0.0)
    with pytest.raises(AssertionError):
        augment.apply(augment.random_flip, keys, jnp.zeros((4, 6, 5, 3)))


def test_zero_crops_may_be_wider_than_the_image():
    out = run(lambda k, x: augment.random_crop(k, x, padding=9, mode="zero"))
    assert out.shape == IMAGES.shape and (out == 0).all((1, 2, 3)).any()
