"""Images that cannot be trained on, and folders that are no data sets."""

import io
import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from hostile import SEED

SIDE = 8


def pixels(seed: int, side: int = SIDE, channels: int = 3) -> np.ndarray:
    """Noise, [side, side, channels] uint8."""
    shape = (side, side, channels) if channels > 1 else (side, side)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def good_folder(root: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 3) -> Path:
    """A folder that is a data set."""
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(pixels(i)).save(root / name / f"{i}.png")
    return root


def encoded(form: str, array: np.ndarray | None = None, **options: object) -> bytes:
    """An image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels(0, 32) if array is None else array).save(buffer, form, **options)
    return buffer.getvalue()


def _moving(form: str) -> bytes:
    frames = [Image.fromarray(pixels(i)) for i in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, form, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def png_header(width: int, height: int, bits: int = 8, kind: int = 0) -> bytes:
    """A PNG that is nothing but what it claims of itself."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + b"\0" * 4


def _converted(form: str, mode: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def _changed_png(at: int, byte: int) -> bytes:
    data = bytearray(encoded("PNG"))
    data[at] ^= byte
    return bytes(data)


#: Name of the file -> (what it holds, word of the reason), beside good images of 8x8.
FILES: dict[str, tuple[bytes, str]] = {
    "empty.png": (b"", "empty"),
    "text.txt": (b"notes", "not an image"),
    "pointer.png": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "not an image"),
    "magic.png": (b"\x89PNG\r\n\x1a\n", ""),
    "huge.png": (png_header(10_000, 6_500), "64 megapixels"),
    "bomb.png": (png_header(60_000, 60_000), "64 megapixels"),
    "bomb-2.png": (png_header(2**31 - 1, 2**31 - 1), ""),
    "no-pixels.png": (png_header(0, 0), ""),
    "no-data.png": (png_header(SIDE, SIDE), "damaged"),
    "bits.png": (png_header(SIDE, SIDE, bits=3), ""),
    "checksum.png": (_changed_png(20, 0x40), ""),
    "deep.png": (encoded("PNG", np.zeros((SIDE, SIDE), np.uint16)), "mode I;16"),
    "float.tif": (encoded("TIFF", np.zeros((SIDE, SIDE), np.float32)), "mode F"),
    "cmyk.jpg": (_converted("JPEG", "CMYK"), "mode CMYK"),
    "moving.gif": (_moving("GIF"), "animated, with 3 frames"),
    "moving.png": (_moving("PNG"), "animated, with 3 frames"),
    "moving.webp": (_moving("WEBP"), "animated, with 3 frames"),
    "a\nb\x1b[31m.png": (b"", "a\\nb\\x1b[31m.png"),
    "with space and é.png": (b"", "with space and é.png"),
    "no utf-8 \udcff.png": (b"", "no utf-8 \\udcff.png"),
}


def generated(count: int = 40) -> dict[str, bytes]:
    """Files cut at random places, and noise behind the first bytes of a picture."""
    draw = random.Random(SEED)
    found = {}
    whole = {
        "png": encoded("PNG"),
        "jpg": encoded("JPEG"),
        "gif": encoded("GIF"),
        "bmp": encoded("BMP"),
        "webp": encoded("WEBP"),
        "tif": encoded("TIFF"),
    }
    for number in range(count):
        suffix = draw.choice(sorted(whole))
        data = whole[suffix]
        if number % 4:
            data = data[: draw.randrange(1, int(0.7 * len(data)))]
        else:
            data = data[: draw.randrange(1, 12)] + draw.randbytes(draw.randrange(500))
        found[f"{number}.{suffix}"] = data
    return found


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _circle(path: Path) -> None:
    other = path.with_name("other")
    path.symlink_to(other.name)
    other.symlink_to(path.name)


#: What may stand in a class's folder under the name of an image, and is no file.
NO_FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a link to nowhere": (_dangling, "a link that leads nowhere"),
    "a link to itself": (_loop, "a link that leads nowhere"),
    "links in a circle": (_circle, "a link that leads nowhere"),
    "a pipe": (os.mkfifo, "no regular file"),
}


# --------------------------------------------------------------------------- folders


def _empty(root: Path) -> None:
    root.mkdir()


def _one_class(root: Path) -> None:
    good_folder(root, ("cat",))


def _class_is_a_file(root: Path) -> None:
    good_folder(root, ("cat",))
    (root / "dog").write_bytes(encoded("PNG"))


def _empty_class(root: Path) -> None:
    good_folder(root)
    (root / "fox").mkdir()


def _deep(root: Path) -> None:
    good_folder(root)
    (root / "fox").mkdir()
    here = os.open(root / "fox", os.O_RDONLY)
    for _ in range(1100):  # beyond what Python's recursion allows
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)


def _other_classes(root: Path) -> None:
    good_folder(root / "train")
    good_folder(root / "test", ("cat", "fox"))


def _other_case(root: Path) -> None:
    good_folder(root / "train")
    good_folder(root / "test", ("Cat", "dog"))


def _single_images(root: Path) -> None:
    good_folder(root, count=1)


def _sizes(root: Path) -> None:
    good_folder(root)
    Image.fromarray(pixels(0, SIDE + 1)).save(root / "cat" / "large.png")


def _nothing_usable(root: Path) -> None:
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        (root / name / "x.png").write_bytes(b"")


def _class_of_no_text(root: Path) -> None:
    good_folder(root, ("cat", "dog \udcff"))


def _linked_class(root: Path) -> None:
    good_folder(root, ("cat",))
    (root / "dog").symlink_to("dog")


def _good(root: Path) -> None:
    good_folder(root)


#: What is wrong -> (makes the folder, further flags, words that the error must have).
FOLDERS: dict[str, tuple[Callable[[Path], None], str, list[str]]] = {
    "is empty": (_empty, "", ["no sub-folder"]),
    "has one class": (_one_class, "", ["one class, cat"]),
    "has a file for a class": (_class_is_a_file, "", ["one class, cat"]),
    "has a link for a class": (_linked_class, "", ["one class, cat"]),
    "has an empty class": (_empty_class, "", ["fox holds no image"]),
    "has 1,100 folders in each other": (_deep, "", ["fox holds no image"]),
    "has other classes to test": (_other_classes, "", ["different classes", "dog, fox"]),
    "spells its classes in two ways": (_other_case, "", ["different classes", "Cat, cat"]),
    "has one image a class": (_single_images, "", ["single example"]),
    "has images of two sizes": (_sizes, "", ["2 sizes, from 8x8 to 9x9", "--image-size"]),
    "has nothing usable": (_nothing_usable, "", ["2 files"]),
    "has a class of no text": (_class_of_no_text, "", ["not valid UTF-8"]),
    "is too small for the batch": (_good, "--batch-size 128", ["batch size 128", "4 examples"]),
    "cannot be so small": (_good, "--image-size 2", ["lenet5", "2x2"]),
    "cannot be so large": (_good, "--image-size 1000000", ["64 megapixels"]),
    "cannot be shifted so far": (_good, "--crop-padding 8", ["crop padding 8"]),
}
