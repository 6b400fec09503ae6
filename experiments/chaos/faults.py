"""A fault, what became of the run it struck, and how faults are drawn."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

T = TypeVar("T")

#: When a run is struck. "cold" and "compile" are starts that find nothing compiled; "save" is when
#: the folder of an unfinished checkpoint is there; "end" comes after the last step.
Phase = Literal["cold", "compile", "start", "train", "save", "end"]


@dataclasses.dataclass(frozen=True)
class Moment:
    """When a run is struck.

    Attributes:
      phase: which part of the process' life.
      fraction: how far into it, of the time it took the undisturbed run, in [0, 1).
      what: happens then, where the kind of fault leaves a choice.
    """

    phase: Phase
    fraction: float
    what: Any = None

    def __str__(self) -> str:
        when = f"{self.phase} {self.fraction:.2f}"
        return when if self.what is None else f"{self.what}, {when}"


@dataclasses.dataclass(frozen=True)
class Chain:
    """Faults that strike one run folder one after the other.

    Attributes:
      kind: of the faults: "kills", "terms" and so on.
      run: "classify" or "generate".
      number: which chain of its kind, from 1 on.
      faults: when it is struck, in order.
    """

    kind: str
    run: str
    number: int
    faults: tuple[Moment, ...]

    @property
    def name(self) -> str:
        """Of its folders and files."""
        return f"{self.kind}-{self.run}-{self.number}"


@dataclasses.dataclass
class Fault:
    """One fault that struck, and what became of it.

    Attributes:
      kind: "kills", "terms" and so on.
      run: "classify" or "generate".
      what: moment or damage, in words.
      at_seconds: how long the process had lived; None where none was struck.
      seconds: from the fault to what it led to: the end of the process that was told to end, or
        the verdict on a damaged checkpoint; None for what is immediate.
      outcome: in words.
      lost: what went wrong, in one sentence; None for a fault that was survived.
      folder: where what is left of a lost one lies.
    """

    kind: str
    run: str
    what: str
    at_seconds: float | None = None
    seconds: float | None = None
    outcome: str = ""
    lost: str | None = None
    folder: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """As JSON types, times rounded to milliseconds."""
        values: dict[str, Any] = {"kind": self.kind, "run": self.run, "when": self.what}
        for name in ("at_seconds", "seconds"):
            value = getattr(self, name)
            if value is not None:
                values[name] = round(value, 3)
        values |= {"outcome": self.outcome, "survived": self.lost is None}
        if self.lost is not None:
            values |= {"lost": self.lost, "folder": str(self.folder)}
        return values


def last_line(faults: Sequence[Fault]) -> str:
    """`N faults, N survived, N lost`."""
    lost = sum(fault.lost is not None for fault in faults)
    return f"{len(faults)} faults, {len(faults) - lost} survived, {lost} lost"


def lose(faults: Sequence[Fault], why: str, folder: Path) -> None:
    """Marks faults as lost, but for those that are so already."""
    for fault in faults:
        if fault.lost is None:
            fault.lost, fault.folder = why, folder


def shares(count: int, runs: Sequence[str]) -> dict[str, int]:
    """A count of faults, spread evenly over runs; the first ones get what is left over."""
    each, rest = divmod(count, len(runs))
    return {run: each + (i < rest) for i, run in enumerate(runs)}


def dealt(deck: Sequence[T], rng: random.Random) -> Iterator[T]:
    """Draws without end: the whole deck in a random order, then in another, so all come up."""
    while True:
        yield from rng.sample(list(deck), len(deck))


def in_chains(kind: str, run: str, faults: Sequence[Moment], length: int) -> list[Chain]:
    """Faults cut into chains of at most this length."""
    parts = [tuple(faults[i : i + length]) for i in range(0, len(faults), length)]
    return [Chain(kind, run, number, part) for number, part in enumerate(parts, start=1)]
