"""Decoded arrays on disk: written whole or not at all, and checked whenever they are opened."""

import contextlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from jaxnets.columns import Column, from_json, to_json
from jaxnets.data.dataset import DataSet, Split, array_digest, check_alike, digests, fingerprint_of
from jaxnets.data.dividing import first_copies, row_hashes, set_apart
from jaxnets.data.listing import Listing, write_listing
from jaxnets.errors import UserError
from jaxnets.files import cache_dir, cleaning

__all__ = [
    "Entry",
    "Staging",
    "cache_dir",
    "cached",
    "entries",
    "remove",
    "temporary_folder",
]

logger = logging.getLogger(__name__)

FORMAT = 3
LISTING = "files.json.gz"
CHUNK_BYTES = 1 << 26

#: Prepared data that take more disk than this go, those first that were not used for longest.
LIMIT_GB = 20.0


class _Damaged(Exception):
    """What lies in the cache is not what was put there."""


class Staging:
    """Collects a data set in a temporary folder, array by array, without holding it in memory.

    Attributes:
      notes: sentences on the data that their owner should know.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._splits: dict[str, Split] = {}
        self.notes: list[str] = []

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
            originals = first_copies(train.inputs)
            labels = train.target if train.labelled else np.zeros(len(train), np.int32)
            names = getattr(train.columns.get("target"), "names", ())
            first, second, notes = set_apart(labels, names, originals)
            self.notes += notes
            parts |= {"train": (train, first), "test": (train, second)}
            copies = int(np.sum(originals != np.arange(len(train))))
            if copies:
                self.notes.append(
                    f"{copies:,} of {len(train):,} examples are exact copies of others; copies are "
                    "either all for training or all for testing"
                )
        else:
            trained = set(row_hashes(self._splits["train"].inputs))
            others = {name: split for name, split in self._splits.items() if name != "train"}
            for name, split in others.items():
                if count := sum(row in trained for row in row_hashes(split.inputs)):
                    self.notes.append(
                        f"{count:,} of the {len(split):,} {name} examples are exact copies of "
                        f"training examples, which makes the {name} accuracy look better than it is"
                    )
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


def cached(
    key: str, name: str, build: Callable[[Staging], int], notes: Sequence[str] = ()
) -> DataSet:
    """The data set kept under `key`, built first where it is missing or damaged.

    Args:
      key: a file name that stands for everything the contents depend on.
      name: what the caller called the data set.
      build: fills a `Staging` and returns how many files it skipped.
      notes: sentences for the owner of the data, beside those of the `Staging`.

    Returns:
      Memory-mapped, read-only arrays, whose checksums have just been verified.

    Raises:
      UserError: the cache folder can't be written; or what `build` raises.
    """
    folder = cache_dir() / "arrays" / key
    if folder.exists():
        try:
            return _open(folder, name, notes)
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
                "name": name,
                "notes": staging.notes,
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
    _evict(folder)
    return _open(folder, name, notes)


@dataclass(frozen=True)
class Entry:
    """A data set in the cache.

    Attributes:
      name: what it was called when it was prepared.
      folder: where its arrays are.
      size: in bytes.
      used: when it was last opened, in seconds since 1970.
    """

    name: str
    folder: Path
    size: int
    used: float


def entries() -> list[Entry]:
    """What the cache holds, the latest used first."""
    found = []
    for meta in (cache_dir() / "arrays").glob("*/meta.json"):
        try:
            name = json.loads(meta.read_text(encoding="utf-8")).get("name", meta.parent.name)
            size = sum(path.stat().st_size for path in meta.parent.iterdir())
            found.append(Entry(name, meta.parent, size, meta.stat().st_mtime))
        except (OSError, ValueError):  # it is being deleted, or damaged: not ours to say
            continue
    return sorted(found, key=lambda entry: -entry.used)


def remove(entry: Entry) -> None:
    """Deletes a data set from the cache; whoever has it open keeps what is mapped."""
    shutil.rmtree(entry.folder, ignore_errors=True)


def _evict(kept: Path) -> None:
    """Deletes what was not used for longest where the cache takes more than its limit."""
    told, total = os.environ.get("JAXNETS_CACHE_GB", str(LIMIT_GB)), 0.0
    try:
        limit = float(told) * 1e9
    except ValueError:
        raise UserError(f"JAXNETS_CACHE_GB is a number of gigabytes, not {told!r}") from None
    for entry in entries():
        total += entry.size
        if total > limit and entry.folder != kept:
            remove(entry)


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


def _open(folder: Path, name: str, notes: Sequence[str] = ()) -> DataSet:
    """Maps the arrays in `folder`, compares every byte with its checksum, and notes the use.

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
        with contextlib.suppress(OSError):  # of another user
            os.utime(folder / "meta.json")
        return DataSet(
            name,
            splits,
            skipped=int(meta["skipped"]),
            notes=(*notes, *meta["notes"]),
            fingerprint=seen,
            listing=folder / LISTING if (folder / LISTING).exists() else None,
        )
    except UserError as error:  # arrays that are not as the columns say
        raise _Damaged(str(error)) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        raise _Damaged(f"{type(error).__name__}: {error}") from error
