"""What the rows of one array are: the protocol of a column, and columns as JSON."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxnets.media.report import Section

__all__ = ["Column"]


class Column(Protocol):
    """What the rows of one array are, how networks see them, and how people do.

    A column is a frozen dataclass of plain values, so that it can be kept as JSON beside the
    arrays. `jaxnets.columns.KINDS` has all kinds.

    Attributes:
      kind: its name among `KINDS`.
      shape: of one row; stored rows and decoded rows have the same.
      stored: type of the rows as they are stored.
      dtype: type of the rows as networks see them.
    """

    @property
    def kind(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def stored(self) -> np.dtype: ...
    @property
    def dtype(self) -> np.dtype: ...

    def check(self, rows: np.ndarray, where: str) -> None:
        """Looks at the values of stored rows [N, *shape].

        Args:
          rows: of the type `stored`.
          where: what holds them, for the error.

        Raises:
          UserError: it names the first row that cannot be, and why.
        """
        ...

    def decode(self, rows: Any) -> Any:
        """Stored rows [B, *shape] as networks see them, with the same bits on every backend.

        Args:
          rows: of NumPy or JAX; the result is of the same library.
        """
        ...

    def encode(self, values: Any) -> Any:
        """The inverse of `decode`: what a network made, as stored rows."""
        ...

    def show(self, rows: np.ndarray, names: Sequence[str] | None = None) -> Section:
        """A section of a report with stored rows [N, *shape], each with its name where given."""
        ...

    def write(
        self,
        rows: np.ndarray,
        folder: Path,
        about: Mapping[str, Any],
        labels: Sequence[str | int] | None = None,
    ) -> list[Path]:
        """Writes stored rows as files that carry the mark of synthetic content.

        Args:
          rows: [N, *shape], made by a network.
          folder: where; it is made if need be.
          about: what the mark says of them all (see `jaxnets.media.provenance.mark`).
          labels: what it says of each.

        Returns:
          The files, in the order of the rows.
        """
        ...

    def noise(self, count: int, seed: int) -> np.ndarray:
        """Stored rows [count, *shape] without any structure: the worst samples there are."""
        ...

    def statistics(self, rows: np.ndarray) -> dict[str, Any]:
        """Numbers that describe stored rows, as values that JSON can hold."""
        ...
