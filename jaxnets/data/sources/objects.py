"""Pictures with boxes around their objects, out of a folder, in any of three common layouts.

Pascal VOC: an XML file for each picture, in Annotations or beside it; the pictures in JPEGImages or
beside; ImageSets/Main lists splits. COCO: JSON files with `images`, `annotations` and `categories`.
YOLO: a text file for each picture, in `labels` where the picture is in `images`, or beside it; the
classes in data.yaml or classes.txt.
"""

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from jaxnets.columns import Boxes, Image
from jaxnets.data.dataset import DataSet
from jaxnets.data.listing import some_of, told_bad
from jaxnets.data.sources.annotations import Annotated, Faults, Found, read_voc, read_yolo
from jaxnets.data.sources.coco import read_coco
from jaxnets.data.sources.folder import load_files, root_of, set_files_apart
from jaxnets.data.sources.images import Header, ImageFiles
from jaxnets.data.sources.layout import File, Layout, visible_files
from jaxnets.errors import UserError

__all__ = ["Letterboxed", "Objects", "Picture", "load_objects", "placed", "shares_of_pixels"]

#: What a picture does not fill of its frame.
_GREY = 128
#: A corner may lie so many pixels beyond the picture before it is told: tools count from 0 or 1.
_BEYOND = 1.5


