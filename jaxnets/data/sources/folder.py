"""Data sets out of folders of files, with one sub-folder for each class, whatever the files are.

Every file that can't be used is counted in one error, with the reason, or left out and counted. So
is what is no file: a link that leads nowhere, a pipe.
"""

import contextlib
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxnets.columns import Classes, Column, to_json
from jaxnets.data.cache import Staging, cached
from jaxnets.data.dataset import DataSet, array_digest
from jaxnets.data.dividing import stratified_indices
from jaxnets.data.listing import Listing, some_of, told_bad
from jaxnets.data.sources.images import ImageFiles
from jaxnets.data.sources.layout import File, Layout, find_layout
from jaxnets.data.sources.streamed import Decoding, stream_folder
from jaxnets.errors import UserError
from jaxnets.files import cache_dir, check_path, write_files

__all__ = ["FileReader", "from_files", "load_files", "root_of", "set_files_apart"]

BLOCK = 256


class FileReader(Protocol):
    """How the files of one kind become the rows of a column; a dataclass of what was asked for."""

    @property
    def what(self) -> str:
        """What a file is called: "image"."""
        ...

    @property
    def decoder(self) -> str:
        """Which program decodes, and its version."""
        ...

    def header(self, path: Path) -> Any:
        """What is known of a file before it is decoded, or (a text) why it can't be used."""
        ...

    def column(self, headers: Sequence[Any], root: Path) -> Column:
        """The column that fits files with these headers, one or more.

        Raises:
          UserError: there is none.
        """
        ...

    def notes(self, headers: Sequence[Any], column: Any) -> list[str]:
        """Sentences on what becomes of files with these headers that their owner should know."""
        ...

    def row(self, path: Path, column: Any) -> np.ndarray | str:
        """A file as a row of that column, or why it can't be used."""
        ...


def load_files(
    name: str,
    reader: FileReader,
    *,
    skip_bad: bool,
    decoding: Decoding | None = None,
    layout: Layout | None = None,
) -> DataSet:
    """Reads a folder with a sub-folder for each class.

    Args:
      name: "KIND:PATH", see `find_layout` for the folder PATH. Without a folder for testing, a
        fifth of each class is set apart for it.
      reader: of the files.
      skip_bad: leave unusable files out and count them, instead of an error.
      decoding: of images: when they are decoded.
      layout: of the folder, where it has no such sub-folders.

    Raises:
      UserError: the folder is no such folder, or holds files that can't be used.
    """
    root = root_of(name)
    layout = layout or find_layout(root, reader.what)
    paths = {split: [file.path for file in files] for split, files in layout.splits.items()}
    options = [layout.class_names, asdict(reader), skip_bad]  # type: ignore[call-overload]
    if layout.target is not None:  # classes are told by the folders that files are in
        labels = [np.asarray(file.label) for files in layout.splits.values() for file in files]
        options += [to_json(layout.target), array_digest(np.stack(labels))]

    def build(staging: Staging) -> int:
        return _build(root, layout, staging, reader, skip_bad)

    with warnings.catch_warnings():
        # Pillow warns of what is large, or odd in a header; here it is judged by its pixels. The
        # filter is set once, because filters belong to the process, not to a thread of a pool.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        if decoding is not None and isinstance(reader, ImageFiles):
            streamed = stream_folder(name, root, layout, reader, decoding, skip_bad)
            if streamed is not None:
                return streamed
        return from_files(name, root, paths, options, reader.decoder, build, layout.notes)


