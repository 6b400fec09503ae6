"""Your own images: a folder with one sub-folder for each class.

A file is accepted if it is a still picture in grey, colour, palette or black-and-white mode, with
no pixel that is transparent. Everything else (transparency, which would need a background; CMYK;
16-bit and floating-point grey; animations; more than 64 megapixels; damaged or foreign files) is
named in one error, all at once, or left out and counted. So is what is no file: a link that leads
nowhere, a pipe.
"""

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxnets.columns import Classes, Image
from jaxnets.data.cache import Staging, cached
from jaxnets.data.dataset import DataSet
from jaxnets.data.listing import Listing
from jaxnets.errors import UserError
from jaxnets.files import check_path

__all__ = ["load_folder"]

MAX_PIXELS = 64_000_000
BLOCK = 256
GREY = ("L", "1", "LA")
ALPHA = ("LA", "PA", "RGBA")
PLAIN = ("L", "1", "P", "RGB")


class _Unusable(Exception):
    """Why a file is not an image that can be trained on."""


@dataclass(frozen=True)
class _File:
    path: Path
    label: int


def load_folder(
    name: str,
    *,
    image_size: tuple[int, int] | None,
    channels: int | None,
    skip_bad: bool,
) -> DataSet:
    """Reads a folder of images.

    Args:
      name: "folder:PATH" where PATH holds one sub-folder for each class, or the folders `train`
        and, perhaps, `test` that do. Files deeper inside a class count; hidden ones do not.
        Without `test`, a fifth of each class is set apart for it.
      image_size: (height, width): the shorter side is resized, the middle cut out. Not needed
        where all images have one size already.
      channels: 1 (grey) or 3 (colour); by default 1 where every file that opens is grey.
      skip_bad: leave unusable files out and count them, instead of an error.

    Raises:
      UserError: the folder is no such folder, or holds files that can't be used.
    """
    root = _root(name)
    splits, class_names = _scan(root)
    listing = [
        (split, str(file.path.relative_to(root)), *_stamp(file.path))
        for split, files in splits.items()
        for file in files
    ]
    options = [str(root), class_names, image_size, channels, skip_bad, listing]
    key = f"folder-{hashlib.sha256(json.dumps(options).encode()).hexdigest()[:24]}"

    def build(staging: Staging) -> int:
        stamps = {root / path: tuple(stamp) for _, path, *stamp in listing}
        digests: dict[Path, str] = {}
        wishes = (image_size, channels, skip_bad)
        try:
            skipped = _build(root, splits, class_names, staging, *wishes, digests)
        except UserError:
            _check_stamps(root, stamps)  # of a file that is half written, the rest is not true
            raise
        _check_stamps(root, stamps)
        import PIL

        named = {str(path.relative_to(root)): digest for path, digest in digests.items()}
        staging.note_files(Listing(named, f"Pillow {PIL.__version__}"))
        return skipped

    return cached(key, name, build)


def _root(name: str) -> Path:
    check_path(name, "the data set")
    path = Path(name.removeprefix("folder:"))
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:  # ~NAME, and there is no such user
        raise UserError(f"{path} is in the home of no known user; name another folder") from error


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:  # a link that leads nowhere or in circles, which is named later
        status = path.lstat()
    return status.st_size, status.st_mtime_ns


def _check_stamps(root: Path, before: Mapping[Path, tuple[int, ...]]) -> None:
    """Fails if a file is no longer what it was when the folder was listed.

    The cache would hold the new image under the old one's name, or half of it.
    """

    def changed(path: Path) -> bool:
        try:
            return _stamp(path) != before[path]
        except FileNotFoundError:
            return True

    names = [str(path.relative_to(root)) for path in before if changed(path)]
    if names:
        more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
        raise UserError(
            f"{', '.join(names[:3])}{more} in {root} changed while the images were read; run the "
            "command again when nothing writes there"
        )


