"""Boxes as COCO writes them: JSON files, of a split each."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxnets.data.sources.annotations import Annotated, Faults, Found, Thing, split_of_path
from jaxnets.data.sources.layout import split_of
from jaxnets.errors import UserError

__all__ = ["read_coco"]


def read_coco(root: Path, files: Sequence[Path], faults: Faults) -> Found:
    """Pictures of each split, class names by their ids, and notes.

    Raises:
      UserError: for JSON that is none of COCO's, or files with different categories.
    """
    splits: dict[str, list[Annotated]] = defaultdict(list)
    names: dict[int, str] = {}
    first: Path | None = None
    for path in (path for path in files if path.suffix.lower() == ".json"):
        content = _coco_content(path)
        if content is None:
            continue
        own = {int(one["id"]): str(one["name"]) for one in content["categories"]}
        if first is not None and own != names:
            raise UserError(
                f"{path} has other categories than {first}; all files must have the same"
            )
        first, names = path, own
        for one in _coco_pictures(root, path, content, own, faults):
            splits[_coco_split(root, path, one)].append(one)
    if first is None:
        raise UserError(f"{root} has JSON files, and none has images, annotations and categories")
    return dict(splits), [names[number] for number in sorted(names)], []


def _coco_content(path: Path) -> dict[str, Any] | None:
    """What is in a file, None where it is something else than boxes."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is no JSON that can be read: {error}") from error
    wanted = ("images", "annotations", "categories")
    return content if isinstance(content, dict) and all(k in content for k in wanted) else None


def _coco_pictures(
    root: Path, path: Path, content: Mapping[str, Any], names: Mapping[int, str], faults: Faults
) -> list[Annotated]:
    """The pictures of a file with their objects."""
    place = faults.place(path)
    things: dict[Any, list[Thing]] = {one["id"]: [] for one in content["images"]}
    for one in content["annotations"]:
        where = f"{place}, annotation {one.get('id')},"
        if one.get("image_id") not in things:
            faults.add(where, f"is of an image that is not listed, {one.get('image_id')}")
            continue
        if one.get("category_id") not in names:
            faults.add(where, f"has a category that is not listed, {one.get('category_id')}")
            continue
        box = one.get("bbox") or ()
        left, top, width, height = map(float, box) if len(box) == 4 else [float("nan")] * 4
        things[one["image_id"]].append(
            Thing(
                (left, top, left + width, top + height),
                names[one["category_id"]],
                where,
                crowd=bool(one.get("iscrowd", 0)),
                area=float(one.get("area") or 0.0),
            )
        )
    found, homes = [], _coco_homes(root, path)
    for one in content["images"]:
        name = str(one.get("file_name", ""))
        file = next((home / name for home in homes if name and (home / name).is_file()), None)
        if file is None:
            faults.add(f"{place}, image {one['id']},", f"has no file {one.get('file_name')}")
            continue
        size = (int(one.get("height") or 0), int(one.get("width") or 0))
        found.append(Annotated(file, place, things[one["id"]], size if min(size) else None))
    return found


def _coco_homes(root: Path, path: Path) -> list[Path]:
    """Where pictures may be: beside the file, or in a folder named after the file's split."""
    split = _split_in(path.stem)
    homes = [path.parent, root, root / "images", path.parent.parent / "images"]
    for home in (root, root / "images", path.parent.parent):
        homes += [p for p in sorted(home.glob("*")) if p.is_dir() and _split_in(p.name) == split]
    return homes


def _coco_split(root: Path, path: Path, one: Annotated) -> str:
    """By the name of the file, else by folders."""
    return (
        _split_in(path.stem) or split_of_path(root, path) or split_of_path(root, one.path)
    ) or "train"


def _split_in(name: str) -> str:
    """The split that a word of a name says, such as instances_train2017; "" where none does."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((split for word in words if (split := split_of(word))), "")
