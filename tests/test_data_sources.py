"""Names of data sets, and any set of TensorFlow Datasets behind one."""

import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxnets.data import DATA_SOURCES, load
from jaxnets.data.sources import prepared
from jaxnets.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXNETS_CACHE", str(tmp_path / "cache"))


def prepare(
    folder: Path,
    splits: dict[str, list[tuple[np.ndarray, int]]],
    *,
    name: str = "tiny",
    features: dict[str, Any] | None = None,
    file_format: str = "array_record",
    num_shards: int = 1,
) -> None:
    """Writes a prepared data set as TensorFlow Datasets would."""
    described: dict[str, Any] = features or {
        "image": tfds.features.Image(shape=(None, None, 1)),
        "label": tfds.features.ClassLabel(names=["cat", "dog", "fox"]),
    }

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("3.0.1")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(described)
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(rows) for split, rows in splits.items()}

        def _generate_examples(self, rows):
            for index, (pixels, label) in enumerate(rows):
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, "PNG")
                file.seek(0)
                yield index, dict(zip(described, (file, label), strict=True))

    Tiny.name = name
    tfds.disable_progress_bar()
    Tiny(data_dir=str(folder), file_format=file_format).download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=num_shards)
    )


def pictures(count: int, size: tuple[int, ...] = (5, 4)) -> list[tuple[np.ndarray, int]]:
    return [(np.full(size, index, np.uint8), index % 3) for index in range(count)]


def test_unknown_names_list_the_known_ones():
    for name in ("mnist", "tfds:", "folder:", "digits:", "", "http://x"):
        with pytest.raises(UserError, match=r"no data set.*digits, fashion_mnist, tfds:.*folder:"):
            load(name)
    assert list(DATA_SOURCES) == [
        "digits",
        "fashion_mnist",
        "tfds:",
        "folder:",
        "objects:",
        "sounds:",
        "texts:",
    ]


def test_options_of_another_kind_are_refused():
    with pytest.raises(UserError, match="digits takes no image size; it is for tfds: and folder:"):
        load("digits", image_size=16)


def test_a_prepared_set_is_read(tmp_path):
    prepare(tmp_path, {"train": pictures(30), "test": pictures(6)})
    for name in ("tfds:tiny", "tfds:tiny:3.0.1"):
        dataset = load(name, data_dir=tmp_path)
        train = dataset.splits["train"]
        assert dataset.class_names == ("cat", "dog", "fox") and dataset.name == name
        assert train.inputs.shape == (30, 5, 4, 1) and len(dataset.splits["test"]) == 6
        assert sorted(train.inputs[:, 0, 0, 0]) == list(range(30))
        np.testing.assert_array_equal(train.target, train.inputs[:, 0, 0, 0] % 3)


def test_without_a_test_split_one_is_set_apart_and_validation_is_kept(tmp_path):
    prepare(tmp_path, {"train": pictures(30), "validation": pictures(6)})
    splits = load("tfds:tiny", data_dir=tmp_path).splits
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 24,
        "validation": 6,
        "test": 6,
    }


def test_a_set_prepared_again_is_read_again(tmp_path):
    prepare(tmp_path, {"train": pictures(9), "test": pictures(3)})
    assert len(load("tfds:tiny", data_dir=tmp_path).splits["train"]) == 9
    for path in sorted((tmp_path / "tiny").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    prepare(tmp_path, {"train": pictures(12), "test": pictures(3)})
    assert len(load("tfds:tiny", data_dir=tmp_path).splits["train"]) == 12


def test_varying_sizes_need_one(tmp_path):
    prepare(tmp_path, {"train": [*pictures(6), *pictures(3, (7, 4))], "test": pictures(3)})
    with pytest.raises(UserError, match=r"7x4x1.*--image-size|5x4x1.*--image-size"):
        load("tfds:tiny", data_dir=tmp_path)
    dataset = load("tfds:tiny", data_dir=tmp_path, image_size=(8, 8), channels=3)
    assert dataset.splits["train"].inputs.shape == (9, 8, 8, 3)


def test_labels_that_are_kept_secret_are_refused(tmp_path):
    prepare(tmp_path, {"train": pictures(6), "test": [(np.zeros((5, 4), np.uint8), -1)] * 3})
    with pytest.raises(UserError, match=r"label -1.*test.*0\.\.2"):
        load("tfds:tiny", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"picture": tfds.features.Image(shape=(None, None, 1)), "label": np.int64}, "picture"),
        ({"image": tfds.features.Image(shape=(None, None, 1)), "label": np.int64}, "class `label`"),
        (
            {
                "image": tfds.features.Image(shape=(None, None, 1), dtype=np.uint16),
                "label": tfds.features.ClassLabel(num_classes=3),
            },
            "uint16",
        ),
    ],
)
def test_other_features_are_named(tmp_path, features, message):
    prepare(tmp_path, {"train": pictures(3)}, features=features)
    with pytest.raises(UserError, match=message):
        load("tfds:tiny", data_dir=tmp_path)


