"""Blood cells cut out by their boxes: a folder of images by class, out of Pascal VOC's XML.

    python -m experiments.studies.blood_cells BCCD FOLDER [--size 32] [--margin 0.1]

The pictures are those of github.com/Shenggan/BCCD_Dataset (MIT): 364 of 640x480 pixels, with boxes
around red cells, white cells and platelets, the latter two rare. The authors' split is kept, as
train, validation and test, so that no picture has cells on two sides.
"""

from __future__ import annotations

import collections
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from PIL import Image

from jaxnets.errors import UserError

#: Folder of a part -> the authors' list of its pictures.
_PARTS = {"train": "train", "validation": "val", "test": "test"}


def crops(source: Path, out: Path, *, size: int = 32, margin: float = 0.1) -> dict[str, int]:
    """Cuts every cell out, as a square around its box, and writes PART/CLASS/PICTURE-NUMBER.png.

    A box is clipped to its picture; one that has no pixel in it is left out. The square has the
    longer side of the box and the margin on each side; where it leaves the picture, the picture's
    edge is repeated.

    Args:
      source: folder with Annotations, ImageSets/Main and JPEGImages.
      out: where the crops go; it may not be there yet.
      size: pixels of a side of each crop.
      margin: share of the square's side that is added on each side.

    Returns:
      "PART CLASS" -> crops, and "empty boxes" -> those left out.

    Raises:
      UserError: if the source is none of that kind, or the place is taken.
    """
    if out.exists():
        raise UserError(f"{out} is there already; choose another folder for the crops")
    half = out.with_name(f"{out.name}-unfinished")
    shutil.rmtree(half, ignore_errors=True)
    counts: collections.Counter[str] = collections.Counter({"empty boxes": 0})
    for part, listed in _PARTS.items():
        names = source / "ImageSets" / "Main" / f"{listed}.txt"
        if not names.exists():
            raise UserError(f"{source} holds no BCCD data: {names} is not there")
        for name in names.read_text().split():
            picture = np.asarray(Image.open(source / "JPEGImages" / f"{name}.jpg").convert("RGB"))
            cells = ET.parse(source / "Annotations" / f"{name}.xml").getroot().findall("object")
            for number, cell in enumerate(cells):
                box = [float(cell.findtext(f"bndbox/{key}", "nan")) for key in _CORNERS]
                crop = cut(picture, *box, margin=margin)
                if crop is None:
                    counts["empty boxes"] += 1
                    continue
                kind = cell.findtext("name", "unnamed")
                path = half / part / kind / f"{name}-{number:03}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(crop).resize((size, size), Image.Resampling.BOX).save(path)
                counts[f"{part} {kind}"] += 1
    half.rename(out)
    return dict(counts)


_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def cut(
    picture: np.ndarray, left: float, top: float, right: float, bottom: float, *, margin: float
) -> np.ndarray | None:
    """The square around a box of a picture [H, W, 3]; None for a box without a pixel in it."""
    height, width = picture.shape[:2]
    left, right = (min(max(x, 0.0), width) for x in (left, right))
    top, bottom = (min(max(y, 0.0), height) for y in (top, bottom))
    if not (right - left >= 1 and bottom - top >= 1):
        return None
    side = max(1, round(max(right - left, bottom - top) * (1 + 2 * margin)))
    x, y = (round((low + high - side) / 2) for low, high in ((left, right), (top, bottom)))
    columns = np.clip(np.arange(x, x + side), 0, width - 1)
    rows = np.clip(np.arange(y, y + side), 0, height - 1)
    return picture[np.ix_(rows, columns)]


def main(
    source: Annotated[Path, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    size: int = 32,
    margin: float = 0.1,
) -> None:
    """Cuts blood cells out by their boxes."""
    for what, count in crops(source, out, size=size, margin=margin).items():
        print(f"{what}: {count:,}")


if __name__ == "__main__":
    tyro.cli(main)