def _scan(root: Path) -> tuple[dict[str, list[_File]], tuple[str, ...]]:
    """Files and labels of each split, and the class names in alphabetical order."""
    if not root.is_dir():
        raise UserError(
            f"{root} is {'a file' if root.exists() else 'not there'}; folder: needs a folder with "
            "one sub-folder for each class"
        )
    parts = {"train": root}
    if (root / "train").is_dir():
        names = {"train": "train", "test": "test", "val": "validation", "validation": "validation"}
        parts = {split: root / name for name, split in names.items() if (root / name).is_dir()}
    classes = {split: _subfolders(folder) for split, folder in parts.items()}
    names = classes["train"]
    if len(names) < 2:
        raise UserError(
            f"{parts['train']} has {len(names)} sub-folder{'s' * (len(names) != 1)}; it needs one "
            "for each class, and two classes or more"
        )
    for split, there in classes.items():
        if there != names:
            differing = sorted(set(names) ^ set(there))
            raise UserError(
                f"{root} has different classes in train and {split}: {', '.join(differing)} "
                "is in only one of them"
            )
    splits: dict[str, list[_File]] = {}
    for split, folder in parts.items():
        splits[split] = []
        for label, name in enumerate(names):
            check_path(name, f"in {folder} the class")
            paths = sorted(_visible_files(folder / name))
            if not paths:
                raise UserError(
                    f"{folder / name} holds no image; put some in, or remove the folder"
                )
            splits[split] += [_File(path, label) for path in paths]
    return splits, tuple(names)


