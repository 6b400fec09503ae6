"""`generate --sweep NAME=VALUES`: one GAN for each value of a number, in one program."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from jaxnets.commands.configs.constraints import flag, is_ramp
from jaxnets.errors import UserError
from jaxnets.registry import check_name

T = TypeVar("T")

#: Numbers of the step that members of one program may differ in -> other names for them.
SCALARS: dict[str, tuple[str, ...]] = {
    "penalty_weight": ("gamma", "lambda"),
    "generator_learning_rate": (),
    "discriminator_learning_rate": (),
    "lecam_weight": (),
    "path_length_weight": (),
    "matching_weight": (),
    "auxiliary_weight": (),
    "augment_probability": (),
    "ema_half_life": (),
}

#: First part of a swept number's name in the state's `extra`.
_PREFIX = "sweep/"


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What is swept.

    Attributes:
      field: of the config.
      values: one for each GAN.
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
    return next((known for known, others in SCALARS.items() if field in others), field)


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
    check_name("number for --sweep", field, [*SCALARS, "gamma", "lambda"])
    try:
        values = tuple(float(value) for value in rest.split(","))
    except ValueError:
        values = ()
    if not equals or len(values) < 2 or len(set(values)) < len(values):
        raise UserError(
            f"--sweep {text!r} must be NAME=VALUE,VALUE,... with at least two different numbers, "
            "such as gamma=0.01,0.1,1"
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
    needs = {
        "penalty_weight": ("a penalty: choose one with --penalty", config.penalty != "none"),
        "augment_probability": (
            "--augment, and a share that is not adaptive",
            config.augment and not config.adaptive_augment,
        ),
        "auxiliary_weight": ("--conditioning auxiliary", config.conditioning == "auxiliary"),
        "path_length_weight": ("--generator stylegan2", config.generator == "stylegan2"),
    }
    what, met = needs.get(sweep.field, ("", True))
    if not met:
        raise UserError(f"--sweep {sweep.field} needs {what}")
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


def best_member(config: Any, names: Sequence[str], numbers: Mapping[str, Any]) -> tuple[int, str]:
    """Which member's pictures a report shows, and why.

    Args:
      config: of the run.
      names: of its members.
      numbers: the run's, with `number/member`.

    Returns:
      Its number, the least Frechet distance's, and a sentence; 0 and "" where nothing is swept.
    """
    if sweep_of(config) is None:
        return 0, ""
    distances = [float(numbers.get(f"frechet/{name}", math.nan)) for name in names]
    known = [i for i, distance in enumerate(distances) if math.isfinite(distance)]
    if not known:
        return 0, f"The pictures are of {names[0]}; which is the best was not measured."
    best = min(known, key=distances.__getitem__)
    return best, f"The pictures are of {names[best]}, which has the least Frechet distance."


#: Numbers that GANs are compared by -> what a table calls them.
MEASURES = {
    "frechet": "Frechet distance",
    "samples_precision": "precision",
    "samples_recall": "recall",
    "samples_pixel_spread": "spread by pixels",
}


def winners(
    config: Any, names: Sequence[str], numbers: Mapping[str, Any]
) -> tuple[list[list[str]], list[str]]:
    """How the members of a sweep compare.

    Args:
      config: of the run.
      names: of its members.
      numbers: the run's, with `number/member`.

    Returns:
      Rows of a table, a header first, of each value (over the seeds); and sentences that say which
      value has the least Frechet distance, and which the greatest recall.
    """
    sweep = sweep_of(config)
    assert sweep is not None
    measures = [measure for measure in MEASURES if f"{measure}/{names[0]}" in numbers]
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
                spread = f" +- {statistics.stdev(each):.3g}" if each[1:] else ""
                cell = f"{statistics.fmean(each):.4g}{spread}"
            table[-1].append(cell)
    told = []
    for measure, best, what in (
        ("frechet", min, "the least Frechet distance"),
        ("samples_recall", max, "the greatest recall"),
    ):
        of = found.get(measure, {})
        means = {value: statistics.fmean(each) for value, each in of.items()}
        if len(set(means.values())) > 1:
            value = best(means, key=means.__getitem__)
            doubt = _doubt(value, of)
            told.append(f"{sweep.field} = {value:g} has {what}, {means[value]:.4g}{doubt}")
        elif len(means) > 1:
            told.append(f"none has {what}: all have {next(iter(means.values())):.4g}")
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
