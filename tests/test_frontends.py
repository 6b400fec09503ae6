"""Log-mel spectrograms against SciPy's transform, and augmentations example by example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from jaxnets.errors import UserError
from jaxnets.nn.frontends import LogMel, SpecAugment, mel_filters, perturb
from jaxnets.typing import DATA_AXIS

RATE = 8000
KEY = jax.random.key(0)


def noise(count=2, length=1600):
    return np.random.default_rng(0).normal(0, 0.1, (count, length)).astype(np.float32)


def by_loops(bins, points):
    """Filters as the HTK book has them: each weight from the two corners that it lies between."""

    def hertz(mel):
        return 700 * (10 ** (mel / 2595) - 1)

    top = 2595 * np.log10(1 + RATE / 2 / 700)
    bottom = 2595 * np.log10(1 + 20 / 700)
    corners = [hertz(bottom + (top - bottom) * i / (bins + 1)) for i in range(bins + 2)]
    filters = np.zeros((points // 2 + 1, bins))
    for k in range(points // 2 + 1):
        f = k * RATE / points
        for b in range(bins):
            left, middle, right = corners[b : b + 3]
            if left < f <= middle:
                filters[k, b] = (f - left) / (middle - left)
            elif middle < f < right:
                filters[k, b] = (right - f) / (right - middle)
    return filters


def test_spectrograms_are_those_of_an_independent_transform():
    frontend = LogMel(RATE, bins=20, window=0.025, hop=0.01)
    waves = noise()
    _, _, spectrum = signal.stft(
        waves.astype(np.float64), RATE, "hann", 200, 120, 256, boundary=None, padded=False
    )
    power = np.abs(spectrum.transpose(0, 2, 1)) ** 2  # SciPy divides by the window's sum too
    expected = np.log(power @ by_loops(20, 256) + 1e-9)
    expected = expected - expected.mean((1, 2), keepdims=True)
    expected /= expected.std((1, 2), keepdims=True) + 1e-3
    seen = np.asarray(jax.jit(lambda x: frontend.apply({}, x))(waves))
    assert seen.shape == (2, *frontend.shape(1600)) == (2, 18, 20, 1)
    np.testing.assert_allclose(seen[..., 0], expected, atol=1e-4)


def test_an_example_is_the_same_however_loud_and_silence_is_finite():
    frontend = LogMel(RATE, bins=20)
    waves = noise()
    quiet, loud = (np.asarray(frontend.apply({}, waves * gain)) for gain in (0.5, 1.0))
    np.testing.assert_allclose(quiet, loud, atol=2e-2)
    np.testing.assert_allclose(loud.mean((1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(loud.std((1, 2, 3)), 1, atol=5e-3)
    silence = jax.value_and_grad(lambda x: jnp.square(frontend.apply({}, x)).sum())
    assert all(np.isfinite(np.asarray(values)).all() for values in silence(jnp.zeros((1, 1600))))


def test_no_filter_is_empty_where_there_are_more_of_them_than_frequencies():
    assert (mel_filters(RATE, 64, 64).sum(axis=0) > 0).all()


def test_a_sound_shorter_than_a_frame_is_refused():
    with pytest.raises(UserError, match=r"0\.01 s at 8000 Hz is shorter than a frame"):
        LogMel(RATE).shape(80)


def test_masks_blank_what_they_may_and_no_more():
    mask = SpecAugment(0.2)
    ones = jnp.ones((200, 40, 20, 1))
    masked = np.asarray(mask.apply({}, ones, train=True, rngs={"dropout": KEY}))[..., 0]
    frames = (masked == 0).all(axis=2).sum(axis=1)
    bands = (masked == 0).all(axis=1).sum(axis=1)
    assert 8 < frames.max() <= 18 and 4 < bands.max() <= 10
    assert len(set(frames)) > 3 and len(set(bands)) > 5
    # What is blanked is exactly rows and columns.
    rows, columns = (masked == 0).all(axis=2), (masked == 0).all(axis=1)
    np.testing.assert_array_equal(masked == 0, rows[:, :, None] | columns[:, None, :])
    np.testing.assert_array_equal(mask.apply({}, ones, train=False), ones)


def test_masks_are_the_same_on_one_device_and_on_eight():
    mask = SpecAugment()
    ones = jnp.ones((16, 20, 16, 1))

    def masked(x):
        return mask.apply({}, x, train=True, rngs={"dropout": KEY})

    over_devices = jax.pmap(masked, axis_name=DATA_AXIS)(ones.reshape(8, 2, 20, 16, 1))
    np.testing.assert_array_equal(np.asarray(over_devices).reshape(ones.shape), masked(ones))


def test_a_shift_moves_whole_samples_and_leaves_silence():
    wave = jnp.asarray(noise(1, 100)[0])
    lags = set()
    for key in jax.random.split(KEY, 20):
        moved = np.asarray(perturb(key, wave, shift=0.1))
        lag = next(
            lag
            for lag in range(-10, 11)
            if np.array_equal(np.roll(moved, lag)[10:-10], wave[10:-10])
        )
        lags.add(lag)
        assert not (moved[100 - lag :] if lag > 0 else moved[:-lag]).any()
    assert min(lags) < -5 and max(lags) > 5
    np.testing.assert_array_equal(perturb(KEY, wave, shift=0.0), wave)


def test_speed_changes_pitch_within_its_bounds():
    tone = jnp.sin(2 * jnp.pi * 500 * jnp.arange(4000) / RATE)
    peaks = []
    for key in jax.random.split(KEY, 12):
        spectrum = np.abs(np.fft.rfft(np.asarray(perturb(key, tone, shift=0.0, speed=0.2))))
        peaks.append(spectrum.argmax() * 2.0)
    assert 400 <= min(peaks) < 470 and 530 < max(peaks) <= 615
