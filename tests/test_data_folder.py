"""Folders of images: what is accepted, what is refused, and how the refusal reads."""

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hostile_images import FILES
from jaxnets.data import load, split_validation
from jaxnets.data.cache import entries
from jaxnets.data.dividing import row_hashes
from jaxnets.data.listing import read_listing
from jaxnets.data.sources.images import ImageFiles
from jaxnets.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXNETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path) -> Path:
    """Two classes of five grey 6x4 (height x width) images with a value of their own each."""
    folder = tmp_path / "images"
    for label, name in enumerate(("cat", "dog")):
        for index in range(5):
            save(folder / name / f"{index}.png", np.full((6, 4), 100 * label + index, np.uint8))
    return folder


def save(path: Path, pixels: np.ndarray, mode: str | None = None, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)


def count_copies(split, others) -> int:
    return sum(row in row_hashes(others.inputs) for row in row_hashes(split.inputs))


def values(split) -> list[int]:
    return sorted(split.inputs[:, 0, 0, 0].tolist())


def test_classes_are_sub_folders_and_a_fifth_is_for_testing(root):
    dataset = load(f"folder:{root}")
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert dataset.class_names == ("cat", "dog") and dataset.skipped == 0
    assert train.inputs.shape == (8, 6, 4, 1) and test.inputs.shape == (2, 6, 4, 1)
    assert sorted(values(train) + values(test)) == [*range(5), *range(100, 105)]
    for split in (train, test):
        np.testing.assert_array_equal(split.target, split.inputs[:, 0, 0, 0] // 100)


def test_train_and_test_folders_are_taken_as_they_are(root):
    for name in ("cat", "dog"):
        (root / "train").mkdir(exist_ok=True)
        (root / name).rename(root / "train" / name)
        save(root / "test" / name / "deeper" / "x.png", np.full((6, 4), 50, np.uint8))
    dataset = load(f"folder:{root}")
    assert values(dataset.splits["train"]) == [*range(5), *range(100, 105)]
    assert values(dataset.splits["test"]) == [50, 50]


def test_a_changed_folder_is_read_again(root):
    before = load(f"folder:{root}")
    save(root / "cat" / "new.png", np.full((6, 4), 77, np.uint8))
    after = load(f"folder:{root}")
    assert len(after.splits["train"]) == len(before.splits["train"]) + 1
    assert after.fingerprint != before.fingerprint
    save(root / "cat" / "new.png", np.full((6, 4), 78, np.uint8), compress_level=0)
    again = load(f"folder:{root}")
    assert 78 in values(again.splits["train"]) + values(again.splits["test"])


def test_the_files_that_images_were_made_of_are_listed(root):
    (root / "cat" / "bad.png").write_bytes(b"no image")
    for _ in range(2):  # decoded, then from the cache
        dataset = load(f"folder:{root}", skip_bad=True)
        assert dataset.listing is not None
        listing = read_listing(dataset.listing)
        assert listing is not None and listing.decoder.startswith("Pillow ")
        assert listing.files == {
            str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()[:16]
            for path in root.rglob("*")
            if path.is_file()
        }


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"!")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def rewrite(path: Path) -> None:
    """Other bytes, as many as before, a second later."""
    changed = path.stat().st_mtime_ns + 10**9
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(changed, changed))


