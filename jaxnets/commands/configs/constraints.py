"""What the numbers of flags may be: constraints that stand beside the flags, in their types."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterator
from typing import Any

#: float32 holds nothing beyond.
MAX_FLOAT = 3.4e38
#: Steps are counted in int32.
MAX_STEPS = 2**31 - 1
#: Of one population: each member has a pipeline, and a name in every record.
MAX_MEMBERS = 1024


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers that a flag may have; written as `Annotated[int, Range(least=1)]`.

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
EPOCHS = Range(above=0, most=MAX_STEPS)


def ranges(kind: type) -> Iterator[tuple[str, Range]]:
    """The fields of a dataclass that have a range, in their order."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        for constraint in getattr(hints[field.name], "__metadata__", ()):
            if isinstance(constraint, Range):
                yield field.name, constraint


def check(config: Any) -> None:
    """Fails, in one sentence, for a number that its flag cannot have.

    Floats must be finite in float32, whatever their flag says. A field that is None or a text is
    passed over, and of a tuple each number is looked at.

    Raises:
      UserError: it names flag, constraint and value.
    """
    from jaxnets.errors import UserError

    def refuse(name: str, what: object, value: object) -> None:
        raise UserError(f"--{name.replace('_', '-')} must be {what}, got {value}")

    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, float) and not abs(value) <= MAX_FLOAT:
            what = "finite" if not math.isfinite(value) else f"finite, at most {MAX_FLOAT:g}"
            refuse(field.name, what, value)
    for name, allowed in ranges(type(config)):
        value = getattr(config, name)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not allowed.holds(number):
                refuse(name, allowed, number)