def _subfolders(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _visible_files(folder: Path) -> Iterator[Path]:
    """Whatever is no folder in a folder and those inside it; links to folders are not followed.

    Not `Path.rglob`, which recurses (a thousand nested folders are too many for it) and passes over
    folders that it has no permission to read.
    """
    todo = [str(folder)]
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                elif not os.path.isdir(entry.path):
                    yield Path(entry.path)


def _build(
    root: Path,
    splits: dict[str, list[_File]],
    class_names: Sequence[str],
    staging: Staging,
    image_size: tuple[int, int] | None,
    channels: int | None,
    skip_bad: bool,
    digests: dict[Path, str],
) -> int:
    """Decodes into `staging`, notes the files' `digests`, counts those that can't be used."""
    bad: dict[Path, str] = {}
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        # Pillow warns of what is large, or odd in a header; here it is judged by its pixels. The
        # filter is set once, because filters belong to the process, not to a thread of the pool.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        files = [file for part in splits.values() for file in part]
        headers = dict(zip(files, pool.map(_header, files), strict=True))
        bad |= {file.path: h for file, h in headers.items() if isinstance(h, str)}
        good = [h for h in headers.values() if not isinstance(h, str)]
        sizes = sorted({size for size, _ in good})
        if image_size is None and len(sizes) > 1:
            raise UserError(
                f"{root} has images of {len(sizes)} sizes, from {_by(sizes[0])} to "
                f"{_by(sizes[-1])} (height x width); give one with --image-size"
            )
        if sizes:
            size = image_size or sizes[0]
            depth = channels or (1 if all(grey for _, grey in good) else 3)
            columns = {
                "inputs": Image((*size, depth)),
                "target": Classes(tuple(class_names)),
            }
            for split, part in splits.items():
                usable = [file for file in part if file.path not in bad]
                out = staging.split(split, max(1, len(usable)), columns)
                count = 0
                for file, digest, image in _decoded(pool, usable, size, depth):
                    digests[file.path] = digest
                    if isinstance(image, str):
                        bad[file.path] = image
                        continue
                    out.inputs[count], out.target[count] = image, file.label
                    count += 1
                staging.drop_after(split, count)
                _check_classes(root, split, class_names, out.target[:count], bad, skip_bad)
    if bad and (not skip_bad or not sizes):
        raise _named(root, bad)
    digests |= {path: _digest(path) for path in bad.keys() - digests.keys()}
    return len(bad)


def _check_classes(
    root: Path,
    split: str,
    class_names: Sequence[str],
    labels: np.ndarray,
    bad: dict[Path, str],
    skip_bad: bool,
) -> None:
    empty = sorted(set(range(len(class_names))) - set(labels.tolist()))
    if skip_bad and empty:
        raise UserError(
            f'{root} has no usable image of "{class_names[empty[0]]}" for {split} once the '
            f"{len(bad)} unusable files are left out; put some in, or remove the class"
        )


def _named(root: Path, bad: dict[Path, str]) -> UserError:
    listed = [f"{path.relative_to(root)} ({why})" for path, why in sorted(bad.items())]
    return UserError(
        f"{root} has {len(bad)} file{'s' * (len(bad) != 1)} that can't be used: "
        f"{', '.join(listed)}; remove them or leave them out with --skip-bad"
    )


def _decoded(
    pool: ThreadPoolExecutor, files: Sequence[_File], size: tuple[int, int], depth: int
) -> Iterator[tuple[_File, str, np.ndarray | str]]:
    def read(file: _File) -> tuple[_File, str, np.ndarray | str]:
        image = _decode(file, size, depth)
        return file, _digest(file.path), image  # the second time it comes from memory

    # In blocks, because a pool would otherwise run ahead of the disk and fill the memory.
    for start in range(0, len(files), BLOCK):
        yield from pool.map(read, files[start : start + BLOCK])


def _digest(path: Path) -> str:
    """Of a file's content; "" where there is none to be read (it may be a pipe)."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError:
        return ""


def _header(file: _File) -> tuple[tuple[int, int], bool] | str:
    """((height, width), is grey) from the header alone, or why the file can't be used."""
    from PIL import ExifTags

    try:
        with _open(file.path) as image:
            width, height = image.size
            if image.getexif().get(ExifTags.Base.Orientation, 1) >= 5:  # turned by 90 degrees
                width, height = height, width
            return (height, width), image.mode in GREY
    except _Unusable as error:
        return str(error)
    except Exception as error:  # decoders raise nearly every type on damaged bytes
        return _reason(error)


def _decode(file: _File, size: tuple[int, int], depth: int) -> np.ndarray | str:
    """[*size, depth] uint8, or why the file can't be used."""
    from PIL import Image, ImageOps

    try:
        with _open(file.path) as image:
            image.load()
            if "transparency" in image.info:
                image = image.convert("RGBA")
            if image.mode in ALPHA:
                if image.getchannel("A").getextrema() != (255, 255):
                    return "has transparent pixels"
                image = image.convert("L" if image.mode == "LA" else "RGB")
            image = ImageOps.exif_transpose(image)
            # Before resizing: palette indices and black-or-white pixels can't be averaged.
            image = image.convert("L" if depth == 1 else "RGB")
            height, width = size
            if image.size != (width, height):
                image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
            array = np.asarray(image)
            return array[..., None] if depth == 1 else array
    except _Unusable as error:
        return str(error)
    except Exception as error:
        return _reason(error)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Opens an image and judges it by its header, before a pixel is decoded."""
    from PIL import Image

    if not path.is_file():
        raise _Unusable("a link that leads nowhere" if path.is_symlink() else "no regular file")
    with path.open("rb") as file, Image.open(file) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise _Unusable(f"{width}x{height} is over {MAX_PIXELS // 10**6} megapixels")
        # A phone's MPO holds a second view or a thumbnail besides its still picture.
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":
            raise _Unusable(f"animated, with {frames} frames")
        if image.mode not in (*PLAIN, *ALPHA):
            raise _Unusable(f"mode {image.mode}")
        yield image


def _reason(error: Exception) -> str:
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, Image.DecompressionBombError):
        return f"over {MAX_PIXELS // 10**6} megapixels"
    return f"damaged: {' '.join(str(error).split())[:80] or type(error).__name__}"


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