@pytest.mark.parametrize("change", [grow, cut, rewrite, Path.unlink])
@pytest.mark.parametrize("step", ["header", "row"])
def test_a_file_that_changes_while_it_is_read_is_named(root, monkeypatch, change, step):
    read = getattr(ImageFiles, step)

    def slowly(reader, path, *rest):
        if path.name == "3.png" and path.exists():
            change(path)  # someone else copies files into the folder
        return read(reader, path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(ImageFiles, step, slowly)
        for skip_bad in (False, True):
            with pytest.raises(UserError, match=r"cat/3\.png.*dog/3\.png.*while they were read"):
                load(f"folder:{root}", skip_bad=skip_bad)
            for name in ("cat", "dog"):
                save(root / name / "3.png", np.full((6, 4), 9, np.uint8))
    assert len(load(f"folder:{root}").splits["train"]) == 8


def test_the_shorter_side_is_resized_and_the_middle_cut_out(tmp_path):
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 10:30] = (200, 100, 50)
    for name in ("a", "b"):
        for index in range(2):
            pixels[:, 10:30] = (200 + index, 100, 50)
            save(tmp_path / "wide" / name / f"{index}.png", pixels)
    dataset = load(f"folder:{tmp_path / 'wide'}", image_size=10)
    image = dataset.splits["train"].inputs[0]
    assert image.shape == (10, 10, 3)
    assert np.abs(image[:, 1:-1].astype(int) - (200, 100, 50)).max() <= 3
    tall = load(f"folder:{tmp_path / 'wide'}", image_size=(8, 4))
    assert tall.splits["train"].inputs.shape[1:] == (8, 4, 3)
    (note,) = dataset.notes[:1]
    assert "10x10 cuts more than 20% away from 4 of 4" in note and "--image-size 10 20" in note
    whole = load(f"folder:{tmp_path / 'wide'}", image_size=(10, 20))
    assert not any("cuts" in note for note in whole.notes)


def test_channels_follow_the_files_or_the_request(root):
    assert load(f"folder:{root}", channels=3).splits["train"].inputs.shape[-1] == 3
    save(root / "dog" / "colour.png", np.full((6, 4, 3), (0, 255, 0), np.uint8))
    assert load(f"folder:{root}").splits["train"].inputs.shape[-1] == 3
    grey = load(f"folder:{root}", channels=1)
    parts = [grey.splits[s].inputs[:, 0, 0, 0] for s in ("train", "test")]
    assert 149 in np.concatenate(parts) or 150 in np.concatenate(parts)  # the luma of pure green


@pytest.mark.parametrize(
    ("mode", "shape"), [("L", (6, 4)), ("1", (6, 4)), ("P", (6, 4, 3)), ("RGB", (6, 4, 3))]
)
def test_plain_modes_are_converted(root, mode, shape):
    save(root / "dog" / "plain.png", np.full(shape, 255, np.uint8), mode)
    images = [split.inputs for split in load(f"folder:{root}").splits.values()]
    assert max(image.max() for image in images) == 255


def test_an_opaque_alpha_channel_is_dropped(root):
    save(root / "dog" / "opaque.png", np.full((6, 4), 255, np.uint8), "RGBA")
    assert load(f"folder:{root}").skipped == 0


