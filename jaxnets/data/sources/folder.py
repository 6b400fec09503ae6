"""A folder with one sub-folder for each class, whatever the files in them are.

Every file that can't be used is named in one error, all at once, or left out and counted. So is
what is no file: a link that leads nowhere, a pipe.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxnets.columns import Classes, Column
from jaxnets.data.cache import Staging, cached
from jaxnets.data.dataset import DataSet
from jaxnets.data.listing import Listing
from jaxnets.errors import UserError
from jaxnets.files import check_path

__all__ = [
    "FileReader",
    "digest_of",
    "from_files",
    "load_files",
    "root_of",
    "scan",
    "visible_files",
]

BLOCK = 256


@dataclass(frozen=True)
class _File:
    path: Path
    label: int


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

    def row(self, path: Path, column: Any) -> np.ndarray | str:
        """A file as a row of that column, or why it can't be used."""
        ...


def load_files(name: str, reader: FileReader, *, skip_bad: bool) -> DataSet:
    """Reads a folder with a sub-folder for each class.

    Args:
      name: "KIND:PATH" where PATH holds one sub-folder for each class, or the folders `train`
        and, perhaps, `test` that do. Files deeper inside a class count; hidden ones do not.
        Without `test`, a fifth of each class is set apart for it.
      reader: of the files.
      skip_bad: leave unusable files out and count them, instead of an error.

    Raises:
      UserError: the folder is no such folder, or holds files that can't be used.
    """
    root = root_of(name)
    splits, class_names = scan(root, reader.what)
    paths = {split: [file.path for file in files] for split, files in splits.items()}

    def build(staging: Staging, digests: dict[Path, str]) -> int:
        return _build(root, splits, class_names, staging, reader, skip_bad, digests)

    options = [class_names, asdict(reader), skip_bad]  # type: ignore[call-overload]
    return from_files(name, root, paths, options, reader.decoder, build)


def from_files(
    name: str,
    root: Path,
    paths: Mapping[str, Sequence[Path]],
    options: Sequence[Any],
    decoder: str,
    build: Callable[[Staging, dict[Path, str]], int],
) -> DataSet:
    """The data set that is made of files, for as long as they stay what they are.

    Args:
      name: "KIND:PATH".
      root: the folder that all files are in.
      paths: of the files of each split.
      options: what else the result depends on, as values that JSON can hold.
      decoder: which program decodes, and its version.
      build: fills a `Staging`, notes the digest of each file, and returns how many it skipped.

    Raises:
      UserError: a file changes meanwhile; or what `build` raises.
    """
    listing = [
        (split, str(path.relative_to(root)), *_stamp(path))
        for split, files in paths.items()
        for path in files
    ]
    told = json.dumps([str(root), *options, listing])
    key = f"{name.partition(':')[0]}-{hashlib.sha256(told.encode()).hexdigest()[:24]}"

    def checked(staging: Staging) -> int:
        stamps = {root / path: tuple(stamp) for _, path, *stamp in listing}
        digests: dict[Path, str] = {}
        try:
            skipped = build(staging, digests)
        except UserError:
            _check_stamps(root, stamps)  # of a file that is half written, the rest is not true
            raise
        _check_stamps(root, stamps)
        named = {str(path.relative_to(root)): digest for path, digest in digests.items()}
        staging.note_files(Listing(named, decoder))
        return skipped

    return cached(key, name, checked)


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
        more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
        raise UserError(
            f"{', '.join(names[:3])}{more} in {root} changed while they were read; run the "
            "command again when nothing writes there"
        )


def scan(root: Path, what: str) -> tuple[dict[str, list[_File]], tuple[str, ...]]:
    """Files and labels of each split, and the class names in alphabetical order.

    Raises:
      UserError: the folder has no sub-folders with files, or other ones for testing.
    """
    if not root.is_dir():
        raise UserError(
            f"{root} is {'a file' if root.exists() else 'not there'}; name a folder with "
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
            paths = sorted(visible_files(folder / name))
            if not paths:
                raise UserError(
                    f"{folder / name} holds no {what}; put some in, or remove the folder"
                )
            splits[split] += [_File(path, label) for path in paths]
    return splits, tuple(names)


def _subfolders(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def visible_files(folder: Path) -> Iterator[Path]:
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
    reader: FileReader,
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
        headers = dict(zip(files, pool.map(lambda f: reader.header(f.path), files), strict=True))
        bad |= {file.path: h for file, h in headers.items() if isinstance(h, str)}
        good = [h for h in headers.values() if not isinstance(h, str)]
        if good:
            column = reader.column(good, root)
            columns = {"inputs": column, "target": Classes(tuple(class_names))}
            for split, part in splits.items():
                usable = [file for file in part if file.path not in bad]
                out = staging.split(split, max(1, len(usable)), columns)
                count = 0
                for file, digest, row in _decoded(pool, usable, reader, column):
                    digests[file.path] = digest
                    if isinstance(row, str):
                        bad[file.path] = row
                        continue
                    out.inputs[count], out.target[count] = row, file.label
                    count += 1
                staging.drop_after(split, count)
                if skip_bad:
                    _check_classes(root, split, class_names, out.target[:count], bad, reader)
    if bad and (not skip_bad or not good):
        raise _named(root, bad)
    digests |= {path: digest_of(path) for path in bad.keys() - digests.keys()}
    return len(bad)


def _check_classes(
    root: Path,
    split: str,
    class_names: Sequence[str],
    labels: np.ndarray,
    bad: dict[Path, str],
    reader: FileReader,
) -> None:
    empty = sorted(set(range(len(class_names))) - set(labels.tolist()))
    if empty:
        raise UserError(
            f'{root} has no usable {reader.what} of "{class_names[empty[0]]}" for {split} once the '
            f"{len(bad)} unusable files are left out; put some in, or remove the class"
        )


def _named(root: Path, bad: dict[Path, str]) -> UserError:
    listed = [f"{path.relative_to(root)} ({why})" for path, why in sorted(bad.items())]
    return UserError(
        f"{root} has {len(bad)} file{'s' * (len(bad) != 1)} that can't be used: "
        f"{', '.join(listed)}; remove them or leave them out with --skip-bad"
    )


def _decoded(
    pool: ThreadPoolExecutor, files: Sequence[_File], reader: FileReader, column: Column
) -> Iterator[tuple[_File, str, np.ndarray | str]]:
    def read(file: _File) -> tuple[_File, str, np.ndarray | str]:
        row = reader.row(file.path, column)
        return file, digest_of(file.path), row  # the second time it comes from memory

    # In blocks, because a pool would otherwise run ahead of the disk and fill the memory.
    for start in range(0, len(files), BLOCK):
        yield from pool.map(read, files[start : start + BLOCK])


def digest_of(path: Path) -> str:
    """Of a file's content; "" where there is none to be read (it may be a pipe)."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError:
        return ""
