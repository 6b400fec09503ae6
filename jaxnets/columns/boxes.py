"""A column of boxes: the objects of each picture."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnets.errors import UserError
from jaxnets.files import write_json
from jaxnets.media.provenance import record
from jaxnets.media.report import Table

__all__ = ["IGNORED", "NOTHING", "OBJECT", "STRIDE", "Boxes"]

#: What a row of a picture is: filling, an object, or one that counts neither way.
NOTHING, OBJECT, IGNORED = 0, 1, 2
#: Pixels from one place of a detector's maps to the next.
STRIDE = 4


@dataclasses.dataclass(frozen=True)
class Boxes:
    """Objects [N, M, 6] float32: left, top, right, bottom, class, and what the row is.

    Corners are shares of the picture's width and height, from 0 at the left and the top. The last
    number is `OBJECT`, `IGNORED` (what is difficult, or a crowd: neither to be found nor to be
    blamed for), or `NOTHING` where a picture has fewer objects than M; such rows are 0 throughout
    and stand last.

    Attributes:
      names: of the K classes.
      most: M, so many objects a picture can have.
    """

    names: tuple[str, ...]
    most: int

    kind = "boxes"
    stored = np.dtype(np.float32)
    dtype = np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, int]:
        """(M, 6)."""
        return self.most, 6

    def check(self, rows: np.ndarray, where: str) -> None:
        """Looks whether boxes lie inside their pictures, have a size and a class.

        Raises:
          UserError: it names the first picture with one that has not.
        """
        there = rows[..., 5] != NOTHING
        corners, labels, what = rows[..., :4], rows[..., 4], rows[..., 5]
        inside = (corners >= 0).all(axis=-1) & (corners <= 1).all(axis=-1)
        wrong = {
            "is no object, nor anything else that there is": ~np.isin(what, (0, 1, 2)),
            "is outside its picture": there & ~inside,
            "has no size": there & ~(corners[..., 2:] > corners[..., :2]).all(axis=-1),
            f"has a class outside 0..{len(self.names) - 1}": there
            & ~np.isin(labels, np.arange(len(self.names))),
        }
        for told, of in wrong.items():
            if of.any():
                picture, box = np.argwhere(of)[0]
                raise UserError(f"box {box} of picture {picture} in {where} {told}")

    def rows(
        self, boxes: np.ndarray, labels: np.ndarray, ignored: np.ndarray | None = None
    ) -> np.ndarray:
        """The objects of a picture as one row [M, 6].

        Args:
          boxes: [K, 4] in shares of the picture, K at most M.
          labels: [K].
          ignored: [K] bool; by default none is.
        """
        row = np.zeros(self.shape, np.float32)
        count = len(boxes)
        row[:count, :4], row[:count, 4], row[:count, 5] = boxes, labels, OBJECT
        if ignored is not None:
            row[:count, 5] = np.where(ignored, IGNORED, OBJECT)
        return row

    def decode(self, rows: Any) -> Any:
        """Networks see what is stored."""
        return rows.astype(np.float32)

    def encode(self, values: Any) -> Any:
        """The values themselves."""
        return values.astype(np.float32)

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """[K] objects of each class, those that count neither way left out."""
        labels = rows[rows[..., 5] == OBJECT][:, 4].astype(np.int64)
        return np.bincount(labels, minlength=len(self.names))

    def show(self, rows: np.ndarray, names: Sequence[str] | None = None) -> Table:
        """How many objects each class has."""
        del names
        return Table(list(zip(self.names, self.counts(rows).tolist(), strict=True)), ("", "count"))

    def write(
        self,
        rows: np.ndarray,
        folder: Path,
        about: Mapping[str, Any],
        labels: Sequence[str | int] | None = None,
    ) -> list[Path]:
        """Writes `boxes.json`: the mark, and the objects of each picture by class and corners."""
        del labels
        pictures = [
            [{"class": self.names[int(box[4])], "box": box[:4].tolist()} for box in row if box[5]]
            for row in rows
        ]
        path = folder / "boxes.json"
        write_json(path, {**record(about), "pictures": pictures})
        return [path]

    def noise(self, count: int, seed: int) -> np.ndarray:
        """Boxes anywhere, of any size and class."""
        rng = np.random.default_rng(seed)
        rows = np.zeros((count, *self.shape), np.float32)
        corners = np.sort(rng.random((count, self.most, 2, 2), np.float32), axis=2)
        rows[..., :4] = corners.reshape(count, self.most, 4)
        rows[..., 4] = rng.integers(0, len(self.names), rows.shape[:2])
        rows[..., 5] = OBJECT
        return rows

    def statistics(self, rows: np.ndarray) -> dict[str, Any]:
        """`class_counts` of the objects by name, and how many pictures are `empty`."""
        counts = dict(zip(self.names, self.counts(rows).tolist(), strict=True))
        return {"class_counts": counts, "empty": int((rows[..., 5] == 0).all(axis=1).sum())}
