"""How the files of a folder are laid out: which are of which split, and of which class."""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxnets.columns import Column
from jaxnets.data.listing import some_of
from jaxnets.errors import UserError
from jaxnets.files import check_path

__all__ = ["File", "Layout", "find_layout", "split_of", "visible_files"]

_SPLIT = re.compile(
    r"(?:(?P<train>train|training)|(?P<test>test|testing)"
    r"|(?P<validation>val|valid|validation|dev))(?:[ _-]?(?:set|data|images))?",
    re.IGNORECASE,
)

_MASK = re.compile(r"[_ -]masks?([_ -]?\d+)?$", re.IGNORECASE)

#: Files and folders that operating systems leave behind, in lower case.
_OF_SYSTEMS = ("thumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "#recycle", "lost+found")

#: Why files of a folder are not used -> the files, and folders of such files.
_Left = defaultdict[str, list[Path]]
_HIDDEN, _LINKED = "hidden file{}", "linked folder{} inside a class"


@dataclass(frozen=True)
class File:
    """A file, and the number of its class, or another row of what is to be said of it."""

    path: Path
    label: Any


@dataclass(frozen=True)
class Layout:
    """The files of a folder.

    Attributes:
      splits: "train", and "test" and "validation" where the folder has them -> files.
      class_names: in alphabetical order; that of the folder itself where it has no sub-folders.
      notes: sentences that count and name what in the folder is not used.
      target: what the labels of the files are; None for classes.
    """

    splits: dict[str, list[File]]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    target: Column | None = None

    def check_usable(
        self, root: Path, split: str, labels: Iterable[int], bad: int, what: str
    ) -> None:
        """Fails where no file of a class is left once so many unusable ones are left out."""
        empty = sorted(set(range(len(self.class_names))) - set(labels))
        if empty:
            raise UserError(
                f'{root} has no usable {what} of "{self.class_names[empty[0]]}" for {split} once '
                f"the {bad} unusable files are left out; put some in, or remove the class"
            )


def find_layout(root: Path, what: str) -> Layout:
    """Finds splits and classes by the names of folders.

    Classes are the sub-folders of `root`, or of its folders for training, testing and validation,
    which may be called train, Training, test_set, val, valid and the like. A folder without
    sub-folders is a single class. Files at any depth inside a class count.

    Args:
      root: the folder.
      what: what a file is called: "image".

    Raises:
      UserError: it is no folder, holds nothing, or could be meant in more than one way.
    """
    if not root.is_dir():
        raise UserError(
            f"{root} is {'a file' if root.exists() else 'not there'}; name a folder with "
            "one sub-folder for each class"
        )
    left: _Left = defaultdict(list)
    parts = _splits(root, _subfolders(root))
    if parts:
        _leave_out(root, parts.values(), "splits", left)
    else:
        parts = {"train": root}
    classes = {split: _classes(folder, what) for split, folder in parts.items()}
    names = sorted(classes["train"])
    flat = {split: list(there.values()) == [parts[split]] for split, there in classes.items()}
    for split, there in classes.items():
        if flat[split] != flat["train"]:
            some, none = (parts[of].name for of in sorted(("train", split), key=flat.__getitem__))
            raise UserError(
                f"{root} has folders of classes in {some} and none in {none}; sort the files of "
                f"{none} into such folders, or move it elsewhere"
            )
        if not flat[split]:
            _leave_out(parts[split], there.values(), "classes", left)
        if set(there) != set(names):
            differing = [f'"{name}"' for name in sorted(set(names) ^ set(there))]
            raise UserError(
                f"{root} has different classes in {parts['train'].name} and {parts[split].name}: "
                f"{some_of(differing)} {'is' if len(differing) == 1 else 'are'} in only one of them"
            )
    splits: dict[str, list[File]] = {}
    for split, folders in classes.items():
        splits[split] = []
        for label, name in enumerate(names):
            check_path(name, f"in {parts[split]} the class")
            paths = sorted(visible_files(folders[name], left), key=lambda path: path.parts)
            if not paths:
                raise UserError(
                    f"{folders[name]} holds no {what}; put some in, or remove the folder"
                )
            splits[split] += [File(path, label) for path in paths]
    notes = (*_told(root, left), *_doubts(classes["train"], splits))
    return Layout(splits, tuple(names), notes)


def split_of(name: str) -> str:
    """The split that a folder or file is named after; "" where it is none."""
    found = _SPLIT.fullmatch(name)
    return (found.lastgroup or "") if found else ""


def _splits(root: Path, inside: Sequence[str]) -> dict[str, Path]:
    """Split -> its folder; empty where the sub-folders are classes.

    A folder whose name could be that of a split is one if it has sub-folders itself, or if all of
    its neighbours could be: "valid" beside "invalid" is a class.
    """
    named = {name: split for name in inside if (split := split_of(name))}
    if len(named) < len(inside):
        named = {name: split for name, split in named.items() if _subfolders(root / name)}
    parts: dict[str, Path] = {}
    for name, split in named.items():
        if split in parts:
            raise UserError(
                f"{root} has two folders for the same split, {parts[split].name} and {name}; put "
                "their files into one"
            )
        parts[split] = root / name
    if parts and "train" not in parts:
        raise UserError(
            f"{root} has {' and '.join(folder.name for folder in parts.values())}, but no folder "
            "train; put the training classes into one"
        )
    return parts


def _classes(folder: Path, what: str) -> dict[str, Path]:
    """Class -> its folder; a folder without sub-folders is a class itself."""
    found: dict[str, Path] = {}
    for name in _subfolders(folder):
        # Composed or not (an accent may be a character of its own), it is the same name.
        plain = unicodedata.normalize("NFC", name)
        if plain in found:
            raise UserError(
                f'{folder} has two folders "{plain}" that differ only in how the name is encoded; '
                "put their files into one"
            )
        found[plain] = folder / name
    home, names = folder.resolve(), dict[Path, str]()
    for name, path in found.items():
        real = path.resolve()
        if home.is_relative_to(real):
            raise UserError(f"{path} is a link to a folder around it, {real}; remove it")
        if (other := names.setdefault(real, name)) != name:
            raise UserError(f"in {folder} {other} and {name} are the same folder; keep one name")
    if found:
        return found
    if not _loose_files(folder):
        raise UserError(f"{folder} holds no {what} and no sub-folder; name a folder that does")
    return {_name(folder): folder}


def _name(folder: Path) -> str:
    """The name of a folder that is the only class; of a split, that of the folder around it."""
    of = folder.parent if _SPLIT.fullmatch(folder.name) else folder
    return unicodedata.normalize("NFC", of.resolve().name) or "all"


def _subfolders(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and _is_visible(p.name))


def _loose_files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.is_dir() and _is_visible(p.name))


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in _OF_SYSTEMS


