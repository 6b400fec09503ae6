"""Numbers of a run that may change while it sees images: `0.05:0.005` on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optax

#: A flag's value: a number, or START:END.
Ramp = float | str


def ends(value: Ramp, flag: str) -> tuple[float, float]:
    """First and last value of what a flag says.

    Args:
      value: a number, or the text "START:END".
      flag: its name, for errors.

    Raises:
      UserError: if it is neither.
    """
    import math

    from jaxnets.commands.checks import MAX_FLOAT
    from jaxnets.errors import UserError

    parts = str(value).split(":")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2):
        raise UserError(
            f"--{flag} takes a number, or START:END to go from one to another, got {value!r}"
        )
    for number in numbers:
        if not math.isfinite(number) or abs(number) > MAX_FLOAT:
            raise UserError(f"--{flag} must be finite, got {value}")
    return numbers[0], numbers[-1]


def check(config: Any, name: str, low: float, high: float, what: str) -> None:
    """Fails, in one sentence, where a field's value leaves its range at either end.

    Args:
      config: has the field.
      name: of the field; None is not looked at.
      low: the least value.
      high: no value may reach it.
      what: the range in words.
    """
    from jaxnets.errors import UserError

    value, flag = getattr(config, name), name.replace("_", "-")
    if value is None:
        return
    if not all(low <= end < high for end in ends(value, flag)):
        raise UserError(f"--{flag} must be {what}, got {value}")


def is_ramp(value: Ramp | None) -> bool:
    """Whether it changes during the run."""
    return isinstance(value, str) and ":" in value


def value_of(value: Ramp, flag: str, images: float, batch_size: int) -> float | optax.Schedule:
    """The number, or the function of the step.

    Args:
      value: a number, or START:END.
      flag: its name, for errors.
      images: how many it takes from start to end.
      batch_size: images of a step.
    """
    from jaxnets.optimizers import over_images

    start, end = ends(value, flag)
    return over_images(start, end, images, batch_size) if is_ramp(value) else start