def test_a_set_without_train_is_refused(tmp_path):
    prepare(tmp_path, {"test": pictures(3)})
    with pytest.raises(UserError, match="splits test; it needs a `train`"):
        load("tfds:tiny", data_dir=tmp_path)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 8
    path.write_bytes(data)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [halve, flip, Path.unlink, lambda path: path.write_bytes(b"")])
def test_the_damaged_shard_is_named(tmp_path, damage):
    noise = np.random.default_rng(0).integers(0, 256, (60, 16, 16), np.uint8)
    rows = [(image, index % 3) for index, image in enumerate(noise)]
    prepare(tmp_path, {"train": rows, "test": rows[:3]}, num_shards=3)
    _, shard, _ = sorted(tmp_path.rglob("*train.array_record*"))
    good = shard.read_bytes()
    damage(shard)
    with pytest.raises(
        UserError, match=r"example 20 .*file tiny-train.array_record-00001-of-00003 is"
    ):
        load("tfds:tiny", data_dir=tmp_path)
    shard.write_bytes(good)
    assert len(load("tfds:tiny", data_dir=tmp_path).splits["train"]) == 60


def test_a_shard_with_fewer_examples_than_announced(tmp_path):
    prepare(tmp_path, {"train": pictures(8), "test": pictures(3)})
    prepare(tmp_path / "other", {"train": pictures(6), "test": pictures(3)})
    (shard,) = (tmp_path / "tiny").rglob("*train.array_record*")
    (shorter,) = (tmp_path / "other").rglob("*train.array_record*")
    shard.write_bytes(shorter.read_bytes())
    with pytest.raises(UserError, match="prepare it again"):
        load("tfds:tiny", data_dir=tmp_path)


def test_an_example_that_comes_back_empty_is_noticed(tmp_path, monkeypatch):
    prepare(tmp_path, {"train": pictures(8), "test": pictures(3)})
    monkeypatch.setattr(prepared, "_examples", lambda source, where: [{"image": None, "label": 0}])
    with pytest.raises(
        UserError, match=r"example 0 is missing, so its file tiny-train\.array_record"
    ):
        load("tfds:tiny", data_dir=tmp_path)


def test_files_that_only_tensorflow_reads(tmp_path):
    prepare(tmp_path, {"train": pictures(8), "test": pictures(3)})
    (info,) = tmp_path.rglob("dataset_info.json")
    text = json.loads(info.read_text()) | {"fileFormat": "tfrecord"}
    info.write_text(json.dumps(text))
    with pytest.raises(UserError, match=r"stored as tfrecord.*--file_format=array_record"):
        load("tfds:tiny", data_dir=tmp_path)


def test_mocked_data_is_read_like_prepared_data(tmp_path):
    rows = pictures(6, (28, 28))
    labels = tfds.features.ClassLabel(num_classes=10)
    features = {"image": tfds.features.Image(shape=(28, 28, 1)), "label": labels}
    prepare(tmp_path, {"train": rows, "test": rows}, name="mnist", features=features)

    def fake(self, split, **kwargs):
        value = {"train": 7, "test": 9}[split]
        return [{"image": np.full((28, 28, 1), value, np.uint8), "label": 5}] * count

    with tfds.testing.mock_data(as_data_source_fn=fake, data_dir=str(tmp_path)):
        count = 5
        with pytest.raises(UserError, match="5 examples instead of 6"):
            load("tfds:mnist", data_dir=tmp_path)
        count = 6
        dataset = load("tfds:mnist", data_dir=tmp_path)
    for split, value in (("train", 7), ("test", 9)):
        assert dataset.splits[split].inputs.shape == (6, 28, 28, 1)
        assert np.all(dataset.splits[split].inputs == value)


def test_names_that_tfds_does_not_know(tmp_path):
    for name, message in (
        ("tfds:no_such_set", "knows no"),
        ("tfds:mnist:9.9.9", "9.9.9"),
        ("tfds:mnist/no_such_config", "no_such_config"),
        ("tfds:not a name", "not a name"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            load(name, data_dir=tmp_path)
        assert "\n" not in str(caught.value)


def test_preparing_without_tensorflow_names_the_extra_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(prepared, "reachable", lambda url: pytest.fail("asked the network"))
    with pytest.raises(UserError, match=r'pip install "jaxnets\[tfds\]"'):
        load("tfds:mnist", data_dir=tmp_path)
    assert not (tmp_path / "mnist").exists()


def test_preparing_without_a_network_is_noticed_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(prepared, "reachable", lambda url: False)
    with pytest.raises(UserError, match="does not answer"):
        load("tfds:mnist", data_dir=tmp_path)
