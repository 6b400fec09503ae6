"""What `data show` reports is true, and the commands say it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tyro
from PIL import Image

from jaxnets.commands import data as command
from jaxnets.commands.configs.data import DataCommand
from jaxnets.commands.session import Session
from jaxnets.data import DataSet, Split, contact_sheet, describe
from jaxnets.errors import UserError


def make_dataset(channels: int = 1) -> DataSet:
    random = np.random.default_rng(0)
    train = random.integers(0, 256, (9, 4, 5, channels), np.uint8)
    test = random.integers(0, 256, (4, 4, 5, channels), np.uint8)
    train[3] = train[7] = train[1]
    test[0] = test[2] = train[1]
    test[3] = train[0]
    return DataSet(
        name="made",
        class_names=("a", "b", "nothing"),
        splits={
            "train": Split(train, np.array([0, 1, 0, 1, 0, 1, 0, 1, 0], np.int32)),
            "test": Split(test, np.array([0, 1, 1, 1], np.int32)),
        },
        skipped=2,
        fingerprint="f",
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_description(channels):
    dataset = make_dataset(channels)
    found = describe(dataset)
    assert json.loads(json.dumps(found)) == found
    train = found["splits"]["train"]
    assert train["count"] == 9 and train["shape"] == [4, 5, channels]
    assert train["class_counts"] == {"a": 5, "b": 4, "nothing": 0}
    assert train["duplicates"] == 2 and found["splits"]["test"]["duplicates"] == 1
    assert found["duplicates_across"] == {"train/test": 3}
    pixels = dataset.splits["train"].inputs.astype(np.float64) / 255
    np.testing.assert_allclose(train["mean"], pixels.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(train["std"], pixels.std((0, 1, 2)), rtol=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_sheet_shows_each_class_in_its_row(tmp_path, channels):
    dataset = make_dataset(channels)
    contact_sheet(dataset, tmp_path / "sheet.png", per_class=3)
    with Image.open(tmp_path / "sheet.png") as image:
        sheet = np.asarray(image.convert("RGB"))
    scale, gap = 13, 6  # the longer side, 5, is enlarged to 64 or more
    height, width = 4 * scale + gap, 5 * scale + gap
    assert len(sheet) == 3 * height + gap and sheet.shape[1] > 3 * width + gap  # with the names
    sheet = sheet[gap:, -3 * width :]
    train = dataset.splits["train"]
    for label in (0, 1):
        for place, index in enumerate(np.flatnonzero(train.target == label)[:3]):
            tile = sheet[label * height :, place * width :][
                : 4 * scale : scale, : 5 * scale : scale
            ]
            np.testing.assert_array_equal(tile, np.broadcast_to(train.inputs[index], (4, 5, 3)))
    assert not sheet[2 * height : -gap, : width - gap].any()


def test_the_sheet_refuses(tmp_path):
    dataset = make_dataset()
    with pytest.raises(UserError, match='no split "valid"; it has train, test'):
        contact_sheet(dataset, tmp_path / "x.png", split="valid")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be written"):
        contact_sheet(dataset, tmp_path / "file" / "x.png")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def parse(*arguments: str):
    return tyro.cli(DataCommand, args=arguments)  # type: ignore[arg-type]


def test_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAXNETS_CACHE", str(tmp_path))
    command.run(parse("prepare", "digits"), Session())
    assert "1,438 train, 359 test; 10 classes" in capsys.readouterr().out
    command.run(
        parse("show", "digits", "--out", str(tmp_path / "digits.png"), "--per-class", "3"),
        Session(),
    )
    text = capsys.readouterr().out
    assert "1,438 images of 8x8x1" in text and "0 142, 1 146" in text and "digits.png" in text
    with Image.open(tmp_path / "digits.png") as image:
        assert image.height > 10 * 64


def test_image_sizes_on_the_command_line():
    assert parse("show", "x", "--image-size", "32").image_size == (32,)
    assert parse("show", "x", "--image-size", "32", "48").image_size == (32, 48)


def test_the_package_imports_its_readers_only_when_they_are_needed():
    heavy = ("tensorflow_datasets", "tensorflow", "grain", "sklearn", "PIL")
    code = f"import sys, jaxnets.data; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
