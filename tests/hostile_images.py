"""Images that cannot be trained on, and small folders of images."""

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