def test_a_turned_photograph_is_turned_back(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((4, 6), np.uint8)
    pixels[:, :3] = 255
    save(root / "dog" / "turned.png", pixels, exif=exif)
    images = np.concatenate([s.inputs for s in load(f"folder:{root}").splits.values()])
    (turned,) = (image for image in images if image.max() == 255)
    assert turned[:3].min() == 255 and turned[3:].max() == 0


def test_unusable_files_are_named_at_once_or_skipped_and_counted(root):
    good = load(f"folder:{root}", image_size=(6, 4), channels=1)
    bad = {name: case for name, case in FILES.items() if name.isprintable()}
    for name, (data, _) in bad.items():
        (root / "cat" / name).write_bytes(data)
    count = len(bad)
    with pytest.raises(UserError, match=f"{count} files.*--skip-bad") as caught:
        load(f"folder:{root}", image_size=(6, 4))
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1200
    listed = Path(message.split("all of them: ")[1].split(")")[0]).read_text()
    for name, (_, reason) in bad.items():
        assert reason in listed.split(f"cat/{name} (")[1].split(")")[0] or reason == name
    for _ in range(2):  # decoded, then from the cache
        dataset = load(f"folder:{root}", image_size=(6, 4), channels=1, skip_bad=True)
        assert dataset.skipped == count and dataset.fingerprint == good.fingerprint


def test_a_long_list_is_counted_by_reason_and_whole_in_a_file(root):
    for index in range(30):
        (root / "cat" / f"bad{index:02}.png").write_bytes(b"" if index else b"no image")
    with pytest.raises(UserError, match=r"30 files.*29 empty; 1 not an image.*20 more") as caught:
        load(f"folder:{root}")
    listed = Path(str(caught.value).split("all of them: ")[1].split(")")[0]).read_text()
    assert [f"bad{index:02}.png" in listed for index in range(30)] == [True] * 30
    notes = load(f"folder:{root}", skip_bad=True).notes
    assert len(notes) == 1 and "29 empty" in notes[0] and "left out" in notes[0]


def test_what_is_transparent_is_laid_on_a_background(root):
    clear = np.zeros((6, 4, 4), np.uint8)
    clear[:, 2:] = (10, 20, 30, 255)
    save(root / "cat" / "clear.png", clear)
    palette = Image.fromarray(np.zeros((6, 4), np.uint8)).convert("P")
    palette.save(root / "cat" / "palette.png", transparency=0)
    save(root / "dog" / "grey.png", np.zeros((6, 4), np.uint8), "LA")  # opaque
    for asked, seen in ((None, (255, 255, 255)), ("#102030", (16, 32, 48))):
        dataset = load(f"folder:{root}", channels=3, background=asked)
        images = np.concatenate([split.inputs for split in dataset.splits.values()])
        (found,) = (image for image in images if (image[0, 3] == (10, 20, 30)).all())
        assert (found[0, 0] == seen).all()
        assert sum((image == seen).all() for image in images) == 1  # that of a palette
        assert "3 of 13 images may be transparent" in dataset.notes[0]
        column = dataset.columns["inputs"]
        np.testing.assert_array_equal(ImageFiles().row(root / "cat" / "clear.png", column), found)
    with pytest.raises(UserError, match="'no colour' is no colour"):
        load(f"folder:{root}", background="no colour")


def test_files_that_were_only_touched_are_not_decoded_again(root, monkeypatch):
    before = load(f"folder:{root}")
    for path in root.rglob("*.png"):
        os.utime(path, (1e9, 1e9))
    copied = root.parent / "copied"
    shutil.copytree(root, copied)
    monkeypatch.setattr(ImageFiles, "row", None)
    for folder in (root, copied):
        assert load(f"folder:{folder}").fingerprint == before.fingerprint
    assert len(entries()) == 1


def test_what_was_not_used_for_longest_leaves_the_cache(root, monkeypatch):
    for size in (8, 9, 10):
        load(f"folder:{root}", image_size=size)
        oldest = entries()[-1]
        os.utime(oldest.folder / "meta.json", (1e9, 1e9))
    monkeypatch.setenv("JAXNETS_CACHE_GB", str(2.5 * entries()[0].size / 1e9))
    load(f"folder:{root}", image_size=11)
    left = entries()
    assert oldest.folder not in [entry.folder for entry in left] and len(left) == 2
    assert load(f"folder:{root}", image_size=8).splits["train"].inputs.shape[1] == 8
    monkeypatch.setenv("JAXNETS_CACHE_GB", "much")
    with pytest.raises(UserError, match="a number of gigabytes, not 'much'"):
        load(f"folder:{root}", image_size=12)


def test_exact_copies_are_on_one_side(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        for index in range(20):
            pixels = rng.integers(0, 256, (6, 6), np.uint8)
            for copy in range(3):
                save(tmp_path / "copies" / name / f"{copy}-{index}.png", pixels)
    dataset = load(f"folder:{tmp_path / 'copies'}")
    train, test = (dataset.splits[s] for s in ("train", "test"))
    assert (len(train), len(test)) == (96, 24) and count_copies(test, train) == 0
    assert "80 of 120 examples are exact copies of others" in dataset.notes[0]
    rest, held_out = split_validation(train, 0.25, seed=1)
    assert len(held_out) == 24 and count_copies(held_out, rest) == 0


def test_a_validation_folder_is_a_split_of_its_own(root):
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            folder = root / "parted" / part / name
            folder.mkdir(parents=True)
            for index in range(5 if part == "train" else 2):
                shade = np.full((6, 6), 20 * index + 100 * (part == "val"), np.uint8)
                Image.fromarray(shade).save(folder / f"{index}.png")
    splits = load(f"folder:{root / 'parted'}").splits
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 8,
        "validation": 4,
        "test": 2,
    }
    assert splits["validation"].inputs.min() == 100


def test_folders_that_are_none(tmp_path, root):
    with pytest.raises(UserError, match="not there"):
        load(f"folder:{tmp_path / 'nowhere'}")
    with pytest.raises(UserError, match="is a file"):
        load(f"folder:{root / 'cat' / '0.png'}")
