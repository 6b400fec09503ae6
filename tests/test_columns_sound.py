"""Sounds as rows, as files with a mark, and as players on a page."""

import base64
import json
import re

import jax
import numpy as np
import pytest
import soundfile

from jaxnets.columns.sound import Sound
from jaxnets.media import report

COLUMN = Sound(rate=8000, length=800)


def tone(hertz):
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(COLUMN.length) / COLUMN.rate)
    return COLUMN.encode(wave.astype(np.float32)[None])


def test_every_sample_comes_back_and_numpy_and_jax_agree_bit_for_bit():
    rows = np.arange(-32768, 32768, dtype=np.int16)
    values = COLUMN.decode(rows)
    assert values.dtype == np.float32 and values.min() == -1 and values.max() < 1
    np.testing.assert_array_equal(COLUMN.encode(values), rows)
    np.testing.assert_array_equal(jax.jit(COLUMN.decode)(rows), values)
    np.testing.assert_array_equal(jax.jit(COLUMN.encode)(values), rows)


def test_what_no_sample_can_hold_is_clipped_or_silent():
    values = np.array([2.0, -2.0, 1.0, np.nan, np.inf], np.float32)
    np.testing.assert_array_equal(COLUMN.encode(values), [32767, -32768, 32767, 0, 32767])


def test_files_hold_the_samples_and_the_mark(tmp_path):
    rows = COLUMN.noise(2, seed=3)
    paths = COLUMN.write(rows, tmp_path / "out", {"seed": 7}, labels=["dog", "cat"])
    assert [path.name for path in paths] == ["000000.wav", "000001.wav"]
    for path, row, label in zip(paths, rows, ["dog", "cat"], strict=True):
        samples, rate = soundfile.read(path, dtype="int16")
        np.testing.assert_array_equal(samples, row)
        assert rate == 8000
        with soundfile.SoundFile(path) as file:
            mark = json.loads(file.comment)
        assert mark["synthetic"] is True and mark["seed"] == 7 and mark["label"] == label


def test_a_page_plays_sounds_and_shows_their_pitch(tmp_path):
    rows = np.concatenate([tone(500), tone(3000)])
    section = COLUMN.show(rows, ["low <b>", "high"])
    page = report.html_report(tmp_path / "page.html", "sounds", [section]).read_text()
    assert "media-src data:" in page and "low &lt;b&gt;" in page
    players = re.findall(r'<audio controls src="data:audio/wav;base64,([^"]+)"', page)
    assert len(players) == 2
    (tmp_path / "one.wav").write_bytes(base64.b64decode(players[1]))
    np.testing.assert_array_equal(soundfile.read(tmp_path / "one.wav", dtype="int16")[0], rows[1])

    def brightest(png):
        from io import BytesIO

        from PIL import Image

        return np.asarray(Image.open(BytesIO(png)).convert("L")).astype(int).sum(axis=1).argmax()

    low, high = (brightest(png) for _, _, png in section.clips)
    assert high + 20 < low  # high tones stand above low ones


def test_noise_fills_the_range_and_follows_from_its_seed():
    rows = COLUMN.noise(4, seed=0)
    assert rows.shape == (4, 800) and rows.dtype == COLUMN.stored
    assert rows.min() < -32000 and rows.max() > 32000
    np.testing.assert_array_equal(rows, COLUMN.noise(4, seed=0))
    assert (rows != COLUMN.noise(4, seed=1)).any()


def test_statistics_count_silent_and_clipped_sounds():
    rows = np.stack([np.zeros(800, np.int16), tone(500)[0], np.full(800, -32768, np.int16)])
    numbers = COLUMN.statistics(rows)
    assert (numbers["silent"], numbers["clipped"], numbers["seconds"]) == (1, 1, 0.1)
    assert numbers["level"] == pytest.approx(np.sqrt((0 + 0.125 + 1) / 3), rel=1e-3)
