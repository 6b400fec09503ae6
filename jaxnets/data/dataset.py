"""What a data set is in memory."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxnets.columns import Boxes, Classes, Column, Image, infer, to_json
from jaxnets.data.lazy import LazyRows
from jaxnets.errors import UserError

__all__ = [
    "DataSet",
    "Split",
    "array_digest",
    "check_alike",
    "digests",
    "fingerprint_of",
    "first_unreadable",
    "missing_classes",
    "read_rows",
]


class Split:
    """Named arrays of equal length, one row for each example, and what the rows of each are.

    >>> Split(images, labels)  # [N, H, W, C] uint8 and [N] int32: images of classes
    >>> Split(images)  # unlabelled
    >>> Split(waves, labels, columns={"inputs": Sound(rate=16_000, length=8_000)})

    Attributes:
      arrays: name -> stored rows [N, ...]; often memory-mapped, so that rows cost memory only when
        touched, or `LazyRows` of files. "inputs" is always there, "target" where examples are
        labelled.
      columns: name -> the `Column` of each array.
    """

    def __init__(
        self,
        inputs: np.ndarray,
        target: np.ndarray | None = None,
        *,
        columns: Mapping[str, Column] | None = None,
        **others: np.ndarray,
    ) -> None:
        """Joins arrays.

        Args:
          inputs: what networks are shown.
          target: what they are to say of it; None leaves the examples unlabelled.
          columns: of the arrays; those of images [N, H, W, C] uint8 and of classes [N] int32 may
            be left out.
          **others: arrays that a task needs besides.

        Raises:
          UserError: for an array that is not as its column says, or of another length.
        """
        labelled = {} if target is None else {"target": target}
        self.arrays: Mapping[str, np.ndarray] = {"inputs": inputs, **labelled, **others}
        given = columns or {}
        self.columns: Mapping[str, Column] = {
            name: given[name] if name in given else infer(name, rows)
            for name, rows in self.arrays.items()
        }
        for name, rows in self.arrays.items():
            column = self.columns[name]
            if rows.dtype != column.stored or rows.shape[1:] != column.shape:
                wanted = ", ".join(map(str, ("N", *column.shape)))
                raise UserError(
                    f"{name} must be [{wanted}] {column.stored} ({column.kind}), "
                    f"not {rows.shape} {rows.dtype}"
                )
            if len(rows) != len(inputs):
                raise UserError(
                    f"{name} has {len(rows)} rows and inputs has {len(inputs)}: each example needs "
                    "one of both"
                )
        self._files = _mapped_files(*self.arrays.values())

    @property
    def inputs(self) -> np.ndarray:
        """What networks are shown, [N, ...]."""
        return self.arrays["inputs"]

    @property
    def target(self) -> np.ndarray:
        """What they are to say of it, [N, ...].

        Raises:
          UserError: if the examples are unlabelled.
        """
        if "target" not in self.arrays:
            raise UserError("these examples have no labels; give them: Split(inputs, target)")
        return self.arrays["target"]

    @property
    def labelled(self) -> bool:
        """Whether there is a target."""
        return "target" in self.arrays

    @property
    def lazy(self) -> bool:
        """Whether the inputs are still to be read."""
        return isinstance(self.inputs, LazyRows)

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        return sum(rows.nbytes for rows in self.arrays.values())

    def check_unchanged(self) -> None:
        """Looks whether a file that the rows are mapped from was written to since.

        One that was deleted or replaced stays what it was for those who have it mapped.

        Raises:
          UserError: if one was.
        """
        for path, before in self._files.items():
            now = _state(path)
            if now is not None and now[0] == before[0] and now != before:
                raise UserError(
                    f"{path} was changed while the data in it were in use; run the same command "
                    "again: what is damaged is prepared anew, and the run goes on from its newest "
                    "checkpoint"
                )

    def rows(self, which: Any) -> dict[str, np.ndarray]:
        """The rows `which` (a slice, or [M] integers) of every array."""
        return {name: rows[which] for name, rows in self.arrays.items()}

    def take(self, which: Any) -> "Split":
        """The examples `which` (a slice, or [M] integers), in that order; files stay unread."""
        taken: dict[str, Any] = {
            name: rows.take(which) if isinstance(rows, LazyRows) else rows[which]
            for name, rows in self.arrays.items()
        }
        return Split(columns=self.columns, **taken)

    def replace(self, *, columns: Mapping[str, Column] | None = None, **arrays: Any) -> "Split":
        """The split with other arrays, or other columns, in the place of some."""
        return Split(columns={**self.columns, **(columns or {})}, **{**self.arrays, **arrays})


def _mapped_files(*arrays: np.ndarray) -> dict[Path, tuple[int, ...]]:
    """The files that arrays are mapped from, and the state of each."""
    names = [getattr(array, "filename", None) for array in arrays]
    states = {Path(name): _state(Path(name)) for name in names if name is not None}
    return {path: state for path, state in states.items() if state is not None}


def _state(path: Path) -> tuple[int, ...] | None:
    """Which file it is, its size and when it was last written to; None where it is gone."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


