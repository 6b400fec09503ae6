"""`--sweep NAME=VALUES`: one network, or GAN, for each value of a number, in one program."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from jaxnets.commands.configs.constraints import Needs, Swept, constraints, flag, is_ramp
from jaxnets.errors import UserError
from jaxnets.registry import check_name

T = TypeVar("T")

#: Other names of fields -> those of the configs.
_OTHER_NAMES = {"gamma": "penalty_weight", "lambda": "penalty_weight"}

#: First part of a swept number's name in the state's `extra`.
_PREFIX = "sweep/"


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What is swept.

    Attributes:
      field: of the config.
      values: one for each network, or GAN.
    """

    field: str
    values: tuple[float, ...]

    @property
    def key(self) -> str:
        """Its name in a state's `extra`."""
        return _PREFIX + self.field

    def names(self) -> list[str]:
        """Of the members, such as "penalty_weight=0.1"."""
        return [f"{self.field}={value:g}" for value in self.values]


def _field(name: str) -> str:
    """The config's field that a name of a number means, known or not."""
    field = name.strip().removeprefix("--").replace("-", "_")
    return _OTHER_NAMES.get(field, field)


def canonical(member: str) -> str:
    """A member's name, as `names` has it, of a text such as "gamma=0.10" or "gamma=0.10,seed-1"."""
    swept, comma, seed = member.partition(",")
    name, equals, value = swept.partition("=")
    try:
        return f"{_field(name)}{equals}{float(value):g}{comma}{seed.strip()}"
    except ValueError:
        return member.strip()


def sweep_of(config: Any) -> Sweep | None:
    """What a run sweeps, None if nothing.

    Raises:
      UserError: for a text that is not NAME=VALUE,..., or a name that is no number of the step.
    """
    text = getattr(config, "sweep", "")
    if not text:
        return None
    name, equals, rest = text.partition("=")
    field = _field(name)
    known = [name for name, _ in constraints(config, Swept)]
    if field not in known:
        others = [other for other, own in _OTHER_NAMES.items() if own in known]
        check_name("number for --sweep", name, [*known, *others])
    try:
        values = tuple(float(value) for value in rest.split(","))
    except ValueError:
        values = ()
    if not equals or len(values) < 2 or len(set(values)) < len(values):
        raise UserError(
            f"--sweep {text!r} must be NAME=VALUE,VALUE,... with at least two different numbers, "
            f"such as {field}=0.01,0.1,1"
        )
    if not all(math.isfinite(value) for value in values):
        raise UserError(f"--sweep {text!r}: every value must be finite")
    if len({f"{value:g}" for value in values}) < len(values):
        raise UserError(f"--sweep {text!r}: values differ in their seventh digit only")
    return Sweep(field, values)


def is_swept(config: Any, field: str) -> bool:
    """Whether the members differ in this field."""
    sweep = sweep_of(config)
    return sweep is not None and sweep.field == field


def uses(config: Any, weight: str) -> bool:
    """Whether the term with this weight is in a loss: it is above zero, or swept."""
    return getattr(config, weight) > 0 or is_swept(config, weight)


def check(config: Any) -> None:
    """Fails, in one sentence, for a sweep that means nothing in this run."""
    sweep = sweep_of(config)
    if sweep is None:
        return
    for name, needs in constraints(config, Needs):
        if name == sweep.field and not needs.met(config):
            raise UserError(f"--sweep {name} needs {needs.what}")
    if is_ramp(getattr(config, sweep.field)):
        own = flag(sweep.field)
        raise UserError(
            f"--sweep {sweep.field}: {own} goes from one value to another; leave it out"
        )


def each(config: T) -> list[T]:
    """The configs whose numbers the members have; of a run without a sweep, its own alone."""
    sweep = sweep_of(config)
    if sweep is None:
        return [config]
    members = [dataclasses.replace(config, **{sweep.field: v}) for v in sweep.values]  # type: ignore[type-var]
    return [config, *members]


def swept(extra: Mapping[str, Any]) -> dict[str, Any]:
    """The swept numbers among a member's `extra`, by field."""
    return {k.removeprefix(_PREFIX): v for k, v in extra.items() if k.startswith(_PREFIX)}


#: Numbers that networks are compared by -> what a table calls them.
MEASURES = {
    "frechet": "Frechet distance",
    "samples_precision": "precision",
    "samples_recall": "recall",
    "samples_pixel_spread": "spread by pixels",
    "validation_accuracy": "validation accuracy",
    "test_accuracy": "test accuracy",
    "test_loss": "test loss",
}

