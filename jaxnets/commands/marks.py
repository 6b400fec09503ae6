"""Whether images are marked as synthetic, and carry the watermark of a key."""

from __future__ import annotations

import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxnets.commands import checks
from jaxnets.commands.configs import constraints
from jaxnets.commands.configs.use import Marks
from jaxnets.commands.session import Session
from jaxnets.errors import UserError
from jaxnets.files import check_path, write_json
from jaxnets.media import provenance, watermark

#: Names that files of images end with; a file that is named alone may have any.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
#: What NumPy raises of a file that is no .npz, or a damaged one, or one of objects.
_NO_ARRAYS = (
    ValueError,
    TypeError,
    KeyError,
    EOFError,
    MemoryError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)
#: Of one image.
_MAX_PIXELS = 32_000_000


def run(config: Marks, session: Session) -> None:
    """The command."""
    checks.json_file(config)
    constraints.check(config)
    rate = config.false_positive_rate
    size = config.image_size
    size = (size, size) if isinstance(size, int) else size
    low, high = watermark.MIN_SIDE, watermark.MAX_SIDE
    if size is not None and not all(low <= side <= high for side in size):
        raise UserError(f"--image-size must be in {low}..{high}, got {config.image_size}")
    files = _files(config.path)
    marks = {str(path): provenance.synthetic(path) for path in files}
    marked = [mark for mark in marks.values() if mark is not None]
    print(_told(marks, marked))
    content: dict[str, Any] = {"files": list(marks), "marks": list(marks.values())}
    if config.key is not None:
        images = [image for path in files for image in _read(path)]
        evidence = watermark.detect(images, config.key, crop=config.crop, size=size)
        present = evidence.batch_p_value <= rate
        above = int((evidence.p_values <= rate).sum())
        content["watermark"] = {
            "found": present,
            "false_positive_rate": rate,
            "crop": config.crop,
            "image_size": size,
            "batch_score": evidence.batch_score,
            "batch_p_value": evidence.batch_p_value,
            "images_found": above,
            "scores": evidence.scores.tolist(),
            "p_values": evidence.p_values.tolist(),
        }
        print(
            f"watermark of this key: {'found' if present else 'not found'} "
            f"(score {evidence.batch_score:.1f}; without it, the chance of that is "
            f"{evidence.batch_p_value:.2g})"
        )
        if len(images) > 1:
            print(
                f"each image alone: found in {above} of {len(images)}; without it, about "
                f"{rate * len(images):.2g} would pass"
            )
    if config.json is not None:
        write_json(config.json, content)
        print(f"written: {config.json}")


def _told(marks: Mapping[str, Any], marked: list[dict[str, Any]]) -> str:
    """What the marks say, in one line."""
    if not marked:
        return "mark: none; that does not say that they are real, as any program can drop it"
    which = "synthetic" if len(marks) == 1 else f"{len(marked)} of {len(marks)} files are synthetic"
    first = marked[0]
    shown = {
        "digital_source_type": "",
        "software": "by ",
        "model": "",
        "weights": "weights ",
        "data": "trained on ",
        "watermark": "watermark: ",
    }
    said = [before + _text(first[name]) for name, before in shown.items() if first.get(name)]
    return f"mark: {', '.join([which, *said])}"


def _text(value: Any) -> str:
    """What a file says, for a terminal: an IPTC address by its end, and no escape sequences."""
    text = str(value).rsplit("/digitalsourcetype/", 1)[-1][:80]
    return "".join(c if c.isprintable() else "?" for c in text)


def _files(path: Path) -> list[Path]:
    """The file, or the images in the folder, by name."""
    check_path(path, "the path")
    if not path.exists():
        raise UserError(f"there is no {path}; give an image, a folder of images, or an .npz")
    if not path.is_dir():
        return [path]
    images = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    if not images:
        raise UserError(f"{path} holds no images ({', '.join(SUFFIXES)})")
    return images


def _read(path: Path) -> list[np.ndarray]:
    """The images [H, W, C] uint8 of a file."""
    return _arrays(path) if path.suffix == ".npz" else [_picture(path)]


def _arrays(path: Path) -> list[np.ndarray]:
    try:
        # Of a path, NumPy leaves the file open where it is no zip.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            images = content["images"]
    except _NO_ARRAYS as error:
        raise UserError(f"{path} is no .npz with `images`: {str(error)[:200]}") from error
    if images.ndim != 4 or images.dtype != np.uint8:
        raise UserError(
            f"the images of {path} have the shape {images.shape} and type {images.dtype}; they "
            "must be uint8 [N, H, W, C], as `sample` writes them"
        )
    return list(images)


def _picture(path: Path) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow's, on what is odd about a file
            with Image.open(path) as image:
                if image.width * image.height > _MAX_PIXELS:
                    raise UserError(
                        f"{path} has {image.width}x{image.height} pixels; the most are "
                        f"{_MAX_PIXELS:,}"
                    )
                grey = image.mode in ("1", "L", "LA")
                pixels = np.asarray(image.convert("L" if grey else "RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path} cannot be read: {why}") from error
    return pixels.reshape(*pixels.shape[:2], -1)
