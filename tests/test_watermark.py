"""The watermark: found where it is, at the rate that is stated where it is not."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from command_lines import assert_one_error
from jaxnets.errors import UserError
from jaxnets.media import watermark

KEY = "a long secret"


def scenes(count, height=28, width=28, channels=1, seed=0):
    """Bright shapes with some texture, before black: [N, H, W, C] uint8."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, height, width, channels))
    for image in images:
        top, left = rng.integers(0, (height // 3, width // 3))
        h, w = rng.integers((height // 3, width // 3), (height // 2 + 1, width // 2 + 1))
        shape = (h, w, channels)
        image[top : top + h, left : left + w] = rng.integers(80, 220) + rng.normal(0, 6, shape)
    return images.clip(0, 255).astype(np.uint8)


def jpeg(image, quality):
    buffer = io.BytesIO()
    plain = image[..., 0] if image.shape[-1] == 1 else image
    Image.fromarray(plain).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer)).reshape(image.shape)


def resized(image, height, width):
    plane = Image.fromarray(image[..., 0]).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(plane)[..., None]


def psnr(a, b):
    return 10 * np.log10(255**2 / ((a.astype(float) - b) ** 2).mean(axis=(1, 2, 3)))


# ------------------------------------------------------------------------------ what it is


@pytest.mark.parametrize("channels", [1, 3])
def test_the_mark_is_as_faint_as_promised_and_is_found(channels):
    images = scenes(16, channels=channels)
    marked = watermark.embed(images, KEY)
    assert marked.shape == images.shape and marked.dtype == np.uint8
    # Rounding to whole grey levels adds 0.1 dB of noise to 3.2 grey levels.
    assert (psnr(marked, images) > watermark.PSNR - 0.4).all()
    evidence = watermark.detect(marked, KEY)
    assert (evidence.p_values < 0.01).mean() > 0.9 and evidence.batch_p_value < 1e-9
    np.testing.assert_array_equal(marked, watermark.embed(images, KEY))
    np.testing.assert_array_equal(watermark.embed(images, 7), watermark.embed(images, "7"))


def test_the_noise_of_a_key_is_that_of_every_version():
    # Marks outlive the libraries that made them.
    noise = watermark._noise("1")
    np.testing.assert_allclose(noise[0, :3], [1.29162395, 0.21028280, -1.47436189], rtol=1e-7)
    assert stats.kstest(noise.ravel(), "norm").pvalue > 0.01
    assert abs(np.corrcoef(noise.ravel(), watermark._noise("2").ravel())[0, 1]) < 0.05


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("shape", [(28, 28, 1), (40, 100, 3)])
def test_the_scores_of_other_keys_are_standard_normal(shape, marked):
    images = scenes(3, *shape)
    traces = watermark.traces(watermark.embed(images, KEY) if marked else images)
    evidence = [watermark.detect_in(traces, key) for key in range(1500)]
    scores = [d.scores[0] for d in evidence]
    for each in (scores, [d.batch_score for d in evidence]):
        assert stats.kstest(each, "norm").pvalue > 0.001
    p_values = np.array([d.p_values[0] for d in evidence])
    np.testing.assert_allclose(p_values, stats.norm.sf(scores), rtol=1e-5)
    assert stats.binomtest(int((p_values <= 0.01).sum()), 1500, 0.01).pvalue > 0.001


def test_images_that_are_all_alike_are_no_evidence_of_many():
    # Added up as if independent, 64 copies would make one chance of 3 sigma a certainty.
    traces = watermark.traces(scenes(1).repeat(64, axis=0))
    batch = [watermark.detect_in(traces, key).batch_score for key in range(1000)]
    assert np.std(batch) < 1.1


def test_a_search_pays_for_every_shift_that_it_tries():
    traces = watermark.traces(scenes(40))
    p_values = np.concatenate([watermark.detect_in(traces, k, crop=4).p_values for k in range(100)])
    assert (p_values <= 0.05).mean() <= 0.055
    one, all_ = (watermark.detect_in(traces, KEY, crop=crop) for crop in (0, 4))
    assert (all_.scores >= one.scores - 1e-5).all()
    tails = np.minimum(1, 25 * stats.norm.sf(all_.scores))
    np.testing.assert_allclose(all_.p_values, tails, rtol=1e-4)


# -------------------------------------------------------------------------- what it survives


@pytest.mark.parametrize(
    "attack,options",
    [
        (lambda image: jpeg(image, 75), {}),
        (lambda image: resized(image, 56, 56), {"size": (28, 28)}),
        (lambda image: resized(resized(image, 20, 20), 28, 28), {}),
        (lambda image: image[2:-2, 3:-1], {"crop": 4}),
        (lambda image: image[2:-2, 3:-1], {"crop": watermark.MAX_CROP}),
        (lambda image: (0.8 * image + 20).astype(np.uint8), {}),
    ],
    ids=["JPEG", "double size", "small and back", "crop", "crop, all shifts", "contrast"],
)
def test_a_batch_survives(attack, options):
    images = scenes(32)
    marked = watermark.embed(images, KEY)
    attacked = [attack(image) for image in marked]
    assert watermark.detect(attacked, KEY, **options).batch_p_value < 1e-4
    without = watermark.detect([attack(image) for image in images], KEY, **options)
    assert without.batch_p_value > 1e-3
    if options:  # without knowing, it is not found
        assert watermark.detect(attacked, KEY).batch_p_value > 1e-3


def test_any_sizes_will_do_together():
    shapes = [(8, 8, 1), (9, 64, 3), (65, 130, 1), (200, 128, 3)]
    marked = [watermark.embed(scenes(40, *shape), KEY) for shape in shapes]
    for some in marked:
        assert watermark.detect(some, KEY).batch_p_value < 1e-3
    assert watermark.detect([one for some in marked for one in some], KEY).batch_p_value < 1e-9


def test_a_flat_image_says_nothing():
    flat = np.full((4, 28, 28, 1), 77, np.uint8)
    evidence = watermark.detect(flat, KEY)
    assert not evidence.scores.any() and (evidence.p_values == 1).all()
    assert evidence.batch_p_value == 1
    marked = watermark.embed(scenes(4), KEY)
    both = watermark.detect(np.concatenate([flat, marked]), KEY)
    assert both.batch_score == pytest.approx(watermark.detect(marked, KEY).batch_score, rel=1e-5)


# ------------------------------------------------------------------------------- what it refuses


def test_what_cannot_have_a_mark_or_be_asked_for_one_is_refused():
    shapes = ((2, 7, 28, 1), (2, 28, 28, 2), (2, 28, 28), (2, 0, 28, 1))
    refused = [(images, KEY, "watermark") for images in map(np.uint8, map(np.zeros, shapes))]
    refused += [(np.zeros((2, 28, 28, 1), np.float32), KEY, "watermark"), ([[1]], KEY, "watermark")]
    refused += [(scenes(1), key, "key") for key in ("", " \n", "\udcff")]
    for images, key, words in refused:
        for call in (watermark.embed, watermark.detect):
            with pytest.raises(UserError, match=words):
                call(images, key)
    for options in ({"crop": -1}, {"crop": 64}, {"size": (7, 28)}, {"size": (28, 10**9)}):
        with pytest.raises(UserError, match=next(iter(options))):
            watermark.detect(scenes(1), KEY, **options)
    with pytest.raises(UserError, match="no images"):
        watermark.detect([], KEY)


# ------------------------------------------------------------------------------ the commands


def test_samples_are_marked_and_detected(cli, copies, workplace):
    sample = ["sample", copies["generate"], "--count", 64, "--out", "made", "--images"]
    code, _, err = cli(*sample, "--watermark", KEY, "--interpolate", 1)
    assert code == 0 and "too weak" not in err
    for path in ("made.npz", "made"):
        code, out, err = cli("marks", path, "--key", KEY, "--json", "found.json")
        assert code == 0 and "watermark of this key: found (" in out, err
        evidence = json.loads((workplace / "found.json").read_text())["watermark"]
        assert evidence["found"] and len(evidence["scores"]) == 64
    out = cli("marks", "made", "--key", "another")[1]
    assert "watermark of this key: not found" in out
    everything = b"".join(p.read_bytes() for p in workplace.rglob("*") if p.is_file())
    assert KEY.encode() not in everything
    with np.load("made.npz") as content, Image.open("made/000003.png") as image:
        np.testing.assert_array_equal(np.asarray(image), content["images"][3, ..., 0])


def test_a_watermark_that_will_not_be_found_is_said_to_be_too_weak(
    cli, copies, workplace, monkeypatch
):
    monkeypatch.setattr(watermark, "embed", lambda images, key: images)  # the weakest there is
    command = ["sample", copies["generate"], "--count", 4, "--out", "weak", "--watermark", KEY]
    code, _, err = cli(*command)
    assert code == 0 and "too weak to be found in these 4 images of 8x8 pixels" in err
    assert "not found" in cli("marks", "weak.npz", "--key", KEY)[1]


def test_files_that_hold_no_images_are_refused(cli, workplace):
    one = np.zeros((2, 4, 4, 1), np.uint8)
    files = {
        "floats": ({"images": one.astype(float)}, ["float64"]),
        "small": ({"images": one}, ["4x4", "too small"]),
        "other": ({"labels": one}, ["no .npz with `images`"]),
        "objects": ({"images": np.array([{}], dtype=object)}, ["no .npz with `images`"]),
    }
    for name, (arrays, _) in files.items():
        np.savez(f"{name}.npz", **arrays)
    np.save(workplace / "array", one)
    (workplace / "array.npy").rename("array.npz")
    (workplace / "cut.npz").write_bytes((workplace / "floats.npz").read_bytes()[:200])
    files |= dict.fromkeys(("array", "cut"), files["other"])
    for name, (_, words) in files.items():
        assert_one_error(cli("marks", f"{name}.npz", "--key", 1), *words)
