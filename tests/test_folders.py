"""Folders as people have them: each is taken, and says what it leaves out, or is refused.

A table gives each folder: its files, and what must be said of them.
"""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from command_lines import CLASSIFY, GENERATE, assert_one_error
from hostile_images import FILES, NO_FILES, encoded, pixels, png_header

#: File -> what it holds: bytes, a picture of its own (True), or what makes it.
Files = dict[str, Any]


def pics(classes="cat dog", count=3, form="{}/{}.png", what: Any = True) -> Files:
    return {form.format(name, i): what for name in classes.split() for i in range(count)}


def of(array, form="PNG", mode=None, **options) -> Any:
    image = Image.fromarray(array)
    image = image.convert(mode) if mode else image
    return lambda path: image.save(path, form, **options)


def link(to: str) -> Any:
    return lambda path: path.symlink_to(to)


def nothing(path: Path) -> None:
    path.mkdir()


def nested(path: Path) -> None:
    """Folders in each other beyond what Python's recursion allows."""
    path.mkdir()
    here = os.open(path, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)


TWO, TRAIN = pics(), pics(form="train/{}/{}.png")
SPLITS = TRAIN | pics(form="valid/{}/{}.png")
#: By what is left behind when folders are unpacked, looked at or shared.
LEFT = (".DS_Store", "cat/._0.png", "cat/Thumbs.db", "dog/Icon\r")
FOLDERS_LEFT = ("@eaDir/0.png/t.jpg", "cat/@eaDir/0.png/t.jpg", ".git/a/b")
TURNED = Image.Exif()
TURNED[0x0112] = 6
FORMS = {
    **{
        f"cat/x.{form}": of(pixels(i), form) for i, form in enumerate(("GIF", "BMP", "TIFF", "PPM"))
    },
    **{"cat/x.webp": of(pixels(5), "WEBP"), "cat/x.jpg": of(pixels(6), "JPEG")},
    **{
        "dog/x.jpg": of(pixels(8), "JPEG", progressive=True),
        "dog/y.jpg": of(pixels(9), "JPEG", exif=TURNED),
    },
}
SIZES = {"cat/1x1.png": of(pixels(0, 1)), "cat/long.png": of(np.zeros((1, 5000), np.uint8))}
BAD = {"cat/x.png": b"", "dog/x.zip": b"PK\x03\x04", "dog/x.gif": FILES["moving.gif"][0]}

