"""Predictions, samples and scores: every example once, and each on its own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.data import Split, normalise, to_uint8
from jaxnets.devices import parallel
from jaxnets.errors import UserError
from jaxnets.judge import evaluate, sampling

RNG = np.random.default_rng(0)
KEY = jax.random.key(5)
TRACES = []


class Linear(nn.Module):
    """A classifier that mixes no examples, and counts how often it is traced."""

    @nn.compact
    def __call__(self, x, *, train):
        assert not train
        TRACES.append(x.shape)
        x = x.reshape(len(x), -1)
        return nn.Dense(3)(x), {"penultimate": 2 * x}


class Echo(nn.Module):
    """A generator whose images are its own latents, with the label at their end."""

    @nn.compact
    def __call__(self, z, label=None, *, train):
        assert not train
        if label is not None:
            z = jnp.concatenate([z, label[:, None].astype(z.dtype)], axis=1)
        return z[:, None, :, None], {}


def split(count, size=4):
    images = RNG.integers(0, 256, (count, size, size, 1), np.uint8)
    return Split(images, RNG.integers(0, 3, count).astype(np.int32))


@pytest.mark.parametrize("devices,batch_size", [(1, 8), (8, 12), (8, 64), (1, 1)])
def test_predictions_cover_every_example_once_and_in_order(devices, batch_size):
    of = split(21)
    model = Linear()
    images = normalise(of.inputs)
    variables = model.init(KEY, images, train=False)
    kernel, bias = (np.asarray(variables["params"]["Dense_0"][n]) for n in ("kernel", "bias"))
    TRACES.clear()
    predict = evaluate.make_predict(model, parallel.make_mesh(devices), batch_size=batch_size)
    logits, features = predict(variables, of)
    assert logits.shape == (21, 3)
    np.testing.assert_allclose(logits, images.reshape(21, -1) @ kernel + bias, atol=1e-5)
    np.testing.assert_allclose(features, 2 * images.reshape(21, -1), atol=1e-6)
    # The last batch was filled up: one shape, one program.
    shapes = [(-(-batch_size // devices) * devices, 4, 4, 1)]
    assert shapes == TRACES


def test_nothing_to_predict_is_an_error():
    predict = evaluate.make_predict(Linear(), parallel.make_mesh(1))
    with pytest.raises(UserError, match="holds no examples"):
        predict({}, split(0))


def test_sure_and_wrong_is_a_large_loss_and_not_infinity():
    logits = np.array([[1e4, 0.0], [0.0, 1e4]], np.float32)
    found = evaluate.classification(logits, np.array([1, 1], np.int32))
    assert found.metrics["loss"] == pytest.approx(5e3)
    assert found.metrics["calibration_error"] == pytest.approx(0.5)


def sampler(conditional=True, **options):
    make = sampling.make_sample(Echo(), latent_size=6, conditional=conditional, **options)

    def sample(*args, **more):
        return make({}, *args, **more)[:, 0, :, 0]

    return sample


def test_an_image_depends_on_its_place_and_on_nothing_of_the_others():
    labels = np.arange(11, dtype=np.int32) % 4
    whole = sampler()(KEY, labels)
    assert whole.shape == (11, 7)
    for batch_size in (1, 4, 11):
        np.testing.assert_array_equal(sampler(batch_size=batch_size)(KEY, labels), whole)
    np.testing.assert_array_equal(sampler(batch_size=4)(KEY, labels[:6]), whole[:6])
    np.testing.assert_array_equal(whole[:, -1], labels)
    other_classes = sampler()(KEY, labels[::-1])
    np.testing.assert_array_equal(other_classes[:, :-1], whole[:, :-1])
    assert not np.any(sampler()(jax.random.key(6), labels)[:, :-1] == whole[:, :-1])
    assert len(np.unique(whole[:, 0])) == 11


def test_bytes_are_those_of_the_same_images():
    labels = np.zeros(11, np.int32)
    found = sampler(batch_size=4)(KEY, labels, as_bytes=True)
    np.testing.assert_array_equal(found, to_uint8(sampler()(KEY, labels)))
    assert found.dtype == np.uint8 and found.std() > 0


def test_latents_are_normal_and_truncated_ones_smaller():
    labels = np.zeros(2000, np.int32)
    sample = sampler()
    whole = sample(KEY, labels)[:, :-1]
    assert abs(whole.mean()) < 0.05 and abs(whole.std() - 1) < 0.05 and np.abs(whole).max() > 3
    spreads = [1.0]
    for truncation in (1.0, 0.5, 0.1):
        cut = sample(KEY, labels, truncation)[:, :-1]
        assert 1.9 * truncation < np.abs(cut).max() <= 2 * truncation
        spreads.append(cut.std())
    # A normal cut off at two deviations has a deviation of 0.8796.
    np.testing.assert_allclose(spreads, [1, 0.88, 0.44, 0.088], rtol=0.03)


def test_a_generator_without_classes_takes_a_count():
    images = sampler(conditional=False)(KEY, 5)
    assert images.shape == (5, 6)
    np.testing.assert_array_equal(sampler(conditional=False)(KEY, 3), images[:3])


@pytest.mark.parametrize("truncation", [0.0, -0.5, 1.01, float("nan")])
def test_truncations_out_of_range_are_refused(truncation):
    with pytest.raises(UserError, match=r"outside \(0, 1\]"):
        sampler()(KEY, np.zeros(2, np.int32), truncation)


def test_too_little_asked_of_a_generator():
    with pytest.raises(UserError, match="class label for each image"):
        sampler()(KEY, 3)
    with pytest.raises(UserError, match="at least 1"):
        sampler(conditional=False)(KEY, 0)


def gradients(count, seed, shift=0.0):
    """Smooth images, unlike noise, of one random slope and level each; two classes in turn."""
    rng = np.random.default_rng(seed)
    slope, level = rng.normal(size=(2, count, 1, 1, 1))
    ramp = np.linspace(-1, 1, 8).reshape(1, 8, 1, 1)
    values = 128 + 20 * (slope * ramp + level + shift) + np.zeros((1, 8, 8, 1))
    return Split(values.clip(0, 255).astype(np.uint8), np.arange(count, dtype=np.int32) % 2)


def features(of):
    """Brightness, contrast and roughness."""
    images = of.inputs[..., 0].astype(np.float64)
    rough = np.abs(np.diff(images, axis=2)).mean((1, 2))
    return np.stack([images.mean((1, 2)), images.std((1, 2)), rough], axis=1)


def test_frechet_scores_lie_between_real_images_and_noise():
    reference, good = gradients(600, 0), gradients(400, 1)
    scores = evaluate.frechet_scores(features, good, reference)
    assert scores.count == 300
    assert 1e-3 < scores.floor < 15 and 1e-3 < scores.samples < 15
    assert scores.ceiling > 100 * max(scores.floor, scores.samples)
    off = evaluate.frechet_scores(features, gradients(400, 1, shift=1.0), reference)
    assert off.samples == pytest.approx(400, rel=0.3)  # the square of what the mean moved by
    assert (off.floor, off.ceiling) == (scores.floor, scores.ceiling)
    assert evaluate.frechet_scores(features, good, reference) == scores
    assert evaluate.frechet_scores(features, good, reference, seed=1) != scores


def test_every_frechet_score_sees_as_many_of_each_class():
    seen = []

    def spy(of):
        seen.append(np.bincount(of.target).tolist())
        return features(of)

    reference = gradients(60, 0).take(np.r_[0:60:2, 1:21:2])  # 30 of one class, 10 of the other
    assert evaluate.frechet_scores(spy, gradients(200, 1), reference).count == 20
    assert seen == [[15, 5]] * 4  # the half of reference, samples, the other half, noise


def test_frechet_scores_need_as_many_samples_of_a_class_as_half_the_reference():
    samples = gradients(30, 0).take(np.r_[0:30:2, 1:9:2])  # 15 and 4
    with pytest.raises(UserError, match=r"4 samples of class 1, .* has 5; make at least"):
        evaluate.frechet_scores(features, samples, gradients(20, 1))


def test_a_digest_tells_weights_apart_by_one_bit():
    weights = RNG.normal(size=(3, 4)).astype(np.float32)
    digest = evaluate.digest({"params": {"kernel": weights}})
    assert len(digest) == 12 and int(digest, 16) >= 0
    assert evaluate.digest({"params": {"kernel": jnp.asarray(weights)}}) == digest
    changed = weights.copy()
    changed.view(np.uint32)[1, 2] ^= 1
    for other in (
        {"params": {"kernel": changed}},
        {"params": {"bias": weights}},
        {"params": {"kernel": weights.reshape(4, 3)}},
        {"params": {"kernel": weights.view(np.int32)}},
        {"params": {"kernel": weights}, "batch_stats": {"mean": weights}},
    ):
        assert evaluate.digest(other) != digest


def test_views_are_averaged_by_weight():
    images = np.arange(2 * 3 * 3, dtype=np.float32).reshape(2, 3, 3, 1)
    for name, views in evaluate.VIEWS.items():
        found = views(images)
        assert sum(weight for weight, _ in found) == 1, name
        assert {view.shape for _, view in found} == {images.shape}
        np.testing.assert_array_equal(found[0][1], images)
    weights, shown = zip(*evaluate.VIEWS["mirror_and_shift"](images), strict=True)
    assert weights == (0.25, 0.25, 0.125, 0.125, 0.125, 0.125)
    np.testing.assert_array_equal(shown[1][0, :, :, 0], images[0, :, ::-1, 0])
    np.testing.assert_array_equal(shown[2][0, 1:, 1:, 0], images[0, :-1, :-1, 0])  # down and right
    np.testing.assert_array_equal(shown[4][0, :-1, :-1, 0], images[0, 1:, 1:, 0])  # up and left
    model = Linear()
    mesh = parallel.make_mesh(1)
    of = split(5)
    variables = model.init(KEY, normalise(of.inputs), train=False)
    mirrored = Split(of.inputs[:, :, ::-1], of.target)
    plain = evaluate.make_predict(model, mesh)
    both = evaluate.make_predict(model, mesh, views="mirror")(variables, of)
    for a, b, c in zip(both, plain(variables, of), plain(variables, mirrored), strict=True):
        np.testing.assert_allclose(a, (b + c) / 2, atol=1e-5)
    with pytest.raises(
        UserError, match='no way to view test images "upside_down"; choose from plain, mirror'
    ):
        evaluate.make_predict(model, mesh, views="upside_down")
