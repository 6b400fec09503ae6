"""The cache: whole or absent, checked on every load, and shared without harm."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from jaxnets.columns import Classes, Image
from jaxnets.data import cache_dir, load
from jaxnets.data.cache import Staging, cached
from jaxnets.errors import UserError

COLUMNS = {"inputs": Image((2, 3, 1)), "target": Classes(("a", "b"))}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("JAXNETS_CACHE", str(folder))
    return folder


def fill(staging: Staging) -> int:
    for name, count in (("train", 6), ("test", 4)):
        split = staging.split(name, count, COLUMNS)
        split.inputs[:] = np.arange(count * 6, dtype=np.uint8).reshape(count, 2, 3, 1)
        split.target[:] = np.arange(count) % 2
    return 0


def never(staging: Staging) -> int:
    raise AssertionError("the cache was not used")


def test_the_environment_chooses_the_folder(tmp_path, monkeypatch):
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("JAXNETS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "jaxnets"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "jaxnets"


def test_the_second_load_reads_what_the_first_wrote():
    first, second = cached("key", "mine", fill), cached("key", "mine", never)
    assert first.fingerprint == second.fingerprint and second.name == "mine"
    np.testing.assert_array_equal(
        second.splits["train"].inputs.ravel(), np.arange(36, dtype=np.uint8)
    )
    assert not second.splits["train"].inputs.flags.writeable


def damage_byte(folder: Path) -> None:
    path = folder / "train_inputs.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def damage_names(folder: Path) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    meta["columns"]["target"]["names"] = ["b", "a"]
    (folder / "meta.json").write_text(json.dumps(meta))


@pytest.mark.parametrize(
    "damage",
    [
        damage_byte,
        damage_names,
        lambda folder: (folder / "test_target.npy").unlink(),
        lambda folder: (folder / "test_target.npy").write_bytes(b""),
        lambda folder: (folder / "train_inputs.npy").write_bytes(
            (folder / "train_inputs.npy").read_bytes()[:-3]
        ),
        lambda folder: (folder / "meta.json").write_text("{"),
        lambda folder: (folder / "meta.json").write_text("[]"),
        lambda folder: np.save(folder / "test_target.npy", np.zeros(4)),
    ],
)
def test_a_damaged_cache_is_noticed_and_made_again(cache, caplog, damage):
    expected = cached("key", "mine", fill).fingerprint
    damage(cache / "arrays" / "key")
    with caplog.at_level(logging.WARNING):
        assert cached("key", "mine", fill).fingerprint == expected
    assert "damaged" in caplog.text
    assert cached("key", "mine", never).fingerprint == expected
    assert [path.name for path in (cache / "arrays").iterdir()] == ["key"]


def test_an_interrupted_preparation_leaves_nothing(cache):
    def interrupted(staging: Staging) -> int:
        fill(staging)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached("key", "mine", interrupted)
    assert list((cache / "arrays").iterdir()) == []


def test_two_processes_may_prepare_the_same_data():
    def rival(staging: Staging) -> int:
        cached("key", "rival", fill)
        return fill(staging)

    assert cached("key", "mine", rival).name == "mine"
    assert [path.name for path in (cache_dir() / "arrays").iterdir()] == ["key"]


def test_without_a_test_split_a_fifth_of_each_class_is_set_apart():
    def only_train(staging: Staging) -> int:
        split = staging.split("train", 50, {**COLUMNS, "inputs": Image((1, 1, 1))})
        split.inputs[:, 0, 0, 0] = np.arange(50)
        split.target[:] = np.arange(50) % 2
        return 0

    first, second = (cached(key, "mine", only_train) for key in ("one", "two"))
    train, test = first.splits["train"], first.splits["test"]
    assert np.bincount(test.target).tolist() == [5, 5]
    assert sorted([*train.inputs.ravel(), *test.inputs.ravel()]) == list(range(50))
    np.testing.assert_array_equal(train.target, train.inputs.ravel() % 2)
    assert first.fingerprint == second.fingerprint


def test_unlabelled_examples_are_kept_and_a_fifth_is_set_apart():
    def unlabelled(staging: Staging) -> int:
        split = staging.split("train", 50, {"inputs": Image((1, 1, 1))})
        split.inputs[:, 0, 0, 0] = np.arange(50)
        return 0

    dataset = cached("key", "mine", unlabelled)
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert (len(train), len(test)) == (40, 10) and not train.labelled and not dataset.class_names
    assert sorted([*train.inputs.ravel(), *test.inputs.ravel()]) == list(range(50))


def test_splits_of_different_kinds_are_refused(cache):
    def uneven(staging: Staging) -> int:
        staging.split("train", 3, COLUMNS)
        staging.split("test", 3, {**COLUMNS, "inputs": Image((4, 4, 1))})
        return 0

    with pytest.raises(UserError, match=r'"test" are image \(4, 4, 1\) .* "train" image \(2, 3, 1'):
        cached("key", "mine", uneven)
    assert not (cache / "arrays" / "key").exists()


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_outside_their_range_are_refused(cache, label):
    def wrong(staging: Staging) -> int:
        staging.split("train", 3, COLUMNS).target[:] = 1, label, 0
        return 0

    message = rf'label {label} of example 1 in the split "train" .*0\.\.1 \(num_classes=2\)'
    with pytest.raises(UserError, match=message):
        cached("key", "mine", wrong)
    assert not (cache / "arrays" / "key").exists()


def test_the_digits_are_those_of_scikit_learn():
    digits = load("digits")
    assert digits.num_classes == 10 and digits.class_names == tuple("0123456789")
    train, test = digits.splits["train"], digits.splits["test"]
    assert train.inputs.shape == (1438, 8, 8, 1) and test.inputs.shape == (359, 8, 8, 1)

    def table(images: np.ndarray, labels: np.ndarray) -> list[bytes]:
        return sorted(
            image.tobytes() + bytes([label]) for image, label in zip(images, labels, strict=True)
        )

    bunch: Any = load_digits()
    expected = np.rint(bunch["images"] * 255 / 16).astype(np.uint8)
    assert table(
        np.concatenate([train.inputs, test.inputs]), np.concatenate([train.target, test.target])
    ) == table(expected, bunch["target"])
    share = np.bincount(test.target) / np.bincount(bunch["target"])
    assert np.abs(share - 0.2).max() < 0.01
    assert digits.fingerprint.startswith("a33c038bcdaf51d9")


def test_a_damaged_shard_in_our_own_cache_is_prepared_again(cache):
    expected = load("digits").fingerprint
    for shard in (cache / "tfds").rglob("*.array_record*"):
        shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    (cache / "arrays").rename(cache / "gone")
    assert load("digits").fingerprint == expected
