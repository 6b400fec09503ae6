"""Trained inspectors and what one does with them: which pictures are faulty, and where."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from jaxnets.columns import Image
from jaxnets.data.sources.inspection import WholePictures
from jaxnets.errors import UserError
from jaxnets.judge.sampling import apply
from jaxnets.media.heat import painted
from jaxnets.run.trained import Trained, Unreadable, by_batches, in_power_of_two, usable

__all__ = ["Inspected", "TrainedInspector"]

#: Pictures of one call; fewer are padded.
_BATCH = 16


class Inspected(NamedTuple):
    """What an inspector says of one picture.

    Attributes:
      source: the file, or "row 3" of an array.
      score: how unusual it is.
      faulty: whether the score is above the run's threshold.
      heat_map: [H, W] float32, how unusual each pixel is, in the size that the run works with.
    """

    source: str
    score: float
    faulty: bool
    heat_map: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedInspector(Trained):
    """An inspector of a run: PaDiM, PatchCore or f-AnoGAN."""

    kind = "inspector"
    reader: ClassVar[WholePictures] = WholePictures()

    @property
    def threshold(self) -> float:
        """The score above which a picture is faulty."""
        return float(self.variables["memory"]["threshold"])

    @cached_property
    def _look(self) -> Any:
        return jax.jit(partial(apply, self.module))

    def predict(self, inputs: Any) -> list[Inspected]:
        """How unusual pictures are.

        Args:
          inputs: files (a path, a folder, a pattern such as "pictures/*.jpg", or a list of these),
            of any size; or stored rows [N, H, W, C] uint8.

        Returns:
          A record for each picture, in their order.

        Raises:
          UserError: names the files that can't be used, or rows of another shape or type.
        """
        return [r for r in usable(self.stream(inputs)) if isinstance(r, Inspected)]

    def stream(self, inputs: Any) -> Iterator[Inspected | Unreadable]:
        """As `predict`, one record after the other; a file that can't be used is among them."""
        limit = self.threshold
        for source, said in by_batches(self._examples(inputs), _BATCH, self._inspected):
            if isinstance(said, str):
                yield Unreadable(source, said)
                continue
            score, heat = said
            yield Inspected(source, float(score), bool(score > limit), heat)

    def _inspected(self, rows: np.ndarray) -> Iterator[tuple[Any, ...]]:
        """(score, map) of up to a batch of stored rows."""

        def look(rows: np.ndarray) -> Sequence[Any]:
            scores, rest = self._look(self._placed, self.columns["inputs"].decode(rows))
            return scores, rest["map"]

        return in_power_of_two(rows, look)

    def picture(self, record: Inspected) -> np.ndarray:
        """The picture of a record's file in its own size, red where it is unusual.

        Returns:
          [H, W, 3] uint8.

        Raises:
          UserError: if the file can't be read any more.
        """
        path = Path(record.source)
        header = self.reader.header(path)
        row = header if isinstance(header, str) else self.reader.row(path, Image((*header.size, 3)))
        if isinstance(row, str):
            raise UserError(f"{path} can't be used: {row}")
        return painted(row[None], self.heat(record.heat_map)[None])[0]

    def heat(self, maps: np.ndarray) -> np.ndarray:
        """Maps [..., H, W] on a scale from 0 to 1.

        0 is what half of all faultless pixels have at most. At a half is the threshold: what the
        share of faultless pictures that may raise a false alarm have somewhere.
        """
        low, high = np.asarray(self.variables["memory"]["levels"], np.float32)
        return np.clip((maps - low) / max(2 * (high - low), 1e-12), 0, 1)