#: Folder -> its files, words of its notes (parted by |), further flags. All can be trained on.
TAKEN: dict[str, tuple[Any, ...]] = {
    "six pictures in all": (TWO,),
    "an export of Roboflow": (
        SPLITS | pics(form="test/{}/{}.png") | {"README.txt": b"x", "all.zip": b"PK\x03\x04"},
        "2 files beside the splits (README.txt, all.zip)",
    ),
    "no folder to test": (SPLITS,),
    "folders beside the splits": (
        SPLITS | pics(form="raw/{}/{}.png") | {"train/x.csv": b"x", "new": nothing},
        "6 files beside the splits (new/, raw/)|1 file beside the classes (train/x.csv)",
    ),
    "a list beside one folder": (pics("images", 6) | {"l.csv": b"x"}, "(l.csv)"),
    "a set inside a folder": (pics(form="in/{}/{}.png"), "in is the only class; name that f"),
    "a flat folder": (pics("0 1 2 3 4 5", 1, "{}.png"),),
    "copies by Windows": (pics("class_a", form="{} (1)/{} (1).png") | pics("class_b"),),
    "classes inside classes": (pics("a/x a/y b/x", 2),),
    "leavings of systems": (TWO | dict.fromkeys(LEFT, b"x"), "4 hidden files (.DS_Store, cat/._0"),
    "folders of systems": (
        TWO | dict.fromkeys(FOLDERS_LEFT, b"x"),
        "3 hidden files (.git/, @eaDir/, cat/@eaDir/)",
    ),
    "a class of one picture": (TWO | pics("fox", 1), "no example of fox is left to test on"),
    "a linked class": (pics("../else/fox dog") | {"fox": link("../else/fox")},),
    "a linked folder in a class": (
        pics("../else/fox cat dog") | {"cat/fox": link("../../else/fox")},
        "1 linked folder inside a class (cat/fox)",
    ),
    "a circle of links in a class": (
        TWO | {"cat/up": link("..")},
        "1 linked folder inside a class",
    ),
    "hard links": (
        TWO | {"cat/9.png": lambda path: os.link(path.with_name("0.png"), path)},
        "1 of 7 examples are exact copies",
    ),
    "upper case": (pics(form="{}/{}.PNG"),),
    "no extensions": (pics(form="{}/{}"),),
    "wrong extensions": (pics(form="{}/{}.jpg"),),
    "a transparent palette": (
        TWO | {"cat/p.png": of(pixels(7, 8, 1), mode="P", transparency=0)},
        "1 of 7 images may be transparent",
    ),
    "many formats": (TWO | FORMS,),
    "odd sizes": (TWO | SIZES, "8x8 cuts more than 20% away from 1 of 8 images, at most 100%"),
    "odd names": (TWO | dict.fromkeys(["cat/a\nb", "cat/\U0001f63a \x1b", "dog/\udcff"], True),),
    "odd names beside": (
        TWO | dict.fromkeys(["a\nb", "\U0001f63a\x1b", "\udcff"], b"x"),
        "3 files beside the classes (a\\nb, \\udcff, \U0001f63a\\x1b)",
    ),
    "long names": (pics(f"{'a' * 255} {'b' * 255}", form="{}/{}" + "x" * 250),),
    "masks": (TWO | pics(form="{}/{}_mask.png"), "6 of 12 files are named like masks"),
    "numbers as names": (pics("1 2 10"),),
    "blanks around names": (pics("a b", form=" {} / {}.png "),),
    "unusable files": (
        TWO | BAD,
        "left out: 3 files that can't be used: cat/x.png (empty), dog/x.gif (animated",
        "--skip-bad",
    ),
    "one folder for both splits": (
        pics(form="../else/{}/{}.png") | {"train": link("../else"), "test": link("../else")},
        "6 of the 6 test examples are exact copies",
    ),
    "a file for a class": (pics("cat") | {"dog": True}, "1 file beside the classes (dog)"),
    "a link to itself for a class": (
        pics("cat") | {"dog": link("dog")},
        "beside the classes (dog)",
    ),
}

FOREIGN = {
    "HEIC; convert it": b"\0\0\0\x18ftypheic",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "PDF": b"%PDF-1.7",
    "a web page, not an image": b"<!DOCTYPE html><html>",
    "a ZIP archive, not an image": b"PK\x03\x04",
    "a video": b"\0\0\0\0ftypisom",
    "damaged: image file is trunc": encoded("JPEG", pixels(0))[:-20],
    "12000x9000 is over 64 megapixels": png_header(12_000, 9_000),
}
MODES = ("deep.png", "cmyk.jpg", "moving.gif", "moving.webp", "no-data.png", "text.txt")

#: Folder -> its files, words of the one error (parted by |), further flags.
REFUSED: dict[str, tuple[Any, ...]] = {
    "nothing": ({}, "no sub-folder"),
    "hidden files alone": ({".DS_Store": b"x", "._a.png": b"x"}, "holds no image"),
    "an empty class": (TWO | {"fox": nothing}, "fox holds no image"),
    "a class of empty folders": (TWO | {"fox": nested}, "fox holds no image"),
    "other classes to test": (
        TRAIN | pics("cat fox", form="test/{}/{}.png"),
        '"dog", "fox" are in',
    ),
    "a class to test alone": (
        TRAIN | pics("cat dog fox", form="test/{}/{}.png"),
        '"fox" is in only',
    ),
    "two spellings": (TRAIN | pics("Cat dog", form="test/{}/{}.png"), '"Cat", "cat"'),
    "a blank behind a name": (TRAIN | pics(form="test/{} /{}.png"), '"cat", "cat ", "dog"'),
    "Train and train": (TRAIN | pics(form="Train/{}/{}.png"), "the same split, Train and train"),
    "one picture a class": (pics(count=1), "single example"),
    "twenty classes of one picture": (pics(" ".join(map(str, range(20))), 1), "single example"),
    "one picture many times": (pics(what=of(pixels(0))), "single example (copies count once)"),
    "two sizes": (TWO | {"cat/9.png": of(pixels(0, 9))}, "2 sizes, from 8x8 to 9x9"),
    "nothing usable": (pics(count=1, what=b""), "2 files that can't be used: cat/0.png (empty)"),
    "a class of nothing usable": (TWO | {"fox/x": b""}, 'no usable image of "fox"', "--skip-bad"),
    "boxes of YOLO": (pics("images") | pics("labels", form="{}/{}.txt", what=b"0 1"), "labels/0"),
    "a list among the pictures": (TWO | {"cat/_annotations.csv": b"a,b"}, "_annotations.csv"),
    "a class of no text": (pics("cat \udcff"), "not valid UTF-8"),
    "a class that is around itself": (TWO | {"all": link(".")}, "all is a link to"),
    "a class with two names": (TWO | {"hound": link("dog")}, "dog and hound are the same"),
    **{name: (TWO | {f"cat/{name}": FILES[name][0]}, f"cat/{name} (") for name in MODES},
    **{f"a file that is {w}": (TWO | {"cat/x": b}, f"cat/x ({w}") for w, b in FOREIGN.items()},
    **{kind: (TWO | {"cat/x": make}, f"cat/x ({why}") for kind, (make, why) in NO_FILES.items()},
}


