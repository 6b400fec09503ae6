"""Rows that are read when they are asked for: what a large set has in the place of an array."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxnets.columns import Column
from jaxnets.data.order import generator
from jaxnets.errors import UserError

__all__ = ["LazyRows", "cores"]

logger = logging.getLogger(__name__)

#: Streams of a seed from here on draw views; those below draw the orders of epochs.
_VIEWS = 2**40
_NAMED = 10


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class LazyRows:
    """Rows [N, ...] of a column, indexed like an array by a slice or by integers [M].

    A file that can't be read has the next one of its class in its place, and is named in a warning:
    a training of days does not end by one damaged file.

    Attributes:
      items: [N], what each row is read from.
      shape: (N, ...).
      dtype: of the rows.
    """

    def __init__(
        self,
        items: np.ndarray,
        labels: np.ndarray,
        column: Column,
        read: Callable[[Any, Column, np.random.Generator | None], np.ndarray | str],
    ) -> None:
        """Joins what is known of the rows. Can be pickled if `read` can.

        Args:
          items: [N], what a row is read from, such as the paths of files.
          labels: [N], of the classes.
          column: of the rows.
          read: (item, column, generator) -> a row, or why there is none; with a generator as it is
            seen in training, which may be in another way each time.
        """
        self.items, self._labels, self._column = items, labels, column
        self._read = read
        self.shape, self.dtype = (len(items), *column.shape), column.stored
        self._unreadable: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.items)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows, once they are read."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __getitem__(self, which: Any) -> np.ndarray:
        wanted = np.arange(len(self))[which]
        with ThreadPoolExecutor(cores()) as pool:
            found = list(pool.map(self._row, np.atleast_1d(wanted).tolist()))
        self.warn(dict(bad for _, bads in found for bad in bads))
        rows = np.stack([row for row, _ in found]) if found else self._empty()
        return rows if wanted.ndim else rows[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def take(self, which: Any) -> "LazyRows":
        """The rows `which` (a slice, or integers [M]), still unread."""
        items, labels = self.items[which], self._labels[which]
        return LazyRows(items, labels, self._column, self._read)

    def views(
        self, which: Sequence[int], seed: int, places: Sequence[int]
    ) -> tuple[np.ndarray, dict[str, str]]:
        """Rows to train on, which follow from the seed and their places in the endless stream.

        Args:
          which: [M] rows.
          seed: of the run.
          places: [M], of each in the stream (see `jaxnets.data.pipeline`).

        Returns:
          [M, ...], and the files that could not be read: name -> why.
        """
        found = [
            self._row(row, generator(seed, _VIEWS + place))
            for row, place in zip(which, places, strict=True)
        ]
        bad = dict(bad for _, bads in found for bad in bads)
        return np.stack([row for row, _ in found]) if found else self._empty(), bad

    def warn(self, unreadable: Mapping[str, str]) -> None:
        """Names files that could not be read: each once, and only so many."""
        for name, why in unreadable.items():
            if name not in self._unreadable:
                self._unreadable[name] = why
                if (count := len(self._unreadable)) <= _NAMED:
                    more = "; further ones are not named" if count == _NAMED else ""
                    logger.warning(
                        "%s can't be read (%s): the next of its class takes its place%s",
                        *(name, why, more),
                    )

    def _row(
        self, index: int, random: np.random.Generator | None = None
    ) -> tuple[np.ndarray, list[tuple[str, str]]]:
        """A row, and what could not be read before it was found."""
        bad: list[tuple[str, str]] = []
        for place in self._others(index):
            item = self.items[place].item()
            row = self._read(item, self._column, random)
            if not isinstance(row, str):
                return row, bad
            name = os.fsdecode(item) if isinstance(item, bytes) else f"example {item}"
            bad.append((name, row))
        name, why = bad[0]
        raise UserError(f"none of the {len(bad):,} files of a class can be read: {name} ({why})")

    def _others(self, index: int) -> Any:
        """The row itself, then the others of its class, from the next one on."""
        yield index
        alike = np.flatnonzero(self._labels == self._labels[index])
        start = int(np.searchsorted(alike, index)) + 1
        yield from (*alike[start:].tolist(), *alike[: start - 1].tolist())

    def _empty(self) -> np.ndarray:
        return np.zeros((0, *self.shape[1:]), self.dtype)
