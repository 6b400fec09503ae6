"""Trained detectors and what one does with them: the objects in pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from jaxnets.columns import Image
from jaxnets.data.sources.objects import Letterboxed
from jaxnets.errors import UserError
from jaxnets.judge.detection import in_pixels, look_with
from jaxnets.media.boxes import drawn
from jaxnets.run.trained import Trained, Unreadable, by_batches, in_power_of_two, usable

__all__ = ["Found", "TrainedDetector"]

_BATCH = 16


class Found(NamedTuple):
    """What a detector finds in one picture, the surest first.

    Attributes:
      source: the file, or "row 3" of an array.
      size: (height, width) of the picture.
      boxes: [N, 4] left, top, right and bottom in its pixels.
      labels: [N] class of each.
      names: of these classes.
      scores: [N] in (0, 1).
    """

    source: str
    size: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    scores: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedDetector(Trained):
    """A detector of a run."""

    kind = "detector"
    reader: ClassVar[Letterboxed] = Letterboxed()

    @cached_property
    def _look(self) -> Any:
        return look_with(self.module)

    def predict(self, inputs: Any, *, least: float = 0.3) -> list[Found]:
        """The objects in pictures.

        Args:
          inputs: files (a path, a folder, a pattern such as "pictures/*.jpg", or a list of these),
            of any size; or stored rows [N, H, W, C] uint8 of the network's size.
          least: score of an object that is told.

        Returns:
          A record for each picture, in their order.

        Raises:
          UserError: names the files that can't be used, or rows of another shape or type.
        """
        return [r for r in usable(self.stream(inputs, least=least)) if isinstance(r, Found)]

    def stream(self, inputs: Any, *, least: float = 0.3) -> Iterator[Found | Unreadable]:
        """As `predict`, one record after the other; a file that can't be used is among them."""
        column: Any = self.columns["inputs"]
        frame = column.shape[:2]
        of_files = not isinstance(inputs, np.ndarray | jax.Array)
        for source, said in by_batches(self._examples(inputs), _BATCH, self._found):
            if isinstance(said, str):
                yield Unreadable(source, said)
                continue
            size = frame
            if of_files:
                header = self.reader.header(Path(source))
                if isinstance(header, str):
                    yield Unreadable(source, header)
                    continue
                size = header.size
            boxes, labels, scores = said
            kept = scores >= least
            names = tuple(self.class_names[label] for label in labels[kept])
            places = in_pixels(boxes[kept], size, frame)
            yield Found(source, size, places, labels[kept], names, scores[kept])

    def _found(self, rows: np.ndarray) -> Iterator[tuple[Any, ...]]:
        """(boxes, labels, scores) of up to a batch of stored rows."""

        def look(rows: np.ndarray) -> Sequence[Any]:
            said = self._look(self._placed, self.columns["inputs"].decode(rows))
            return [said[name] for name in ("boxes", "labels", "scores")]

        return in_power_of_two(rows, look)

    def picture(self, record: Found) -> np.ndarray:
        """The picture of a record's file in its own size with what was found, [H, W, 3] uint8.

        Raises:
          UserError: if the file can't be read any more.
        """
        path = Path(record.source)
        row = self.reader.row(path, Image((*record.size, 3)))
        if isinstance(row, str):
            raise UserError(f"{path} can't be used: {row}")
        texts = [f"{n} {s:.0%}" for n, s in zip(record.names, record.scores, strict=True)]
        return drawn(row, record.boxes, record.labels, texts=texts)