def lay(root: Path, files: Files) -> None:
    root.mkdir()
    for seed, (name, what) in enumerate(files.items()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        what = encoded("PNG", pixels(seed)) if what is True else what
        path.write_bytes(what) if isinstance(what, bytes) else what(path)


def there(root: Path) -> int:
    """Files; a link to a folder has those of a class or a split, or is one itself."""
    linked = [path for path in root.rglob("*") if path.is_symlink() and path.is_dir()]
    inside = sum(there(path.resolve()) if path.parent == root else 1 for path in linked)
    return inside + sum(len(files) for *_, files in os.walk(root))


@pytest.fixture
def each(workplace):
    """Tries a check on all folders of a table, and fails with the names of all that are wrong."""

    def run(table, check):
        wrong = []
        for name, (files, *rest) in table.items():
            lay(workplace / "set", files)
            try:
                check(*rest)
            except Exception as error:
                wrong.append(f"{name}: {type(error).__name__}: {error}")
            # What is nested so deeply, shutil.rmtree can't remove.
            subprocess.run(["rm", "-rf", *workplace.iterdir(), workplace.parent / "else"])
        assert table and not wrong, "\n\n".join(wrong)

    return run


def assert_told(said, ahead, out):
    for words in said.split("|"):
        if ahead == "2" or "copies" not in words:  # others are not looked for copies
            assert words in out, out
    assert out.replace("\n", "").isprintable(), out


@pytest.mark.parametrize("ahead", ["2", "0"])
def test_every_file_is_used_or_told(each, cli, ahead):
    def check(said="", flags=""):
        line = f"data show folder:set --out x.png --image-size 8 --decode-ahead {ahead} {flags}"
        code, out, err = cli(*line.split())
        assert (code, err) == (0, ""), err
        used = re.findall(r"^(?:train|test|validation): ([\d,]+) ", out, re.MULTILINE)
        left = re.findall(r"^note: (?:not used|left out): ([\d,]+) ", out, re.MULTILINE)
        assert sum(map(int, used + left)) == there(Path("set")), out
        assert_told(said, ahead, out)

    each(TAKEN, check)


@pytest.mark.parametrize("ahead", ["2", "0"])
def test_a_refusal_is_one_sentence_that_names_the_culprit(each, cli, ahead):
    def check(words, *flags):
        if ahead == "2" or "copies" not in words:
            for line in (["data", "show", "folder:set"], [*CLASSIFY, "--data", "folder:set"]):
                assert_one_error(cli(*line, "--decode-ahead", ahead, *flags), *words.split("|"))
        assert os.listdir() == ["set"]

    each(REFUSED, check)


FEW = ("an export of Roboflow", "a set inside a folder")


@pytest.mark.parametrize("ahead", ["2", "0"])
@pytest.mark.parametrize(
    "names", [FEW, pytest.param(TAKEN, marks=pytest.mark.slow)], ids=["few", "all"]
)
def test_what_is_taken_can_be_trained_on(each, cli, names, ahead):
    def check(said="", flags=""):
        flags = f"--data folder:set --image-size 8 --batch-size 2 --decode-ahead {ahead} {flags}"
        line = [*flags.split(), "--workers", "0", "--run-dir", "run"]
        code, out, err = cli(*CLASSIFY, *line)
        if code == 2 and "has one class" in err:
            assert_one_error((code, out, err), "sub-folder for each class")
            code, out, err = cli(*GENERATE, *line, "--no-conditional")
        assert code == 0, err
        assert_told(said, ahead, out)

    each({name: TAKEN[name] for name in names}, check)
