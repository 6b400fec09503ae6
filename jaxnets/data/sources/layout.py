"""How the files of a folder are laid out: which are of which split, and of which class."""

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxnets.data.listing import some_of
from jaxnets.errors import UserError
from jaxnets.files import check_path

__all__ = ["File", "Layout", "find_layout", "visible_files"]

_SPLIT = re.compile(
    r"(?:(?P<train>train|training)|(?P<test>test|testing)"
    r"|(?P<validation>val|valid|validation|dev))(?:[ _-]?(?:set|data|images))?",
    re.IGNORECASE,
)

#: Files and folders that operating systems leave behind, in lower case.
_OF_SYSTEMS = ("thumbs.db", "desktop.ini", "__macosx")


@dataclass(frozen=True)
class File:
    """A file, and the number of its class."""

    path: Path
    label: int


@dataclass(frozen=True)
class Layout:
    """The files of a folder.

    Attributes:
      splits: "train", and "test" and "validation" where the folder has them -> files.
      class_names: in alphabetical order; that of the folder itself where it has no sub-folders.
      notes: a sentence about each thing in the folder that is not used.
    """

    splits: dict[str, list[File]]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()


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
    inside = _subfolders(root)
    parts = _splits(root, inside)
    notes: list[str] = []
    if parts:
        used = {folder.name for folder in parts.values()}
        notes += _unused(root, [name for name in inside if name not in used], "folder")
        notes += _unused(root, _loose_files(root), "file")
    else:
        parts = {"train": root}
    classes: dict[str, dict[str, Path]] = {}
    for split, folder in parts.items():
        classes[split] = _classes(folder, what)
        if classes[split] != {_name(root): folder}:
            notes += _unused(folder, _loose_files(folder), "file")
    names = sorted(classes["train"])
    for split, there in classes.items():
        if set(there) != set(names):
            differing = sorted(set(names) ^ set(there))
            raise UserError(
                f"{root} has different classes in {parts['train'].name} and {parts[split].name}: "
                f"{some_of(differing)} {'is' if len(differing) == 1 else 'are'} in only one of them"
            )
    splits: dict[str, list[File]] = {}
    for split, folders in classes.items():
        splits[split] = []
        for label, name in enumerate(names):
            check_path(name, f"in {parts[split]} the class")
            paths = sorted(visible_files(folders[name]), key=lambda path: path.parts)
            if not paths:
                raise UserError(
                    f"{folders[name]} holds no {what}; put some in, or remove the folder"
                )
            splits[split] += [File(path, label) for path in paths]
    return Layout(splits, tuple(names), tuple(notes))


def _splits(root: Path, inside: Sequence[str]) -> dict[str, Path]:
    """Split -> its folder; empty where the sub-folders are classes.

    A folder whose name could be that of a split is one if it has sub-folders itself, or if all of
    its neighbours could be: "valid" beside "invalid" is a class.
    """
    split_of = {}
    for name in inside:
        found = _SPLIT.fullmatch(name)
        if found is not None and found.lastgroup is not None:
            split_of[name] = found.lastgroup
    if len(split_of) < len(inside):
        split_of = {name: split for name, split in split_of.items() if _subfolders(root / name)}
    parts: dict[str, Path] = {}
    for name, split in split_of.items():
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


def _unused(folder: Path, names: Sequence[str], what: str) -> list[str]:
    """A sentence that names what in a folder is not used, if there is any."""
    if not names:
        return []
    verb = f"{what} {names[0]} is" if len(names) == 1 else f"{len(names):,} {what}s are"
    told = f" ({some_of(names)})" if len(names) > 1 else ""
    place = "the classes" if what == "file" else "the splits"
    return [f"in {folder} the {verb} not used{told}: beside {place}, not in one of them"]


def visible_files(folder: Path) -> Iterator[Path]:
    """Whatever is no folder in a folder and those inside it; links to folders are not followed.

    Not `Path.rglob`, which recurses (a thousand nested folders are too many for it) and passes over
    folders that it has no permission to read.
    """
    todo = [str(folder)]
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                if not _is_visible(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                elif not os.path.isdir(entry.path):
                    yield Path(entry.path)