@dataclass(frozen=True, eq=False)
class DataSet:
    """A named data set.

    Attributes:
      name: as given to `load`, such as "digits" or "tfds:cifar10".
      splits: always "train" and "test"; "validation" where the source has one. All have the same
        columns.
      class_names: one for each class; by default those of the target's column, or numbers up to
        the greatest label; none where examples are unlabelled.
      skipped: damaged files that were left out because the caller allowed it.
      notes: sentences on the data that their owner should know: what in a folder is not used, what
        was done to the files, which examples are copies.
      fingerprint: sha256 of columns and contents: equal on any machine that holds the same
        examples in the same order. By default it is computed.
      listing: file that names what the examples were made of (see `jaxnets.data.listing`), where
        that is files of the user's.

    Raises:
      UserError: on construction, if splits differ in their columns, or a value cannot be, such as
        a label outside 0 .. K - 1.
    """

    name: str
    splits: Mapping[str, Split]
    class_names: tuple[str, ...] = ()
    skipped: int = 0
    notes: tuple[str, ...] = ()
    fingerprint: str = ""
    listing: Path | None = None

    def __post_init__(self) -> None:
        splits = _of_classes(self.splits, self.class_names)
        object.__setattr__(self, "splits", splits)
        first = next(iter(splits))
        for which, split in splits.items():
            check_alike(split.columns, which, splits[first].columns, first)
            for array, rows in split.arrays.items():
                split.columns[array].check(rows, f'the split "{which}"')
        target = self.columns.get("target")
        names = target.names if isinstance(target, Classes | Boxes) else ()
        object.__setattr__(self, "class_names", names)
        if not self.fingerprint:
            seen = {which: digests(split) for which, split in splits.items()}
            object.__setattr__(self, "fingerprint", fingerprint_of(self.columns, seen))

    @property
    def columns(self) -> Mapping[str, Column]:
        """Of the arrays of each split."""
        return next(iter(self.splits.values())).columns

    @property
    def num_classes(self) -> int:
        """How many classes there are; labels run from 0 to one less."""
        return len(self.class_names)


def _of_classes(splits: Mapping[str, Split], names: Sequence[str]) -> dict[str, Split]:
    """The splits, their classes with names."""
    unnamed = [s for s in splits.values() if s.labelled and s.columns["target"] == Classes()]
    if unnamed and not names:
        count = 1 + max((int(s.target.max()) for s in unnamed if len(s)), default=-1)
        names = [str(label) for label in range(count)]
    if not names:
        return dict(splits)
    columns = {"target": Classes(tuple(names))}
    return {name: s.replace(columns=columns) if s.labelled else s for name, s in splits.items()}


def check_alike(
    columns: Mapping[str, Column], name: str, others: Mapping[str, Column], other: str
) -> None:
    """Looks whether two splits hold the same kinds of data.

    Raises:
      UserError: it names both splits and the first column in which they differ.
    """
    for array in {**others, **columns}:
        one, two = columns.get(array), others.get(array)
        if one != two:
            told = [f"{c.kind} {c.shape}" if c else "nothing" for c in (one, two)]
            raise UserError(
                f'the {array} of the split "{name}" are {told[0]} and those of "{other}" '
                f"{told[1]}; splits must hold the same (images: give one size with --image-size)"
            )


def digests(split: Split) -> list[str]:
    """The digest of each array of a split, in the order of the arrays."""
    return [array_digest(rows) for rows in split.arrays.values()]


def array_digest(array: np.ndarray) -> str:
    """Sha256 of type, shape and contents, as hexadecimal text."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def fingerprint_of(columns: Mapping[str, Column], digests: Mapping[str, Sequence[str]]) -> str:
    """Sha256 over what the columns are and, for each split, the digests of its arrays."""
    target = columns.get("target")
    names = list(target.names) if isinstance(target, Classes) else []
    # Images and classes tell no more than their arrays and the classes' names.
    other = [to_json(c) for c in columns.values() if not isinstance(c, Image | Classes)]
    told = [names, sorted((name, list(values)) for name, values in digests.items())]
    return hashlib.sha256(json.dumps(told + other).encode()).hexdigest()


def read_rows(source: Sequence[Any], rows: Sequence[int]) -> list[Any]:
    """Items of a random-access source, in one call where it can (1.6 times as fast for TFDS)."""
    many = getattr(source, "__getitems__", None)
    return list(many(rows)) if many else [source[row] for row in rows]


def first_unreadable(
    source: Sequence[Any], rows: Sequence[int], error: Exception
) -> tuple[int, str]:
    """Which of the rows that could not be read together can't be read alone, and why.

    Args:
      source: random access.
      rows: what `read_rows` failed on.
      error: how it failed, which is told of the first row where each can be read alone.
    """
    first = rows[0], error
    for row in rows:
        try:
            read_rows(source, [row])
        except Exception as own:  # readers and decoders raise all sorts on damaged bytes
            first = row, own
            break
    return first[0], f"{type(first[1]).__name__}: {' '.join(str(first[1]).split())[:200]}"


def missing_classes(split: Split, class_names: Sequence[str]) -> list[str]:
    """The names of the classes that no example of a split has.

    Args:
      split: with labels in 0..K-1.
      class_names: of the K classes.
    """
    there = set(np.unique(split.target).tolist())
    return [name for label, name in enumerate(class_names) if label not in there]