def from_files(
    name: str,
    root: Path,
    paths: Mapping[str, Sequence[Path]],
    options: Sequence[Any],
    decoder: str,
    build: Callable[[Staging], int],
    notes: Sequence[str] = (),
) -> DataSet:
    """The data set that is made of files, kept by their content.

    Files that were only touched or copied elsewhere are read once more and not decoded; those that
    have the sizes and times of before are not even read.

    Args:
      name: "KIND:PATH".
      root: the folder that all files are in.
      paths: of the files of each split.
      options: what else the result depends on, as values that JSON can hold.
      decoder: which program decodes, and its version.
      build: fills a `Staging`, and returns how many files it skipped.
      notes: what there is to say of the folder besides.

    Raises:
      UserError: a file changes meanwhile; or what `build` raises.
    """
    kind = name.partition(":")[0]
    stamps = {path: _stamp(path) for files in paths.values() for path in files}

    def key_of(*told: Any) -> str:
        return f"{kind}-{hashlib.sha256(json.dumps([*options, *told]).encode()).hexdigest()[:24]}"

    def told(of: Mapping[Path, Any]) -> list[Any]:
        return [[split, str(p.relative_to(root)), of[p]] for split in paths for p in paths[split]]

    digests: dict[Path, str] = {}

    def read() -> dict[Path, str]:
        if not digests:
            with ThreadPoolExecutor() as pool:
                digests.update(zip(stamps, pool.map(digest_of, stamps), strict=True))
        return digests

    def checked(staging: Staging) -> int:
        listing = Listing({str(p.relative_to(root)): d for p, d in read().items()}, decoder)
        try:
            skipped = build(staging)
        except UserError:
            _check_stamps(root, stamps)  # of a file that is half written, the rest is not true
            raise
        _check_stamps(root, stamps)
        staging.note_files(listing)
        return skipped

    known = cache_dir() / "folders" / key_of(str(root), told(stamps))
    try:
        return cached(known.read_text(encoding="utf-8"), name, checked, notes)
    except OSError:  # these sizes and times are new
        key = key_of(told(read()))
    dataset = cached(key, name, checked, notes)
    with contextlib.suppress(OSError):  # next time the files are read again, and no more
        write_files({known: key.encode()})
    return dataset


def root_of(name: str) -> Path:
    """The path of a data set "KIND:PATH"."""
    check_path(name, "the data set")
    path = Path(name.partition(":")[2])
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
        raise UserError(
            f"{some_of(names)} in {root} changed while they were read; run the "
            "command again when nothing writes there"
        )


def _build(root: Path, layout: Layout, staging: Staging, reader: FileReader, skip_bad: bool) -> int:
    """Decodes into `staging`, and counts the files that can't be used."""
    bad: dict[Path, str] = {}
    with ThreadPoolExecutor() as pool:
        every = [file.path for part in layout.splits.values() for file in part]
        headers = dict(zip(every, pool.map(reader.header, every), strict=True))
        bad |= {path: h for path, h in headers.items() if isinstance(h, str)}
        good = [h for h in headers.values() if not isinstance(h, str)]
        if good:
            column = reader.column(good, root)
            target = layout.target or Classes(layout.class_names)
            columns = {"inputs": column, "target": target}
            for split, part in layout.splits.items():
                usable = [file for file in part if file.path not in bad]
                out = staging.split(split, max(1, len(usable)), columns)
                count = 0
                for file, row in _decoded(pool, usable, reader, column):
                    if isinstance(row, str):
                        bad[file.path] = row
                        continue
                    out.inputs[count], out.target[count] = row, file.label
                    count += 1
                staging.drop_after(split, count)
                if skip_bad and layout.target is None:
                    layout.check_usable(root, split, out.target[:count], len(bad), reader.what)
            staging.notes += reader.notes(good, column)
    if bad and (not skip_bad or not good):
        told = f"{root} has {told_bad(root, bad)}"
        raise UserError(f"{told}; remove them or leave them out with --skip-bad")
    if bad:  # without the folder's path: a copy of the folder has the same notes
        staging.notes.append(f"left out: {told_bad(root, bad)}")
    return len(bad)


def _decoded(
    pool: ThreadPoolExecutor, files: Sequence[File], reader: FileReader, column: Column
) -> Iterator[tuple[File, np.ndarray | str]]:
    def read(file: File) -> np.ndarray | str:
        return reader.row(file.path, column)

    # In blocks, because a pool would otherwise run ahead of the disk and fill the memory.
    for start in range(0, len(files), BLOCK):
        block = files[start : start + BLOCK]
        yield from zip(block, pool.map(read, block), strict=True)


def set_files_apart(paths: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Sets a fifth of files apart for testing, always the same; copies stay on one side.

    Returns:
      Sorted positions to train on and to test on.
    """
    first: dict[str, int] = {}
    copies = [first.setdefault(digest_of(path), place) for place, path in enumerate(paths)]
    return stratified_indices(np.zeros(len(paths), np.int32), 0.2, 20, np.array(copies))


def digest_of(path: Path) -> str:
    """Of a file's content; "" where there is none to be read (it may be a pipe)."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError:
        return ""
