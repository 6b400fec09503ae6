"""Trained inspectors and what one does with them: which pictures are faulty, and where."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnets.columns import Image
from jaxnets.data.sources.inspection import WholePictures
from jaxnets.data.sources.single import Example, list_files, read_examples
from jaxnets.errors import UserError
from jaxnets.judge.sampling import apply
from jaxnets.media.heat import painted
from jaxnets.run.trained import Trained, Unreadable, by_batches, usable

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

    def _inspected(self, rows: np.ndarray) -> list[tuple[np.float32, np.ndarray]]:
        """(score, map) of up to a batch of stored rows, padded to a power of two."""
        size = 1 << (len(rows) - 1).bit_length()
        filled = np.pad(rows, [(0, size - len(rows)), *[(0, 0)] * 3])
        scores, rest = self._look(self._placed, self.columns["inputs"].decode(filled))
        both = zip(np.asarray(scores), np.asarray(rest["map"]), strict=True)
        return list(islice(both, len(rows)))

    def _examples(self, inputs: Any) -> Iterator[Example]:
        if isinstance(inputs, np.ndarray | jax.Array):
            return self._rows(np.asarray(inputs))
        several = [inputs] if isinstance(inputs, str | Path) else list(inputs)
        return read_examples(list_files(several), self.columns["inputs"], WholePictures())

    def picture(self, record: Inspected) -> np.ndarray:
        """The picture of a record's file in its own size, red where it is unusual.

        Returns:
          [H, W, 3] uint8.

        Raises:
          UserError: if the file can't be read any more.
        """
        reader, path = WholePictures(), Path(record.source)
        header = reader.header(path)
        row = header if isinstance(header, str) else reader.row(path, Image((*header.size, 3)))
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
