"""The fixed ways to divide a data set, with copies on one side."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxnets.data.dataset import Split
from jaxnets.data.lazy import LazyRows
from jaxnets.data.listing import some_of
from jaxnets.data.order import generator
from jaxnets.errors import UserError

__all__ = [
    "first_copies",
    "joined",
    "row_hashes",
    "set_apart",
    "split_validation",
    "stratified_indices",
    "take_per_class",
]


def row_hashes(rows: np.ndarray) -> list[bytes]:
    """A hash of each row's bytes: equal rows, equal hashes."""
    return [
        hashlib.blake2b(np.ascontiguousarray(row).data, digest_size=16).digest() for row in rows
    ]


def first_copies(rows: np.ndarray | LazyRows) -> np.ndarray:
    """For each row the position of the first row that is byte for byte the same, [N].

    Of rows that are still to be read, each counts as one of its own.
    """
    if isinstance(rows, LazyRows):
        return np.arange(len(rows))
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(h, i) for i, h in enumerate(row_hashes(rows))], np.int64)


def stratified_indices(
    labels: np.ndarray, fraction: float, seed: int, originals: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Divides every class alike.

    A class of two or more examples keeps at least one on either side; a single one stays in the
    first part.

    Args:
      labels: [N] integers.
      fraction: share of each class that goes into the second part, inside (0, 1).
      seed: chooses which.
      originals: for each example the one that it is a copy of, or itself, [N]; copies stay with
        it, and count as one example.

    Returns:
      Two sorted arrays of positions that together are 0 .. N - 1.

    Raises:
      UserError: the fraction is not inside (0, 1).
    """
    if not 0 < fraction < 1:
        raise UserError(f"the fraction to split off must lie between 0 and 1, not {fraction}")
    second = []
    originals = np.arange(len(labels)) if originals is None else originals
    for label in np.unique(labels):
        rows = np.flatnonzero((labels == label) & (originals == np.arange(len(labels))))
        count = min(max(round(fraction * len(rows)), 1), max(0, len(rows) - 1))
        second.append(generator(seed, int(label)).permutation(rows)[:count])
    chosen = np.zeros(len(labels), bool)
    if second:
        chosen[np.concatenate(second)] = True
    chosen = chosen[originals]
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def set_apart(
    labels: np.ndarray, names: Sequence[str], originals: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Sets a fifth of every class apart for testing, always the same: see `stratified_indices`.

    Returns:
      Sorted positions to train on and to test on, and a note on classes that have none to test on.

    Raises:
      UserError: there is none to test on.
    """
    first, second = stratified_indices(labels, 0.2, 20, originals)
    if not len(second):
        raise UserError("every class has a single example (copies count once): add some to test on")
    if not (lone := sorted({*labels.tolist()} - {*labels[second].tolist()})):
        return first, second, []
    alone = some_of(names[int(label)] for label in lone)
    return first, second, [f"no example of {alone} is left to test on: a class needs two or more"]


def split_validation(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Splits a validation part off: the same share of every class, of unlabelled data of all.

    Exact copies stay together.

    Args:
      split: the examples to divide, usually those of "train".
      fraction: share of each class that goes into the validation part, inside (0, 1).
      seed: chooses which.

    Returns:
      What remains, and the validation part.

    Raises:
      UserError: the fraction is not inside (0, 1), or leaves one part empty.
    """
    labels = split.target if split.labelled else np.zeros(len(split), np.int32)
    rest, validation = stratified_indices(labels, fraction, seed, first_copies(split.inputs))
    if not len(rest) or not len(validation):
        raise UserError(
            f"{len(split)} examples can't be divided by {fraction}: every class needs two or more"
        )
    return split.take(rest), split.take(validation)


def take_per_class(
    split: Split, n: int | None, seed: int, *, rare: Mapping[int, int] | None = None
) -> Split:
    """Some examples of each class, for learning from few labels, or with rare classes.

    A larger number with the same seed contains the smaller choice.

    Args:
      split: where to choose from.
      n: how many of each class; None for all.
      seed: chooses which.
      rare: label -> how many of that class instead.

    Returns:
      The chosen rows, in their order in `split`.

    Raises:
      UserError: a class has fewer examples than are asked for, or that number is not positive.
    """
    rare = rare or {}
    classes, counts = np.unique(split.target, return_counts=True)
    there = dict(zip(classes.tolist(), counts.tolist(), strict=True))
    target: Any = split.columns["target"]
    for label, count in rare.items():
        if not 1 <= count <= (most := there.get(label, 0)):
            name = target.name(label)
            raise UserError(f"can't take {count} examples of the rare class {name}: it has {most}")
    others = {label: count for label, count in there.items() if label not in rare}
    if n is not None and (n < 1 or n > min(others.values(), default=n if rare else 0)):
        smallest = "none exist"
        if others:
            least = min(others, key=lambda label: others[label])
            smallest = f"class {target.name(least)} has {others[least]}"
        raise UserError(f"can't take {n} examples of each class: {smallest}")
    rows = [
        generator(seed, label).permutation(np.flatnonzero(split.target == label))[
            : rare.get(label, n)
        ]
        for label in there
    ]
    return split.take(np.sort(np.concatenate(rows)))


def joined(*splits: Split) -> Split:
    """The examples of all splits, one after the other; each must hold the same kinds of data."""
    first = splits[0]
    names = first.arrays
    arrays: dict[str, Any] = {n: np.concatenate([s.arrays[n] for s in splits]) for n in names}
    return first.replace(**arrays)
