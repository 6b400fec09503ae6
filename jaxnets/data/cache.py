"""Decoded arrays on disk: written whole or not at all, and checked whenever they are opened."""

import contextlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from jaxnets.data.dataset import (
    DataSet,
    Split,
    array_digest,
    check_labels,
    fingerprint,
    stratified_indices,
)
from jaxnets.data.listing import Listing, write_listing
from jaxnets.errors import UserError
from jaxnets.files import cache_dir, cleaning

__all__ = ["Staging", "cache_dir", "cached", "temporary_folder"]

logger = logging.getLogger(__name__)

FORMAT = 1
LISTING = "files.json.gz"
TEST_FRACTION = 0.2
TEST_SEED = 20
CHUNK_BYTES = 1 << 26


class _Damaged(Exception):
    """What lies in the cache is not what was put there."""


class Staging:
    """Collects a data set in a temporary folder, array by array, without holding it in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._splits: dict[str, Split] = {}

    def split(self, name: str, count: int, shape: tuple[int, ...]) -> Split:
        """A writable split of `count` images of `shape` ([H, W, C]), to be filled in place."""
        split = Split(
            _new_array(self._folder / f"{name}_images.staged", np.dtype(np.uint8), (count, *shape)),
            _new_array(self._folder / f"{name}_labels.staged", np.dtype(np.int32), (count,)),
        )
        self._splits[name] = split
        return split

    def drop_after(self, name: str, count: int) -> None:
        """Keeps the first `count` rows of split `name`."""
        split = self._splits[name]
        self._splits[name] = Split(split.inputs[:count], split.target[:count])

    def note_files(self, listing: Listing) -> None:
        """Keeps, beside the arrays, of which files they were made."""
        write_listing(self._folder / LISTING, listing)

    def finish(self, num_classes: int) -> dict[str, tuple[str, str]]:
        """Divides "train" where there is no "test", checks the labels, writes everything out.

        Returns:
          Split -> digests of its images and labels.

        Raises:
          UserError: a split is empty, or a label lies outside 0 .. num_classes - 1.
        """
        parts = {name: (split, np.arange(len(split))) for name, split in self._splits.items()}
        for name, (split, _) in parts.items():
            if not len(split):
                raise UserError(f'the split "{name}" has no examples; each split needs some')
            check_labels(split.target, num_classes, f'the split "{name}"')
        if "test" not in parts:
            train = self._splits["train"]
            first, second = stratified_indices(train.target, TEST_FRACTION, TEST_SEED)
            if not len(second):
                raise UserError(
                    "every class has a single example, so none is left to test on; add examples"
                )
            parts |= {"train": (train, first), "test": (train, second)}
        digests = {name: self._write(name, *part) for name, part in parts.items()}
        for scratch in self._folder.glob("*.staged"):
            scratch.unlink()
        return digests

    def _write(self, name: str, split: Split, rows: np.ndarray) -> tuple[str, str]:
        digests = []
        for kind, source in (("images", split.inputs), ("labels", split.target)):
            place = self._folder / f"{name}_{kind}.npy"
            target = _new_array(place, source.dtype, (len(rows), *source.shape[1:]))
            step = max(1, CHUNK_BYTES // max(1, source[:1].nbytes))
            for start in range(0, len(rows), step):
                target[start : start + step] = source[rows[start : start + step]]
            target.flush()
            digests.append(array_digest(target))
        return digests[0], digests[1]


def _new_array(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.memmap:
    """A new array on disk, with all of its space taken.

    Otherwise the file would have holes, and a disk that fills up while they are written to would
    end the process by a signal (SIGBUS) instead of an error.
    """
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def cached(key: str, name: str, build: Callable[[Staging], tuple[tuple[str, ...], int]]) -> DataSet:
    """The data set kept under `key`, built first where it is missing or damaged.

    Args:
      key: a file name that stands for everything the contents depend on.
      name: what the caller called the data set.
      build: fills a `Staging` and returns the class names and how many files it skipped.

    Returns:
      Memory-mapped, read-only arrays, whose checksums have just been verified.

    Raises:
      UserError: the cache folder can't be written; or what `build` raises.
    """
    folder = cache_dir() / "arrays" / key
    if folder.exists():
        try:
            return replace(_open(folder), name=name)
        except _Damaged as error:
            logger.warning("%s in the cache is damaged (%s) and is prepared again", name, error)
    with temporary_folder(folder.parent) as temporary:
        try:
            staging = Staging(temporary)
            class_names, skipped = build(staging)
            digests = staging.finish(len(class_names))
            meta = {
                "format": FORMAT,
                "class_names": class_names,
                "skipped": skipped,
                "splits": digests,
                "fingerprint": fingerprint(class_names, digests),
            }
            (temporary / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
            _publish(temporary, folder)
        except OSError as error:
            raise UserError(
                f"{name} can't be prepared in {folder}: {error}; free some space there or set "
                "JAXNETS_CACHE to another folder"
            ) from error
    return replace(_open(folder), name=name)


@contextlib.contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A new folder inside `parent`, on the same file system, so that a rename is atomic.

    It is deleted at the end, unless it was renamed.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".incomplete-", dir=parent))
    except OSError as error:
        raise UserError(
            f"the cache folder {parent} can't be written ({error.strerror}); set JAXNETS_CACHE to "
            "a folder of yours"
        ) from error
    with cleaning(partial(shutil.rmtree, folder, ignore_errors=True)):
        yield folder


def _publish(temporary: Path, folder: Path) -> None:
    """Moves a finished folder into place; a damaged one steps aside, a rival's good one stays."""
    try:
        temporary.rename(folder)
        return
    except OSError:
        if not folder.exists():
            raise
    try:
        _open(folder)  # another process finished the same data in between
    except _Damaged:
        with temporary_folder(folder.parent) as aside:
            folder.rename(aside / "damaged")
            temporary.rename(folder)


def _open(folder: Path) -> DataSet:
    """Maps the arrays in `folder` and compares every byte with its checksum.

    Raises:
      _Damaged: something is missing or differs.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        class_names = tuple(meta["class_names"])
        if meta["format"] != FORMAT:
            raise _Damaged(f"format {meta['format']}")
        splits, digests = {}, {}
        for name in meta["splits"]:
            splits[name] = Split(
                np.load(folder / f"{name}_images.npy", mmap_mode="r"),
                np.load(folder / f"{name}_labels.npy", mmap_mode="r"),
            )
            digests[name] = (
                array_digest(splits[name].inputs),
                array_digest(splits[name].target),
            )
        if fingerprint(class_names, digests) != meta["fingerprint"]:
            raise _Damaged("its checksum differs")
        return DataSet(
            name=folder.name,
            num_classes=len(class_names),
            class_names=class_names,
            splits=splits,
            skipped=int(meta["skipped"]),
            fingerprint=meta["fingerprint"],
            listing=folder / LISTING if (folder / LISTING).exists() else None,
        )
    except UserError as error:  # labels out of range, of another class count than was checked
        raise _Damaged(str(error)) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        raise _Damaged(f"{type(error).__name__}: {error}") from error
