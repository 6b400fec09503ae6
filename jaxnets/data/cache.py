"""Decoded arrays on disk: written whole or not at all, and checked whenever they are opened."""

import contextlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from jaxnets.columns import Column, from_json, to_json
from jaxnets.data.dataset import (
    DataSet,
    Split,
    array_digest,
    check_alike,
    digests,
    fingerprint_of,
    stratified_indices,
)
from jaxnets.data.listing import Listing, write_listing
from jaxnets.errors import UserError
from jaxnets.files import cache_dir, cleaning

__all__ = ["Staging", "cache_dir", "cached", "temporary_folder"]

logger = logging.getLogger(__name__)

FORMAT = 2
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

    def split(self, name: str, count: int, columns: Mapping[str, Column]) -> Split:
        """A writable split of `count` examples of these columns, to be filled in place.

        Raises:
          UserError: if another split has other columns.
        """
        for other, split in self._splits.items():
            check_alike(columns, name, split.columns, other)
        arrays = {
            array: _new_array(
                self._folder / f"{name}_{array}.staged", column.stored, (count, *column.shape)
            )
            for array, column in columns.items()
        }
        self._splits[name] = Split(**arrays, columns=columns)
        return self._splits[name]

    def drop_after(self, name: str, count: int) -> None:
        """Keeps the first `count` rows of split `name`."""
        self._splits[name] = self._splits[name].take(slice(count))

    def note_files(self, listing: Listing) -> None:
        """Keeps, beside the arrays, of which files they were made."""
        write_listing(self._folder / LISTING, listing)

    def finish(self) -> tuple[Mapping[str, Column], dict[str, list[str]]]:
        """Divides "train" where there is no "test", checks the rows, writes everything out.

        Returns:
          The columns, and for each split the digests of its arrays.

        Raises:
          UserError: a split is empty, or a row cannot be.
        """
        for name, split in self._splits.items():
            if not len(split):
                raise UserError(f'the split "{name}" has no examples; each split needs some')
            for array, rows in split.arrays.items():
                split.columns[array].check(rows, f'the split "{name}"')
        parts = {name: (split, np.arange(len(split))) for name, split in self._splits.items()}
        if "test" not in parts:
            train = self._splits["train"]
            labels = train.target if train.labelled else np.zeros(len(train), np.int32)
            first, second = stratified_indices(labels, TEST_FRACTION, TEST_SEED)
            if not len(second):
                raise UserError(
                    "every class has a single example, so none is left to test on; add examples"
                )
            parts |= {"train": (train, first), "test": (train, second)}
        written = {name: self._write(name, *part) for name, part in parts.items()}
        for scratch in self._folder.glob("*.staged"):
            scratch.unlink()
        return next(iter(self._splits.values())).columns, written

    def _write(self, name: str, split: Split, rows: np.ndarray) -> list[str]:
        written = []
        for array, source in split.arrays.items():
            place = self._folder / f"{name}_{array}.npy"
            target = _new_array(place, source.dtype, (len(rows), *source.shape[1:]))
            step = max(1, CHUNK_BYTES // max(1, source[:1].nbytes))
            for start in range(0, len(rows), step):
                target[start : start + step] = source[rows[start : start + step]]
            target.flush()
            written.append(array_digest(target))
        return written


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


def cached(key: str, name: str, build: Callable[[Staging], int]) -> DataSet:
    """The data set kept under `key`, built first where it is missing or damaged.

    Args:
      key: a file name that stands for everything the contents depend on.
      name: what the caller called the data set.
      build: fills a `Staging` and returns how many files it skipped.

    Returns:
      Memory-mapped, read-only arrays, whose checksums have just been verified.

    Raises:
      UserError: the cache folder can't be written; or what `build` raises.
    """
    folder = cache_dir() / "arrays" / key
    if folder.exists():
        try:
            return _open(folder, name)
        except _Damaged as error:
            logger.warning("%s in the cache is damaged (%s) and is prepared again", name, error)
    with temporary_folder(folder.parent) as temporary:
        try:
            staging = Staging(temporary)
            skipped = build(staging)
            columns, written = staging.finish()
            meta = {
                "format": FORMAT,
                "columns": {array: to_json(column) for array, column in columns.items()},
                "skipped": skipped,
                "splits": written,
                "fingerprint": fingerprint_of(columns, written),
            }
            (temporary / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
            _publish(temporary, folder)
        except OSError as error:
            raise UserError(
                f"{name} can't be prepared in {folder}: {error}; free some space there or set "
                "JAXNETS_CACHE to another folder"
            ) from error
    return _open(folder, name)


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
        _open(folder, folder.name)  # another process finished the same data in between
    except _Damaged:
        with temporary_folder(folder.parent) as aside:
            folder.rename(aside / "damaged")
            temporary.rename(folder)


def _open(folder: Path, name: str) -> DataSet:
    """Maps the arrays in `folder` and compares every byte with its checksum.

    Raises:
      _Damaged: something is missing or differs.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if meta["format"] != FORMAT:
            raise _Damaged(f"format {meta['format']}")
        columns = {array: from_json(values) for array, values in meta["columns"].items()}
        splits = {
            split: Split(
                columns=columns,
                **{a: np.load(folder / f"{split}_{a}.npy", mmap_mode="r") for a in columns},
            )
            for split in meta["splits"]
        }
        seen = fingerprint_of(columns, {which: digests(split) for which, split in splits.items()})
        if seen != meta["fingerprint"]:
            raise _Damaged("its checksum differs")
        return DataSet(
            name,
            splits,
            skipped=int(meta["skipped"]),
            fingerprint=seen,
            listing=folder / LISTING if (folder / LISTING).exists() else None,
        )
    except UserError as error:  # arrays that are not as the columns say
        raise _Damaged(str(error)) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        raise _Damaged(f"{type(error).__name__}: {error}") from error
