"""What flags may be: constraints that stand beside them, in their types."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable, Iterator
from typing import Any

from jaxnets.errors import UserError

#: float32 holds nothing beyond.
MAX_FLOAT = 3.4e38
#: Steps are counted in int32.
MAX_STEPS = 2**31 - 1
#: Of one population: each member has a pipeline, and a name in every record.
MAX_MEMBERS = 1024

#: A number that may change while a run sees images: itself, or "START:END".
Ramp = float | str


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers that a flag may have; written as `Annotated[int, Range(least=1)]`.

    Of a `Ramp`, both ends must be in it.

    Attributes:
      least: itself allowed.
      above: not itself allowed.
      most: itself allowed.
      below: not itself allowed.
    """

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    def holds(self, number: float) -> bool:
        """Whether a number is in the range; NaN never is."""
        return (
            (self.least is None or number >= self.least)
            and (self.above is None or number > self.above)
            and (self.most is None or number <= self.most)
            and (self.below is None or number < self.below)
            and number == number
        )

    def __str__(self) -> str:
        if isinstance(self.least, int) and isinstance(self.most, int):
            return f"in {self.least}..{self.most}"
        named = {"at least": self.least, "above": self.above, "at most": self.most}
        named["below"] = self.below
        return " and ".join(
            f"{name} {bound:g}" for name, bound in named.items() if bound is not None
        )


SEED = Range(least=0, most=2**31 - 1)  # what every generator of random numbers takes
COUNT = Range(least=1)
NOT_NEGATIVE = Range(least=0)
POSITIVE = Range(above=0)
DECAY = Range(least=0, below=1)
SHARE = Range(least=0, most=1)
EPOCHS = Range(above=0, most=MAX_STEPS)


@dataclasses.dataclass(frozen=True)
class Needs:
    """That a flag means nothing without another; written into its type, as a `Range` is.

    Attributes:
      what: it needs, and how to have it; ends the sentence "--flag needs ...".
      met: whether a resolved config has it.
    """

    what: str
    met: Callable[[Any], bool]


@dataclasses.dataclass(frozen=True)
class Swept:
    """That --sweep may vary a number; written into its type, as a `Range` is."""


SWEPT = Swept()
T = typing.TypeVar("T", Range, Needs, Swept)


def constraints(config: Any, kind: type[T]) -> Iterator[tuple[str, T]]:
    """The fields of a dataclass, or of its type, that have a constraint of a kind, in order."""
    of = config if isinstance(config, type) else type(config)
    hints = typing.get_type_hints(of, include_extras=True)
    for field in dataclasses.fields(of):
        for constraint in getattr(hints[field.name], "__metadata__", ()):
            if isinstance(constraint, kind):
                yield field.name, constraint


def flag(name: str) -> str:
    """The flag of a field: "--penalty-weight"."""
    return f"--{name.replace('_', '-')}"


def check(config: Any) -> None:
    """Fails, in one sentence, for a number that its flag cannot have.

    Floats must be finite in float32, whatever their flag says. A field that is None is passed over,
    and of a tuple each number is looked at.

    Raises:
      UserError: it names flag, constraint and value.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, float) and not abs(value) <= MAX_FLOAT:
            what = "finite" if not math.isfinite(value) else f"finite, at most {MAX_FLOAT:g}"
            raise UserError(f"{flag(field.name)} must be {what}, got {value}")
    for name, allowed in constraints(config, Range):
        value = getattr(config, name)
        numbers: Any = value if isinstance(value, tuple) else (value,)
        if isinstance(value, str):
            numbers = ends(value, name)
        for number in numbers:
            if isinstance(number, int | float) and not allowed.holds(number):
                shown = value if isinstance(value, str) else number
                raise UserError(f"{flag(name)} must be {allowed}, got {shown}")


def check_needs(asked: Any, resolved: Any) -> None:
    """Fails, in one sentence, for a flag that was given without the one that it needs.

    Args:
      asked: the config as it was given.
      resolved: the same with every value in its place.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(asked)}
    for name, needs in constraints(asked, Needs):
        if getattr(asked, name) != defaults[name] and not needs.met(resolved):
            raise UserError(f"{flag(name)} needs {needs.what}")


def ends(value: Ramp, name: str) -> tuple[float, float]:
    """First and last value of a ramp, or a number twice.

    Args:
      value: a number, or the text "START:END".
      name: of its field, for errors.

    Raises:
      UserError: if it is neither.
    """
    try:
        numbers = [float(part) for part in str(value).split(":")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2):
        raise UserError(
            f"{flag(name)} takes a number, or START:END to go from one to another, got {value!r}"
        )
    if not all(abs(number) <= MAX_FLOAT for number in numbers):
        raise UserError(f"{flag(name)} must be finite, got {value}")
    return numbers[0], numbers[-1]


def is_ramp(value: Ramp | None) -> bool:
    """Whether it changes during the run."""
    return isinstance(value, str) and ":" in value
