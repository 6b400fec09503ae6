"""A column of classes: one label for each example."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnets.errors import UserError
from jaxnets.files import write_json
from jaxnets.media.provenance import record
from jaxnets.media.report import Table

__all__ = ["Classes", "class_of"]


@dataclasses.dataclass(frozen=True)
class Classes:
    """Labels [N] int32, each in 0 .. K - 1.

    Attributes:
      names: of the K classes; empty where nobody has told how many there are.
    """

    names: tuple[str, ...] = ()

    kind = "classes"
    shape = ()
    stored = np.dtype(np.int32)
    dtype = np.dtype(np.int32)

    def check(self, rows: np.ndarray, where: str) -> None:
        """Looks whether labels lie in 0 .. K - 1.

        Raises:
          UserError: it names the first that does not, and the example that has it.
        """
        limit = len(self.names) or np.iinfo(np.int32).max
        wrong = np.flatnonzero((rows < 0) | (rows >= limit))
        if len(wrong):
            others = f", and so are those of {len(wrong) - 1:,} more" if len(wrong) > 1 else ""
            allowed = f"0..{limit - 1} (num_classes={limit})" if self.names else "0..K-1"
            raise UserError(
                f"label {rows[wrong[0]]} of example {wrong[0]} in {where} is outside "
                f"{allowed}{others}"
            )

    def decode(self, rows: Any) -> Any:
        """The labels themselves."""
        return rows.astype(np.int32)

    def encode(self, values: Any) -> Any:
        """The labels themselves."""
        return values.astype(np.int32)

    def name(self, label: int) -> str:
        """The name of a class, its number where it has none."""
        return self.names[label] if 0 <= label < len(self.names) else str(label)

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """[K] examples of each class."""
        return np.bincount(rows, minlength=len(self.names))

    def show(self, rows: np.ndarray, names: Sequence[str] | None = None) -> Table:
        """How many examples each class has."""
        del names
        return Table(list(zip(self.names, self.counts(rows).tolist(), strict=True)), ("", "count"))

    def write(
        self,
        rows: np.ndarray,
        folder: Path,
        about: Mapping[str, Any],
        labels: Sequence[str | int] | None = None,
    ) -> list[Path]:
        """Writes `classes.json`: the mark, and the name of each row's class."""
        del labels
        path = folder / "classes.json"
        write_json(path, {**record(about), "classes": [self.names[row] for row in rows]})
        return [path]

    def noise(self, count: int, seed: int) -> np.ndarray:
        """Classes drawn without looking."""
        rng = np.random.default_rng(seed)
        return rng.integers(0, len(self.names), count).astype(np.int32)

    def statistics(self, rows: np.ndarray) -> dict[str, Any]:
        """`class_counts`, by name."""
        return {"class_counts": dict(zip(self.names, self.counts(rows).tolist(), strict=True))}


def class_of(names: Sequence[str], label: str | int) -> int:
    """The number of a class that is asked for by its name or its number.

    A text is a name first, in any case if no other name differs in its case alone; else a number.

    Raises:
      UserError: if there is no such class, it names those that come near; or no class at all.
    """
    if not names:
        raise UserError("this network was trained without classes: ask for none of them")
    if isinstance(label, str):
        folded = [name.casefold() for name in names]
        for known, wanted in ((list(names), label), (folded, label.casefold())):
            if known.count(wanted) == 1:
                return known.index(wanted)
    with_number = str(label).strip()
    if with_number.isdecimal() and int(with_number) < len(names):
        return int(with_number)
    near = difflib.get_close_matches(str(label), names, 3, 0.5)
    told = ", ".join(
        name if name == str(number) else f"{number} {name}"
        for number, name in enumerate(names[:10])
    )
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    hint = f"did you mean {' or '.join(near)}? The" if near else "the"
    raise UserError(f"there is no class {str(label)[:60]!r}; {hint} classes are {told}{more}")
