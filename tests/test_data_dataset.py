"""Dividing a data set: fixed by its seed, alike in every class, nothing lost."""

import os

import numpy as np
import pytest

from jaxnets.data import DataSet, Split, missing_classes, split_validation, take_per_class
from jaxnets.data.dividing import stratified_indices
from jaxnets.errors import UserError


def make_split(counts: tuple[int, ...]) -> Split:
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    np.random.default_rng(0).shuffle(labels)
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None] * np.ones(
        (1, 2, 2, 1), np.uint8
    )
    return Split(images, labels)


def rows(split: Split) -> list[int]:
    return split.inputs[:, 0, 0, 0].tolist()


def test_validation_takes_the_same_share_of_every_class_and_loses_nothing():
    split = make_split((10, 40, 100))
    rest, validation = split_validation(split, 0.2, seed=3)
    assert np.bincount(validation.target).tolist() == [2, 8, 20]
    assert sorted(rows(rest) + rows(validation)) == list(range(150))
    assert rows(split_validation(split, 0.2, seed=3)[1]) == rows(validation)
    assert rows(split_validation(split, 0.2, seed=4)[1]) != rows(validation)


def test_rows_keep_their_labels():
    split = make_split((5, 7))
    for part in (*split_validation(split, 0.3, seed=0), take_per_class(split, 3, seed=0)):
        np.testing.assert_array_equal(part.target, split.target[rows(part)])


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.99])
def test_small_classes_stay_on_both_sides(fraction):
    labels = np.array([0, 0, 1, 1, 1, 2])
    first, second = stratified_indices(labels, fraction, seed=0)
    assert {0, 1} <= set(labels[first]) and {0, 1} == set(labels[second])
    assert sorted([*first, *second]) == list(range(6))


def test_single_examples_cannot_be_divided():
    with pytest.raises(UserError, match="two or more"):
        split_validation(make_split((1, 1)), 0.5, seed=0)


def test_classes_that_no_example_has_are_named():
    split = make_split((2, 0, 1, 0))
    assert missing_classes(split, ["a", "b", "c", "d"]) == ["b", "d"]
    assert missing_classes(split.take(np.arange(0)), ["a"]) == ["a"]


def test_take_per_class_grows_by_adding():
    split = make_split((10, 12, 14))
    few, more = (take_per_class(split, n, seed=1) for n in (2, 5))
    assert np.bincount(few.target).tolist() == [2, 2, 2]
    assert np.bincount(more.target).tolist() == [5, 5, 5]
    assert set(rows(few)) < set(rows(more))
    assert rows(few) != rows(take_per_class(split, 2, seed=2))


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, 4, 4, 1), np.float32), np.zeros(2, np.int32)),
        (np.zeros((2, 4, 4), np.uint8), np.zeros(2, np.int32)),
        (np.zeros((2, 4, 4, 1), np.uint8), np.zeros(3, np.int32)),
        (np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2, np.int64)),
    ],
)
def test_a_split_checks_shapes_and_types(images, labels):
    with pytest.raises(UserError, match=r"must be|target has 3 rows and inputs has 2"):
        Split(images, labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            [0, 1, 2, 3],
            r'^label 3 of example 3 in the split "test" is outside 0\.\.2 \(num_classes=3\)$',
        ),
        ([0, -1, 7, 8], r"^label -1 of example 1 .* and so are those of 2 more$"),
    ],
)
def test_a_label_out_of_range_is_named_with_its_example(labels, message):
    splits = {
        name: Split(np.zeros((4, 2, 2, 1), np.uint8), np.array(of, np.int32))
        for name, of in (("train", [0, 1, 2, 0]), ("test", labels))
    }
    with pytest.raises(UserError, match=message):
        DataSet("mine", splits, ("a", "b", "c"))


@pytest.fixture
def mapped(tmp_path):
    """A split whose arrays are mapped from files, and the file of its images."""
    images, labels = np.zeros((6, 2, 2, 1), np.uint8), np.zeros(6, np.int32)
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "labels.npy", labels)
    arrays = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("images", "labels")]
    return Split(*arrays), tmp_path / "images.npy"


def test_a_mapped_file_that_is_written_to_is_named(mapped):
    split, path = mapped
    split.check_unchanged()
    rows = split.take(np.arange(3))
    os.utime(path, ns=(1, 1))
    with pytest.raises(UserError, match=r"images\.npy was changed .* run the same command again"):
        split.check_unchanged()
    rows.check_unchanged()  # a copy


def test_a_mapped_file_that_is_replaced_or_deleted_stays_what_it_was(mapped):
    split, path = mapped
    fresh = path.with_name("fresh.npy")
    np.save(fresh, np.ones((6, 2, 2, 1), np.uint8))
    fresh.replace(path)
    split.check_unchanged()
    path.unlink()
    split.check_unchanged()
    assert not split.inputs.any()