def placed(size: tuple[int, int], frame: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a picture that is shrunk or enlarged to fit into a frame, as it is shaped.

    It lies in the frame's upper left corner.
    """
    scale = min(frame[0] / size[0], frame[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def shares_of_pixels(size: tuple[int, int], frame: tuple[int, int]) -> np.ndarray:
    """[4] factors that make shares of a frame of the pixels of a picture that lies in it.

    Args:
      size: (height, width) of the picture.
      frame: of the frame.
    """
    height, width = placed(size, frame)
    return np.array([width / size[1] / frame[1], height / size[0] / frame[0]] * 2)


@dataclasses.dataclass(frozen=True)
class Letterboxed(ImageFiles):
    """Images that keep their shape and lie in a frame, the rest of which is grey."""

    whole: str = "letterboxed"  # tells its rows from those of `ImageFiles` in the cache

    def fitted(self, image: Any, size: tuple[int, int]) -> Any:
        """The picture in a frame of (width, height), by bicubic interpolation."""
        from PIL import Image as Pillow

        height, width = placed((image.height, image.width), (size[1], size[0]))
        frame = Pillow.new(image.mode, size, (_GREY,) * len(image.getbands()))
        frame.paste(image.resize((width, height), Pillow.Resampling.BICUBIC), (0, 0))
        return frame

    def changed(self, headers: Sequence[Header], column: Image) -> list[str]:
        """How much of the frames is empty, where that is much."""
        height, width, _ = column.shape
        sizes = [placed(header.size, (height, width)) for header in headers]
        empty = 1 - np.mean([h * w for h, w in sizes]) / (height * width)
        if empty < 0.1:
            return []
        return [
            f"pictures keep their shape in {height}x{width}, of which {empty:.0%} stays grey on "
            "average; an --image-size of their shape takes less time"
        ]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture and its objects, in its own pixels.

    Attributes:
      path: its file.
      size: (height, width).
      boxes: [K, 4] left, top, right, bottom.
      labels: [K] int.
      ignored: [K] bool, difficult ones and crowds.
      crowd: [K] bool.
      areas: [K] in square pixels: of the objects where they are written, else of their boxes.
    """

    path: Path
    size: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray


@dataclasses.dataclass(frozen=True)
class Objects:
    """Pictures to find objects in.

    Attributes:
      dataset: with the pictures as inputs and `Boxes` as target.
      pictures: split -> where its rows come from, in their order.
    """

    dataset: DataSet
    pictures: Mapping[str, Sequence[Picture]]


def load_objects(
    name: str,
    *,
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
    background: str | None = None,
    skip_bad: bool = False,
) -> Objects:
    """Reads a folder of pictures with boxes around their objects.

    Boxes that reach beyond their picture end at its edge. Pictures without objects are data too.
    Without pictures for testing, a fifth is set apart, always the same, copies on one side.

    Args:
      name: "objects:PATH".
      image_size: (height, width) of the frame that pictures are fitted into, see `Letterboxed`; not
        needed where all have one size.
      channels: 1 or 3 to convert to; by default 1 where all files are grey.
      background: colour that transparent pictures are laid on; by default white.
      skip_bad: leave boxes and files that can't be used out, and count them.

    Raises:
      UserError: the layout is none of the known ones; a box has no size, lies outside its picture
        or has a class that is not listed; a file can't be used; nothing has an object.
    """
    root = root_of(name)
    if not root.is_dir():
        raise UserError(
            f"{root} is {'a file' if root.exists() else 'not there'}; name a folder with pictures "
            "and their boxes"
        )
    faults = Faults(root)
    files = sorted(visible_files(root))
    kind, read = _kind_of(root, files)
    splits, names, notes = read(root, files, faults)
    number = {name: label for label, name in enumerate(names)}
    reader = Letterboxed(image_size, channels, background or "white")
    headers = _headers(root, reader, splits, skip_bad)
    pictures: dict[str, list[Picture]] = {}
    for split, of in splits.items():
        usable = [one for one in of if one.path in headers]
        if usable:
            pictures[split] = [
                _in_pixels(one, headers[one.path].size, number, faults) for one in usable
            ]
    faults.check(skip_bad)
    pictures, more = _divided(root, pictures)
    every = [one for of in pictures.values() for one in of]
    if not any(len(one.boxes) for one in pictures["train"]):
        raise UserError(f"{root} has no picture with an object to train on ({kind})")
    sizes = {one.size for one in every}
    if image_size is None and len(sizes) > 1:
        low, high = min(sizes), max(sizes)
        raise UserError(
            f"{root} has pictures of {len(sizes)} sizes, from {low[0]}x{low[1]} to "
            f"{high[0]}x{high[1]} (height x width); give one with --image-size"
        )
    frame = image_size or next(iter(sizes))
    column = Boxes(tuple(names), max(len(one.boxes) for one in every))
    rows = {
        split: [File(one.path, _row(one, column, frame)) for one in of]
        for split, of in pictures.items()
    }
    told = (f"boxes are read as {kind}", *notes, *more, *faults.notes, *_counted(pictures))
    layout = Layout(rows, column.names, told, column)
    dataset = load_files(name, reader, skip_bad=False, layout=layout)
    return Objects(dataset, pictures)


def _kind_of(
    root: Path, files: Sequence[Path]
) -> tuple[str, Callable[[Path, Sequence[Path], Faults], Found]]:
    """What a folder's boxes are written as, and what reads them."""
    ends = {path.suffix.lower() for path in files}
    if ".xml" in ends:
        return "Pascal VOC", read_voc
    if ".json" in ends:
        return "COCO", read_coco
    if ".txt" in ends and (ends & {".yaml", ".yml"} or root / "classes.txt" in files):
        return "YOLO", read_yolo
    if ".txt" in ends:
        raise UserError(
            f"{root} has text files and no list of classes: put data.yaml (with `names:`) or "
            "classes.txt (a name a line) beside them"
        )
    raise UserError(
        f"{root} has no boxes: there is no XML file (Pascal VOC), no JSON file (COCO), and no text "
        "file with data.yaml or classes.txt (YOLO)"
    )


def _headers(
    root: Path, reader: ImageFiles, splits: Mapping[str, Sequence[Annotated]], skip_bad: bool
) -> dict[Path, Header]:
    """The header of every picture that can be used."""
    paths = list(dict.fromkeys(one.path for of in splits.values() for one in of))
    if not paths:
        raise UserError(f"{root} has boxes and no pictures of theirs")
    with ThreadPoolExecutor() as pool, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        read = dict(zip(paths, pool.map(reader.header, paths), strict=True))
    bad = {path: header for path, header in read.items() if isinstance(header, str)}
    if bad and (not skip_bad or len(bad) == len(read)):
        raise UserError(
            f"{root} has {told_bad(root, bad)}; remove them or leave them out with --skip-bad"
        )
    return {path: header for path, header in read.items() if isinstance(header, Header)}


def _in_pixels(
    one: Annotated, size: tuple[int, int], number: Mapping[str, int], faults: Faults
) -> Picture:
    """A picture's objects, those that can't be used among the faults, and clipped to the edge."""
    height, width = size
    if one.size is not None and one.size != size:
        faults.add(
            one.place,
            f"says {one.size[0]}x{one.size[1]} (height x width), and {one.path.name} is "
            f"{height}x{width}",
        )
    kept = []
    for thing in one.things:
        box = np.array(thing.box, np.float64)
        if one.shares:
            box = box * [width, height, width, height]
        if not thing.name:
            faults.add(thing.place, "has an object without a name")
            continue
        if not np.isfinite(box).all() or not (box[2:] > box[:2]).all():
            faults.add(thing.place, "has a box of no size")
            continue
        inside = np.clip(box, 0, [width, height, width, height])
        if not (inside[2:] > inside[:2]).all():
            faults.add(thing.place, f"has a box outside its picture {one.path.name}")
            continue
        faults.clipped += bool((np.abs(inside - box) > _BEYOND).any())
        kept.append((inside, thing))
    return Picture(
        one.path,
        size,
        np.array([box for box, _ in kept], np.float64).reshape(-1, 4),
        np.array([number[thing.name] for _, thing in kept], np.int64),
        np.array([thing.difficult or thing.crowd for _, thing in kept], bool),
        np.array([thing.crowd for _, thing in kept], bool),
        np.array([thing.area or np.prod(box[2:] - box[:2]) for box, thing in kept], np.float64),
    )


def _divided(
    root: Path, pictures: dict[str, list[Picture]]
) -> tuple[dict[str, list[Picture]], list[str]]:
    """The pictures with some for testing, and what there is to say of that."""
    if "train" not in pictures:
        raise UserError(f"{root} has pictures for {', '.join(pictures)}, and none for training")
    if "test" in pictures:
        return pictures, []
    train = pictures["train"]
    if len(train) < 2:
        raise UserError(f"{root} has a single picture with boxes; training and testing need one")
    first, second = set_files_apart([one.path for one in train])
    if not len(second):
        raise UserError(f"{root} has copies of one picture alone; training and testing need others")
    parts = {"train": [train[i] for i in first], "test": [train[i] for i in second]}
    note = f"{len(second):,} of {len(train):,} pictures are set apart for testing"
    return {**pictures, **parts}, [note]


def _row(one: Picture, column: Boxes, frame: tuple[int, int]) -> np.ndarray:
    """A picture's objects in shares of the frame that it lies in."""
    shares = np.minimum(one.boxes * shares_of_pixels(one.size, frame), 1.0)
    return column.rows(shares, one.labels, one.ignored)


def _counted(pictures: Mapping[str, Sequence[Picture]]) -> list[str]:
    """How many pictures have no object, and how many objects count neither way."""
    every = [one for of in pictures.values() for one in of]
    notes = []
    if empty := [one.path.name for one in every if not len(one.boxes)]:
        notes.append(f"{len(empty):,} of {len(every):,} pictures have no object ({some_of(empty)})")
    if ignored := sum(int(one.ignored.sum()) for one in every):
        notes.append(f"{ignored:,} objects are difficult or crowds, and count neither way")
    return notes