_FLATTERS = "chosen by test examples, it looks better than it is: use --validation-fraction 0.1"

#: Those that say which value is the best; a report shows the best by the first that was measured.
_DECIDING = ("frechet", "samples_recall", "validation_accuracy", "test_accuracy")


def _measured(among: Iterable[str], names: Sequence[str], numbers: Mapping) -> list[str]:
    return [measure for measure in among if f"{measure}/{names[0]}" in numbers]


def _best(measure: str) -> tuple[Callable[..., Any], str]:
    """How the best is chosen, as a function and in words."""
    least = measure == "frechet"
    return min if least else max, f"the {'least' if least else 'greatest'} {MEASURES[measure]}"


def best_member(config: Any, names: Sequence[str], numbers: Mapping[str, Any]) -> tuple[int, str]:
    """Which member a report shows, and why.

    Args:
      config: of the run.
      names: of its members.
      numbers: the run's, with `number/member`.

    Returns:
      The number of the best, and a sentence; 0 and "" where nothing is swept.
    """
    if sweep_of(config) is None:
        return 0, ""
    measure = next(iter(_measured(_DECIDING, names, numbers)), "")
    values = [float(numbers.get(f"{measure}/{name}", math.nan)) for name in names]
    known = [i for i, value in enumerate(values) if math.isfinite(value)]
    if not known:
        return 0, f"The report shows {names[0]}; which is the best was not measured."
    choose, what = _best(measure)
    best = choose(known, key=values.__getitem__)
    return best, f"The report shows {names[best]}, which has {what}."


def _shown(value: float, measure: str) -> str:
    return f"{value:.2%}" if measure.endswith("accuracy") else f"{value:.4g}"


def winners(
    config: Any, names: Sequence[str], numbers: Mapping[str, Any]
) -> tuple[list[list[str]], list[str]]:
    """How the members of a sweep compare.

    Args:
      config: of the run.
      names: of its members.
      numbers: the run's, with `number/member`.

    Returns:
      Rows of a table, a header first, of each value (mean and standard deviation of the seeds); and
      sentences that say which value is the best by which number. Nothing where none is swept.
    """
    sweep = sweep_of(config)
    if sweep is None:
        return [], []
    measures = _measured(MEASURES, names, numbers)
    table = [[sweep.field, *(MEASURES[measure] for measure in measures)]]
    found: dict[str, dict[float, list[float]]] = {measure: {} for measure in measures}
    for value, of_value in zip(sweep.values, sweep.names(), strict=True):
        members = [name for name in names if name.partition(",")[0] == of_value]
        table.append([f"{value:g}"])
        for measure in measures:
            each = [numbers[f"{measure}/{member}"] for member in members]
            each = [number for number in each if math.isfinite(number)]
            cell = "not known"
            if each:
                found[measure][value] = each
                spread = f" +- {_shown(statistics.stdev(each), measure)}" if each[1:] else ""
                lost = f" ({len(members) - len(each)} diverged)" * (len(each) < len(members))
                cell = f"{_shown(statistics.fmean(each), measure)}{spread}{lost}"
            table[-1].append(cell)
    told = []
    for measure in _measured(_DECIDING, names, numbers):
        (choose, what), of = _best(measure), found[measure]
        if measure == "test_accuracy" and "validation_accuracy" in measures:
            continue
        means = {value: statistics.fmean(each) for value, each in of.items()}
        if len(set(means.values())) > 1:
            value = choose(means, key=means.__getitem__)
            mean, doubt = _shown(means[value], measure), _doubt(value, of)
            told.append(f"{sweep.field} = {value:g} has {what}, {mean}{doubt}")
            if measure == "test_accuracy":
                told.append(_FLATTERS)
        elif len(means) > 1:
            told.append(f"none has {what}: all have {_shown(next(iter(means.values())), measure)}")
    return table, told


def _doubt(best: float, of: Mapping[float, Sequence[float]]) -> str:
    """Says where the best value may be so by chance; `of`: value -> the numbers of its seeds."""
    if any(len(each) < 2 for each in of.values()):
        return " (of one seed each: --seeds 3 says whether that is chance)"
    mean = {value: statistics.fmean(each) for value, each in of.items()}
    error = {value: statistics.variance(each) / len(each) for value, each in of.items()}
    alike = [
        f"{value:g}"
        for value in of
        if value != best
        and abs(mean[value] - mean[best]) < 2 * math.sqrt(error[value] + error[best])
    ]
    return f" (not significantly better than {', '.join(alike)})" * bool(alike)
