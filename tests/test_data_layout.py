"""How folders are laid out, and what is said of what lies there besides."""

import unicodedata
from pathlib import Path

import pytest

from jaxnets.data.sources.layout import find_layout
from jaxnets.errors import UserError


def lay(root: Path, *files: str) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def counts(root: Path) -> dict[str, list[int]]:
    """Split -> files of each class."""
    layout = find_layout(root, "image")
    return {
        split: [sum(f.label == label for f in files) for label in range(len(layout.class_names))]
        for split, files in layout.splits.items()
    }


@pytest.mark.parametrize(
    "names",
    [
        ("train", "test", "val"),
        ("Training", "Testing", "Validation"),
        ("TRAIN", "Test_Set", "valid"),
        ("training data", "test-images", "dev"),
    ],
)
def test_splits_go_by_many_names(tmp_path, names):
    train, test, validation = names
    lay(tmp_path, f"{train}/a/1", f"{train}/a/deep/er/2", f"{train}/b/1")
    lay(tmp_path, f"{test}/a/1", f"{test}/b/1", f"{validation}/a/1", f"{validation}/b/1")
    assert counts(tmp_path) == {"train": [2, 1], "test": [1, 1], "validation": [1, 1]}
    assert find_layout(tmp_path, "image").notes == ()


def test_names_of_splits_may_be_classes(tmp_path):
    lay(tmp_path, "valid/1", "invalid/1", "invalid/2")
    assert counts(tmp_path) == {"train": [2, 1]}
    lay(tmp_path / "b", "train/1", "car/1", "plane/1")
    assert find_layout(tmp_path / "b", "image").class_names == ("car", "plane", "train")


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (("val/a/1", "valid/a/1", "train/a/1"), "two folders for the same split"),
        (("a/1", "b/1", "test/a/1", "test/b/1"), "has test, but no folder train"),
        (("test/a/1", "val/a/1"), "has test and val, but no folder train"),
        (("train/a/1", "train/b/1", "test/1"), "classes in train and none in test"),
        (("a/.x", "b/1"), "a holds no image"),
    ],
)
def test_what_could_be_meant_in_two_ways_is_refused(tmp_path, files, told):
    with pytest.raises(UserError, match=told):
        find_layout(lay(tmp_path, *files), "image")


def test_a_folder_without_sub_folders_is_one_class(tmp_path):
    layout = find_layout(lay(tmp_path / "photos", "1", "2"), "image")
    assert layout.class_names == ("photos",) and len(layout.splits["train"]) == 2
    assert counts(lay(tmp_path / "deep", "all/in/here/1", "all/2")) == {"train": [2]}
    flat = lay(tmp_path / "parted", "train/1", "train/2", "test/1")
    assert counts(flat) == {"train": [2], "test": [1]}
    assert find_layout(flat, "image").class_names == ("parted",)


def test_names_are_equal_however_they_are_encoded(tmp_path):
    composed, apart = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))
    lay(tmp_path, f"train/{composed}/1", "train/b/1", f"test/{apart}/1", "test/b/1")
    assert find_layout(tmp_path, "image").class_names == ("Café", "b")
    assert counts(tmp_path) == {"train": [1, 1], "test": [1, 1]}
    lay(tmp_path / "both", f"{composed}/1", f"{apart}/1")
    with pytest.raises(UserError, match="differ only in how the name is encoded"):
        find_layout(tmp_path / "both", "image")
