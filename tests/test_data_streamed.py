"""Sets that are not decoded ahead: the same rows, read when they are needed."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image, ImageOps
from test_data_sources import pictures, prepare

from command_lines import CLASSIFY, assert_one_error, run, summary
from jaxnets import columns
from jaxnets.data import LazyRows, StreamingPipeline, Views, describe, load, split_validation
from jaxnets.data.sources.images import ImageFiles
from jaxnets.errors import UserError

EVERYTHING = Views(resized_crop=0.3, rand_augment=9)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXNETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    """Three classes of twenty pictures of several sizes, one of them turned by its header."""
    random = np.random.default_rng(0)
    folder = tmp_path / "images"
    for name in ("a", "b", "c"):
        (folder / name).mkdir(parents=True)
        for index in range(20):
            pixels = random.integers(0, 256, (20 + index, 30, 3), np.uint8)
            turned = Image.Exif()
            turned[0x0112] = 6 if index == 3 else 1
            Image.fromarray(pixels).save(folder / name / f"{index:02}.jpg", exif=turned)
    return folder


def both(root, **options):
    ahead = load(f"folder:{root}", image_size=8, **options)
    lazy = load(f"folder:{root}", image_size=8, decode_ahead=0, **options)
    assert isinstance(lazy.splits["train"].inputs, LazyRows)
    assert not isinstance(ahead.splits["train"].inputs, LazyRows)
    return ahead, lazy


def test_rows_are_those_that_are_decoded_ahead(root, monkeypatch):
    ahead, lazy = both(root)
    assert "each is decoded when it is needed" in lazy.notes[0]
    for name, split in ahead.splits.items():
        np.testing.assert_array_equal(lazy.splits[name].inputs[:], split.inputs)
        np.testing.assert_array_equal(lazy.splits[name].target, split.target)
    monkeypatch.setattr(LazyRows, "__getitem__", lambda *_: pytest.fail("decoded all"))
    parts = [split_validation(one.splits["train"], 0.25, 3)[1] for one in (ahead, lazy)]
    assert isinstance(parts[1].inputs, LazyRows)
    monkeypatch.undo()
    np.testing.assert_array_equal(np.asarray(parts[1].inputs), parts[0].inputs)
    assert lazy.splits["test"].inputs[2].shape == (8, 8, 3)
    assert describe(lazy)["splits"]["train"]["duplicates"] is None
    assert describe(lazy)["splits"]["test"]["mean"] == describe(ahead)["splits"]["test"]["mean"]


def test_batches_do_not_depend_on_who_reads_them(root):
    split = load(f"folder:{root}", image_size=8, views=EVERYTHING).splits["train"]
    feeds = []
    for workers, first in ((0, 0), (1, 0), (2, 0), (0, 3)):
        pipeline = StreamingPipeline(split, 10, 7, workers=workers)
        feeds.append(pipeline.feed(first, 6 - first))
        pipeline.close()
    whole = feeds[0]["inputs"]
    for feed, first in zip(feeds[1:], (0, 0, 3), strict=True):
        np.testing.assert_array_equal(feed["inputs"], whole[first:])
        np.testing.assert_array_equal(feed["target"], feeds[0]["target"][first:])
    half = StreamingPipeline(split, 10, 7, workers=0, rows=slice(5, 10))
    np.testing.assert_array_equal(half.feed(0, 6)["inputs"], whole[:, 5:])
    order = half.order.indices(0, 10)
    again = np.argwhere(order == order[0, 0])[:2]  # the same picture, an epoch later
    seen = half.order, StreamingPipeline(split, 10, 7, workers=0).feed(0, 10)["inputs"]
    assert np.any(seen[1][tuple(again[0])] != seen[1][tuple(again[1])])


def test_views_cut_out_what_they_say_and_have_every_strength():
    random = np.random.default_rng(0)
    boxes = [Views(0.25).box(250, 200, random) for _ in range(300)]
    found = np.array([box for box in boxes if box is not None])
    assert len(found) > 290 and found.min() >= 0 and found.max() <= 1
    shares = (found[:, 2] - found[:, 0]) * (found[:, 3] - found[:, 1])
    assert 0.25 <= shares.min() < 0.3 and 0.9 < shares.max() <= 1
    aspects = 1.25 * (found[:, 2] - found[:, 0]) / (found[:, 3] - found[:, 1])
    assert 3 / 4 <= aspects.min() < 0.8 and 1.25 < aspects.max() <= 4 / 3
    assert Views(0.9).box(1000, 10, random) is None
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8))
    changed = {
        strength: np.mean(
            [
                np.abs(np.asarray(Views(None, strength).change(picture, random), float) - picture)
                for _ in range(60)
            ]
        )
        for strength in (1, 30)
    }
    assert 0 < 3 * changed[1] < changed[30]
    grey = Views(None, 30).change(picture.convert("L"), random)
    assert grey.mode == "L" and grey.size == (16, 16)


def test_a_view_is_cut_out_of_the_picture_as_it_is_seen(tmp_path):
    class LeftHalf(Views):
        def box(self, width, height, random):
            assert (width, height) == (160, 120)
            return 0.0, 0.0, 0.5, 1.0

        def change(self, image, random):
            return image

    turned = Image.Exif()
    turned[0x0112] = 6
    fine = np.indices((160, 120)).sum(axis=0) // 6 % 2 * 255
    Image.fromarray(fine.astype(np.uint8)).save(tmp_path / "a.jpg", quality=95, exif=turned)
    column, random = columns.Image((40, 30, 1)), np.random.default_rng(0)
    found = ImageFiles().view(tmp_path / "a.jpg", column, random, LeftHalf())
    seen = ImageOps.exif_transpose(Image.open(tmp_path / "a.jpg")).crop((0, 0, 80, 120))
    expected = np.asarray(seen.resize((30, 40), Image.Resampling.BICUBIC), float)
    assert np.abs(np.asarray(found, float)[..., 0] - expected).mean() < 12
    assert expected.std() > 60


def test_a_damaged_file_is_named_and_the_next_of_its_class_taken(root, caplog):
    split = load(f"folder:{root}", image_size=8, decode_ahead=0).splits["train"]
    for index in (4, 5):
        file = root / "b" / f"{index:02}.jpg"
        file.write_bytes(file.read_bytes()[:-300])
    assert isinstance(split.inputs, LazyRows)
    names = split.inputs.items.tolist()
    bad = [names.index(b"b/04.jpg"), names.index(b"b/05.jpg")]
    rows = split.inputs[bad]
    np.testing.assert_array_equal(rows, split.inputs[[bad[1] + 1] * 2])
    pipeline = StreamingPipeline(split, len(split), 0, workers=1)
    pipeline.feed(0, 1)
    pipeline.close()
    assert caplog.text.count("b/04.jpg can't be read (damaged") == 1
    for file in (root / "b").iterdir():
        file.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the \d+ files of a class can be read: b/"):
        split.inputs[bad]


def test_what_can_be_known_before_the_start_is_said_then(root, cli):
    (root / "a" / "00.jpg").write_bytes(b"")
    whole = load(f"folder:{root}", image_size=8, decode_ahead=0, skip_bad=True)
    assert whole.skipped == 1 and sum(map(len, whole.splits.values())) == 59
    with pytest.raises(UserError, match="give one with --image-size"):
        load(f"folder:{root}", decode_ahead=0, skip_bad=True)
    assert_one_error(cli(*CLASSIFY, "--rand-augment", "3"), "digits", "--rand-augment", "folder:")


def test_shards_of_tfds_are_read_as_they_lie(tmp_path):
    rows = pictures(12)
    labels = tfds.features.ClassLabel(names=["cat", "dog", "fox"])
    features = {"image": tfds.features.Image(shape=(5, 4, 1)), "label": labels}
    prepare(tmp_path, {"train": rows, "test": rows[:5]}, features=features)
    ahead = load("tfds:tiny", data_dir=tmp_path)
    for _ in range(2):  # the labels are then in the cache
        lazy = load("tfds:tiny", data_dir=tmp_path, decode_ahead=0)
        for name, split in ahead.splits.items():
            assert isinstance(lazy.splits[name].inputs, LazyRows)
            np.testing.assert_array_equal(lazy.splits[name].inputs[:], split.inputs)
            np.testing.assert_array_equal(lazy.splits[name].target, split.target)
    pipeline = StreamingPipeline(lazy.splits["train"], 4, 0, workers=1)
    alone = StreamingPipeline(lazy.splits["train"], 4, 0, workers=0)
    np.testing.assert_array_equal(pipeline.feed(0, 3)["inputs"], alone.feed(0, 3)["inputs"])
    pipeline.close()


def test_random_views_of_tfds_need_one_size(tmp_path):
    prepare(tmp_path, {"train": pictures(8), "test": pictures(3)})  # of sizes that it doesn't tell
    with pytest.raises(UserError, match=r"several sizes.*--image-size"):
        load("tfds:tiny", data_dir=tmp_path, views=EVERYTHING)
    views = load("tfds:tiny", data_dir=tmp_path, views=EVERYTHING, image_size=4)
    assert views.splits["train"].lazy


def test_a_run_of_streamed_pictures_is_the_run_of_decoded_ones(root, tmp_path):
    common = [*CLASSIFY, "--data", f"folder:{root}", "--image-size", "8", "--epochs", "1"]
    run(common, "--run-dir", str(tmp_path / "ahead"))
    run(common, "--run-dir", str(tmp_path / "lazy"), "--decode-ahead 0 --workers 0")
    of = [summary(tmp_path / name) for name in ("ahead", "lazy")]
    assert of[0]["test_loss"] == of[1]["test_loss"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_readers_end_with_their_run(root, tmp_path, number):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "experiments", *CLASSIFY, "--data", f"folder:{root}"]
    command += ["--image-size", "8", "--epochs", "100000", "--decode-ahead", "0", "--workers", "2"]
    command += ["--run-dir", str(folder), "--log-every", "1", "--eval-every", "0"]
    process = subprocess.Popen(
        command,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = folder / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") > 2):
        assert process.poll() is None
        time.sleep(0.2)
    readers = []
    for thread in Path(f"/proc/{process.pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the thread has ended meanwhile
            readers += (thread / "children").read_text().split()
    assert len(readers) >= 2
    if number == signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, number)
    killer = threading.Timer(60, lambda: os.killpg(process.pid, signal.SIGKILL))
    killer.start()
    _, errors = process.communicate()
    killer.cancel()
    assert "Traceback" not in errors and process.returncode in (130, 143, -9)
    deadline = time.monotonic() + 30
    while any(os.path.exists(f"/proc/{pid}") for pid in readers):
        assert time.monotonic() < deadline
        time.sleep(0.2)
