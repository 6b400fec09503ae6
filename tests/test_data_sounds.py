"""Sound files: what is read, what it becomes, and why a file is refused."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy import signal

from jaxnets.columns.sound import Sound
from jaxnets.data import load
from jaxnets.data.sources.sounds import Header, SoundFiles
from jaxnets.errors import UserError

RATE = 8000
ROOT = Path("sounds")


def tone(hertz=440, rate=RATE, seconds=0.5):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_each_format_is_read(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    soundfile.write(path, tone(), RATE)
    header = SoundFiles().header(path)
    assert isinstance(header, Header) and header.rate == RATE
    assert abs(header.frames - 4000) < 2000  # MP3 has silence at its ends
    column = Sound(RATE, 4000)
    row = SoundFiles().row(path, column)
    assert not isinstance(row, str) and row.shape == (4000,) and row.dtype == np.int16
    spectrum = np.abs(np.fft.rfft(column.decode(row)))
    assert abs(spectrum.argmax() * 2.0 - 440) <= 2


def test_16_bit_samples_of_the_same_rate_stay_bit_for_bit(tmp_path):
    samples = np.random.default_rng(0).integers(-32768, 32768, 1000).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", samples, RATE)
    np.testing.assert_array_equal(SoundFiles().row(tmp_path / "a.wav", Sound(RATE, 1000)), samples)
    # The middle of a longer sound, and a shorter one in the middle of silence.
    middle = SoundFiles().row(tmp_path / "a.wav", Sound(RATE, 400))
    np.testing.assert_array_equal(middle, samples[300:700])
    padded = SoundFiles().row(tmp_path / "a.wav", Sound(RATE, 1003))
    np.testing.assert_array_equal(padded, np.pad(samples, (1, 2)))


def test_channels_are_averaged(tmp_path):
    samples = np.stack([np.full(100, 1000), np.full(100, 3000)], axis=1).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", samples, RATE)
    np.testing.assert_array_equal(
        SoundFiles().row(tmp_path / "a.wav", Sound(RATE, 100)), [2000] * 100
    )


@pytest.mark.parametrize("rate", [4000, 11025, 44100])
def test_another_rate_is_resampled(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", tone(440, rate), rate, subtype="FLOAT")
    column = Sound(RATE, 4000)
    row = column.decode(SoundFiles().row(tmp_path / "a.wav", column))
    np.testing.assert_allclose(row[200:-200], tone()[200:-200], atol=2e-3)
    # An octave above what the new rate can hold must not come back as a lower tone.
    if rate == 44100:
        soundfile.write(tmp_path / "b.wav", tone(9000, rate), rate)
        alias = column.decode(SoundFiles().row(tmp_path / "b.wav", column))
        assert np.abs(alias[200:-200]).max() < 0.01


def test_a_long_file_costs_no_more_than_its_middle(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", np.zeros(1_000_000, np.int16), RATE)
    counts = []
    read = soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile,
        "read",
        lambda self, frames, **options: counts.append(frames) or read(self, frames, **options),
    )
    SoundFiles().row(tmp_path / "a.wav", Sound(RATE // 2, 100))
    assert counts == [200]


def test_a_file_that_gives_fewer_samples_than_it_promised_is_damaged(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", tone(), RATE)
    read = soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile,
        "read",
        lambda self, frames, **options: read(self, frames - 1, **options),
    )
    assert "before its last sample" in SoundFiles().row(tmp_path / "a.wav", Sound(RATE, 4000))


def damaged(path, kind):
    """A file that can't be used, and what is said of it."""
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "not a sound file":
        path.write_bytes(b"GIF89a" * 99)
    elif kind == "no samples":
        soundfile.write(path, np.zeros(0), RATE)
    elif kind == "not a number":
        soundfile.write(path, np.array([0.0, np.nan]), RATE, subtype="FLOAT")
    elif kind == "no regular file":
        path.symlink_to(path.parent / "gone")
    else:
        soundfile.write(path, signal.sawtooth(np.arange(9000) / 9), RATE)
        path.write_bytes(path.read_bytes()[:9000])


@pytest.mark.parametrize(
    "name, words",
    [
        ("a.wav", "empty"),
        ("a.wav", "not a sound file"),
        ("a.wav", "no samples"),
        ("a.wav", "not a number"),
        ("a.wav", "no regular file"),
        ("a.wav", "damaged: it ends before its last sample"),
        ("a.flac", "damaged"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_why(tmp_path, name, words):
    path = tmp_path / name
    damaged(path, words)
    reason = SoundFiles().header(path)
    if not isinstance(reason, str):
        reason = SoundFiles().row(path, Sound(RATE, 9000))
    assert isinstance(reason, str) and words in reason


def test_the_most_common_rate_and_the_length_of_most_are_taken():
    headers = [Header(8000, 800 + i) for i in range(100)] + [Header(44100, 99)]
    reader = SoundFiles(None, None)
    column = reader.column(headers, ROOT)
    assert column == Sound(8000, 894)
    assert reader.notes(headers[:90], column) == []
    assert reader.notes(headers, column) == ["1 sounds of 44100 Hz are resampled to 8000 Hz"]
    assert SoundFiles(None, 0.5).column(headers[:3], ROOT) == Sound(8000, 4000)
    (note,) = reader.notes(headers[:90], Sound(8000, 400))
    assert "of 90 longer sounds the middle 0.05 s are kept" in note
    column = SoundFiles(16000, 0.5).column(headers, ROOT)
    assert column == Sound(16000, 8000)
    told = "101 sounds of 8000, 44100 Hz are resampled to 16000 Hz"
    assert reader.notes(headers, column) == [told]


@pytest.mark.parametrize("seconds", [0.001, 1e9])
def test_too_few_and_too_many_samples_are_refused(seconds):
    with pytest.raises(UserError, match="choose --seconds and --rate for 16 to 16,777,216"):
        SoundFiles(None, seconds).column([Header(8000, 800)], ROOT)


def test_a_folder_of_sounds_becomes_a_data_set(tmp_path):
    for label, hertz in (("high", 2000), ("low", 200)):
        (tmp_path / label).mkdir()
        for i in range(5):
            soundfile.write(tmp_path / label / f"{i}.wav", tone(hertz + 9 * i, seconds=0.1), RATE)
    (tmp_path / "low" / "x.wav").write_bytes(b"")
    with pytest.raises(UserError, match=r"1 file that can't be used: low/x.wav \(empty\)"):
        load(f"sounds:{tmp_path}")
    dataset = load(f"sounds:{tmp_path}", seconds=0.2, skip_bad=True)
    assert dataset.skipped == 1 and dataset.class_names == ("high", "low")
    assert dataset.columns["inputs"] == Sound(RATE, 1600)
    for split in dataset.splits.values():
        pitch = np.abs(np.fft.rfft(split.inputs)).argmax(axis=1) * 5
        np.testing.assert_array_equal(split.target, pitch < 1000)
    with pytest.raises(UserError, match="takes no unit; it is for texts:"):
        load(f"sounds:{tmp_path}", unit="words")
    with pytest.raises(UserError, match="choose --seconds and --rate"):
        load(f"sounds:{tmp_path}", seconds=1e-9, skip_bad=True)
