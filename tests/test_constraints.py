"""Constraints beside the flags: what they hold, how they are told, and that defaults keep them."""

import dataclasses
import math
from typing import Annotated

import pytest

import hostile
from jaxnets.commands.configs import constraints
from jaxnets.commands.configs.constraints import Needs, Ramp, Range
from jaxnets.errors import UserError


@pytest.mark.parametrize(
    "allowed,inside,outside,told",
    [
        (Range(least=1), [1, 2**40], [0, -3, math.nan], "at least 1"),
        (Range(above=0), [1e-30, 2.0], [0.0, -1.0], "above 0"),
        (Range(least=0, below=1), [0.0, 0.999], [1.0, -1e-9], "at least 0 and below 1"),
        (Range(above=0, most=1), [1.0], [0.0, 1.001], "above 0 and at most 1"),
        (Range(least=2, most=9), [2, 9], [1, 10], "in 2..9"),
    ],
    ids=lambda value: str(value) if isinstance(value, Range) else "",
)
def test_what_a_range_holds_and_how_it_is_told(allowed, inside, outside, told):
    assert [allowed.holds(number) for number in inside] == [True] * len(inside)
    assert [allowed.holds(number) for number in outside] == [False] * len(outside)
    assert str(allowed) == told


@dataclasses.dataclass(frozen=True)
class Config:
    count: Annotated[int, Range(least=1)] = 1
    shares: Annotated[tuple[float, ...] | None, Range(above=0, below=1)] = None
    free: float | None = None
    rate: Annotated[Ramp | None, Range(least=0, below=1)] = None
    power: Annotated[float, Needs("a rate: set one with --rate", lambda c: c.rate is not None)] = (
        2.0
    )


@pytest.mark.parametrize(
    "values,said",
    [
        ({"count": 0}, "--count must be at least 1, got 0"),
        ({"shares": (0.5, 1.0)}, "--shares must be above 0 and below 1, got 1.0"),
        ({"free": math.inf}, "--free must be finite, got inf"),
        ({"free": 1e39}, "--free must be finite, at most 3.4e+38, got 1e+39"),
        ({"rate": "0:1"}, "--rate must be at least 0 and below 1, got 0:1"),
        ({"rate": "-0.1:0.5"}, "--rate must be at least 0 and below 1, got -0.1:0.5"),
        ({"rate": "0:inf"}, "--rate must be finite, got 0:inf"),
        (
            {"rate": "0:1:2"},
            "--rate takes a number, or START:END to go from one to another, got '0:1:2'",
        ),
    ],
)
def test_the_first_number_that_is_out_of_its_range_is_named(values, said):
    constraints.check(Config(count=3, shares=(0.1, 0.9), free=-2.0, rate="0.9:0"))
    constraints.check(Config())
    with pytest.raises(UserError) as error:
        constraints.check(Config(**values))
    assert str(error.value) == said


def test_a_flag_that_needs_another_says_which():
    asked = Config(power=3.0)
    with pytest.raises(UserError, match=r"^--power needs a rate: set one with --rate$"):
        constraints.check_needs(asked, asked)
    constraints.check_needs(asked, Config(rate=0.5))
    constraints.check_needs(Config(), Config())


def test_what_a_command_does_by_default_keeps_its_constraints():
    for config in hostile.COMMANDS.values():
        constraints.check(config)