def _leave_out(folder: Path, used: Collection[Path], place: str, left: _Left) -> None:
    """Adds what lies in a folder beside its splits or classes."""
    for path in {*folder.iterdir()} - {*used}:
        left[f"file{{}} beside the {place}" if _is_visible(path.name) else _HIDDEN].append(path)


def _told(root: Path, left: _Left) -> Iterator[str]:
    """A sentence for each reason: how many files are not used, and where they are."""
    for why, paths in left.items():
        folders = {path for path in paths if path.is_dir() and not path.is_symlink()}
        names = [f"{path.relative_to(root)}{'/' * (path in folders)}" for path in sorted(paths)]
        files = len(paths) - len(folders) + sum(len(f) for p in folders for *_, f in os.walk(p))
        yield f"not used: {files:,} {why.format('s' * (files != 1))} ({some_of(names)})"


def _doubts(folders: Mapping[str, Path], splits: Mapping[str, Sequence[File]]) -> Iterator[str]:
    """What is used, and may not be what is meant."""
    (name, folder), *others = folders.items()
    if not others and (inside := _subfolders(folder)):
        yield f"{name} is the only class; name that folder to have {some_of(inside)} as classes"
    files = [file.path for part in splits.values() for file in part]
    if masks := [path.name for path in files if _MASK.search(path.stem)]:
        yield (
            f"{len(masks):,} of {len(files):,} files are named like masks ({some_of(masks)}) and "
            "are used like all others; move them out if they are none of the class"
        )


def visible_files(folder: Path, left: _Left | None = None) -> Iterator[Path]:
    """Whatever is no folder in a folder and those inside it; what is passed over goes to `left`.

    Links to folders are not followed.
    Not `Path.rglob`, which recurses (a thousand nested folders are too many for it) and passes over
    folders that it has no permission to read.
    """
    todo = [str(folder)]
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                hidden = not _is_visible(entry.name)
                if not hidden and entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                elif not hidden and not os.path.isdir(entry.path):
                    yield Path(entry.path)
                elif left is not None:
                    left[_HIDDEN if hidden else _LINKED].append(Path(entry.path))
