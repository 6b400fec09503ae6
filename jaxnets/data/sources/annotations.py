"""Boxes as Pascal VOC and YOLO write them, with the place of each in its file."""

import dataclasses
import re
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from jaxnets.data.listing import some_of
from jaxnets.data.sources.layout import split_of
from jaxnets.errors import UserError

__all__ = ["Annotated", "Faults", "Found", "Thing", "read_voc", "read_yolo", "split_of_path"]

_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
#: Shares may be so much beyond the edge before they are taken for pixels.
_SHARE = 1.5


@dataclasses.dataclass(frozen=True)
class Thing:
    """An object as it is written.

    Attributes:
      box: left, top, right, bottom.
      name: of its class.
      place: the file and the line, or whatever else says where it is written.
      difficult: of Pascal VOC.
      crowd: of COCO.
      area: of COCO, in square pixels; 0 where it is not written.
    """

    box: tuple[float, float, float, float]
    name: str
    place: str
    difficult: bool = False
    crowd: bool = False
    area: float = 0.0


@dataclasses.dataclass(frozen=True)
class Annotated:
    """A picture with its objects as they are written.

    Attributes:
      path: of the picture.
      place: where its objects are written.
      things: the objects.
      size: (height, width), where that is written too.
      shares: whether boxes are in shares of the picture, not in pixels.
    """

    path: Path
    place: str
    things: Sequence[Thing]
    size: tuple[int, int] | None = None
    shares: bool = False


class Faults:
    """What is wrong with the boxes of a folder.

    Attributes:
      clipped: how many boxes reach beyond their picture.
    """

    def __init__(self, root: Path) -> None:
        """Nothing yet."""
        self._root, self._told, self.clipped = root, list[str](), 0

    def add(self, place: str, what: str) -> None:
        """Notes a fault and where it is."""
        self._told.append(f"{place} {what}")

    def place(self, path: Path, line: int | None = None) -> str:
        """A file by its path from the root, and a line of it."""
        name = str(path.relative_to(self._root))
        return name if line is None else f"{name}, line {line},"

    def check(self, skip_bad: bool) -> None:
        """Fails where there is a fault, unless such boxes are to be left out.

        Raises:
          UserError: it counts the faults and names the first.
        """
        if not self._told or skip_bad:
            return
        first, *others = self._told
        more = f", and {len(others):,} more like that" if others else ""
        raise UserError(
            f"in {self._root} {first}{more}; mend that, or leave it out with --skip-bad"
        )

    @property
    def notes(self) -> list[str]:
        """What was done about them."""
        notes = []
        if self._told:
            notes.append(f"left out: {len(self._told):,} ({some_of(self._told)})")
        if self.clipped:
            notes.append(f"{self.clipped:,} boxes reach beyond their picture and end at its edge")
        return notes


#: Pictures of each split, class names, and notes.
Found = tuple[dict[str, list[Annotated]], Sequence[str], list[str]]


def read_voc(root: Path, files: Sequence[Path], faults: Faults) -> Found:
    """Pictures of each split, class names in alphabetical order, and notes.

    Raises:
      UserError: for XML that can't be read.
    """
    pictures = _pictures(files)
    found: dict[str, Annotated] = {}
    for path in (path for path in files if path.suffix.lower() == ".xml"):
        text = path.read_text(encoding="utf-8", errors="replace")
        try:
            tree = ET.fromstring(text)
        except ET.ParseError as error:
            raise UserError(f"{path} is no XML that can be read: {error}") from error
        if tree.tag != "annotation":
            continue
        told = Path((tree.findtext("filename") or path.stem).strip())
        picture = _one(pictures, path, path.stem) or _one(pictures, path, told.stem)
        if picture is None:
            faults.add(faults.place(path), f"has no picture {told}")
            continue
        if told.stem != picture.stem and _one(pictures, path, told.stem):
            faults.add(faults.place(path), f"names another picture, {told}")
        lines = [1 + text[: m.start()].count("\n") for m in re.finditer(r"<object[\s>]", text)]
        things = [
            Thing(
                _corners(thing.find("bndbox")),
                (thing.findtext("name") or "").strip(),
                faults.place(path, line),
                difficult=(thing.findtext("difficult") or "0").strip() == "1",
            )
            for thing, line in zip(tree.iter("object"), lines, strict=False)
        ]
        height, width = (_number(tree.findtext(f"size/{side}")) for side in ("height", "width"))
        size = (int(height), int(width)) if min(height, width) > 0 else None
        key = path.stem if path.stem not in found else str(path)
        found[key] = Annotated(picture, faults.place(path), things, size)
    order = sorted({thing.name for one in found.values() for thing in one.things if thing.name})
    splits, notes = _voc_splits(root, found, faults)
    used = {one.path for one in found.values()}
    if bare := [path.name for of in pictures.values() for path in of if path not in used]:
        notes.append(f"not used: {len(bare):,} pictures without an XML file ({some_of(bare)})")
    return splits, order, notes


def _corners(box: ET.Element | None) -> tuple[float, float, float, float]:
    """Corners of a `bndbox`; NaN where they are missing."""
    left, top, right, bottom = (
        _number(None if box is None else box.findtext(name))
        for name in ("xmin", "ymin", "xmax", "ymax")
    )
    return left, top, right, bottom


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


def _voc_splits(
    root: Path, found: Mapping[str, Annotated], faults: Faults
) -> tuple[dict[str, list[Annotated]], list[str]]:
    """Pictures by the lists in ImageSets/Main, else by the names of their folders."""
    lists = {
        split: path
        for split, name in (("train", "train"), ("validation", "val"), ("test", "test"))
        if (path := root / "ImageSets" / "Main" / f"{name}.txt").exists()
    }
    if "train" not in lists and (path := root / "ImageSets" / "Main" / "trainval.txt").exists():
        lists = {"train": path} | {k: v for k, v in lists.items() if k == "test"}
    if not lists:
        return _by_folder(root, found.values()), []
    splits: dict[str, list[Annotated]] = {}
    for split, path in lists.items():
        names = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
        for name in names:
            if name not in found:
                faults.add(faults.place(path), f"lists {name}, which has no boxes or no picture")
        splits[split] = [found[name] for name in names if name in found]
    listed = {one.path for of in splits.values() for one in of}
    rest = [one.path.name for one in found.values() if one.path not in listed]
    notes = [f"not used: {len(rest):,} pictures in no list ({some_of(rest)})"] if rest else []
    return splits, notes


def read_yolo(root: Path, files: Sequence[Path], faults: Faults) -> Found:
    """Pictures of each split, class names in their order, and notes.

    Raises:
      UserError: for a list of classes that can't be read.
    """
    names = _yolo_names(root, files)
    texts = {path for path in files if path.suffix.lower() == ".txt"}
    found, used = [], set[Path]()
    for picture in (path for path in files if path.suffix.lower() in _PICTURES):
        text = _yolo_text(picture, texts)
        if text is None:  # no file is no object
            found.append(Annotated(picture, faults.place(picture), [], shares=True))
            continue
        used.add(text)
        things = _yolo_things(text, names, faults)
        found.append(Annotated(picture, faults.place(text), things, shares=True))
    if not used:
        raise UserError(f"{root} has no text file that has the name of a picture")
    alone = [path for path in sorted(texts - used) if path.parent.name == "labels"]
    for path in alone:
        faults.add(faults.place(path), "has no picture of its name")
    return _by_folder(root, found), names, []


def _yolo_things(path: Path, names: Sequence[str], faults: Faults) -> list[Thing]:
    """The objects of a text file: class, middle and size of a box; or class and an outline."""
    things = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        place = faults.place(path, number)
        try:
            label, *values = map(float, line.split())
        except ValueError:
            faults.add(place, f"is no row of numbers: {line[:40]!r}")
            continue
        if len(values) < 4 or (len(values) > 5 and len(values) % 2):
            faults.add(place, f"has {len(values) + 1} numbers; class and 4 of a box are wanted")
            continue
        if label != int(label) or not 0 <= label < len(names):
            faults.add(place, f"has the class {label:g}, and 0 to {len(names) - 1} are listed")
            continue
        if max(map(abs, values[:4])) > _SHARE:
            faults.add(place, "has pixels where shares of the picture (0 to 1) are wanted")
            continue
        if len(values) > 5:  # corners of an outline
            across, down = values[::2], values[1::2]
            box = min(across), min(down), max(across), max(down)
        else:
            x, y, width, height = values[:4]
            box = x - width / 2, y - height / 2, x + width / 2, y + height / 2
        things.append(Thing(box, names[int(label)], place))
    return things


def _yolo_names(root: Path, files: Sequence[Path]) -> list[str]:
    """Class names of data.yaml or classes.txt."""
    import yaml

    for path in files:
        if path.suffix.lower() not in (".yaml", ".yml"):
            continue
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise UserError(f"{path} is no YAML that can be read: {error}") from error
        names = content.get("names") if isinstance(content, dict) else None
        if isinstance(names, dict):
            if sorted(names) != list(range(len(names))):
                raise UserError(f"{path} numbers its classes otherwise than 0, 1, 2, ...")
            names = [names[number] for number in range(len(names))]
        if isinstance(names, list) and names:
            return [str(name) for name in names]
    path = root / "classes.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise UserError(f"{root} has no list of classes: data.yaml (with `names:`) or classes.txt")
    return names


def _yolo_text(picture: Path, texts: set[Path]) -> Path | None:
    """The text file of a picture: beside it, or in `labels` where its path has `images`."""
    beside = picture.with_suffix(".txt")
    parts = list(beside.parts)
    candidates = [beside]
    for place in range(len(parts) - 1, 0, -1):
        if parts[place].lower() == "images":
            candidates.append(Path(*parts[:place], "labels", *parts[place + 1 :]))
            break
    return next((path for path in candidates if path in texts), None)


def _pictures(files: Sequence[Path]) -> dict[str, list[Path]]:
    """Pictures by their names without ending."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        if path.suffix.lower() in _PICTURES:
            found[path.stem].append(path)
    return found


def _one(pictures: Mapping[str, Sequence[Path]], near: Path, stem: str) -> Path | None:
    """The picture of a name; of several, the one that is nearest to a file."""
    able = pictures.get(stem, ())

    def shared(path: Path) -> int:
        return sum(a == b for a, b in zip(path.parts, near.parts, strict=False))

    return max(able, key=shared) if able else None


def split_of_path(root: Path, path: Path) -> str:
    """The split that a folder on the way from the root is named after; "" where none is."""
    parts = path.relative_to(root).parts[:-1]
    return next((split for part in parts if (split := split_of(part))), "")


def _by_folder(root: Path, found: Iterable[Annotated]) -> dict[str, list[Annotated]]:
    splits: dict[str, list[Annotated]] = defaultdict(list)
    for one in found:
        splits[split_of_path(root, one.path) or "train"].append(one)
    return dict(splits)
