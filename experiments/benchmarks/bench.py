"""`bench`: what training steps cost, where the time goes, and whether it has become worse."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from experiments.benchmarks.configs import (
    Checkpoints,
    Classifier,
    ClassifierCase,
    Gan,
    GanCase,
    Inference,
    Input,
    Measuring,
    Population,
    Scores,
    Startup,
    TimeToAccuracy,
    Watermark,
)
from jaxnets.commands.session import Session
from jaxnets.errors import UserError

#: The cases of `bench` without a subcommand.
TABLE = (
    ClassifierCase(),
    ClassifierCase(batch_size=512),
    ClassifierCase(network="resnet18", image_size=32, channels=3),
    GanCase(),
    GanCase(penalty="r1"),
    GanCase(family="sngan", loss="hinge", width=0.25, batch_size=64),
    GanCase(family="r3gan", loss="relativistic", penalty="r1_r2", width=0.0625, batch_size=64),
)

#: Steps a call that are compared by default, where there is one case.
CALLS = "1,2,4"

Subcommand = (
    Annotated[Classifier, tyro.conf.subcommand("classifier")]
    | Annotated[Gan, tyro.conf.subcommand("gan")]
    | Annotated[TimeToAccuracy, tyro.conf.subcommand("time-to-accuracy")]
    | Annotated[Population, tyro.conf.subcommand("population")]
    | Annotated[Inference, tyro.conf.subcommand("inference")]
    | Annotated[Input, tyro.conf.subcommand("input")]
    | Annotated[Startup, tyro.conf.subcommand("startup")]
    | Annotated[Scores, tyro.conf.subcommand("scores")]
    | Annotated[Checkpoints, tyro.conf.subcommand("checkpoints")]
    | Annotated[Watermark, tyro.conf.subcommand("watermark")]
)


@dataclasses.dataclass(frozen=True)
class Bench(Measuring):
    """Time training steps: compilation, steady state, share of the machine's peak, memory.

    Without a subcommand the whole table: resnet_3x2 with batches of 128 and 512, resnet18, dcgan
    without and with R1, and narrow ones of sngan and r3gan.
    """

    what: Subcommand | Annotated[None, tyro.conf.subcommand("all")] = None
    """One case, with flags of its own; all (the default) for the table."""
    compare: tuple[Path, Path] | None = None
    """Measure nothing: compare two files that --json wrote, BEFORE and AFTER. Exit code 1 if
    anything became slower by more than --max-ratio."""
    max_ratio: float = 1.10
    """How many times slower --compare lets a step become."""


def run(config: Bench, session: Session | None = None) -> int:
    """The command; gives its exit code."""
    from experiments.benchmarks import (  # with them comes jax
        checkpoints,
        compare,
        inference,
        input_rate,
        measure,
        population,
        scores,
        startup,
        time_to_accuracy,
        watermark,
    )

    what = config.what
    if what is None and config.compare is not None:
        return compare.run(*config.compare, config.max_ratio)
    if what is None and config.max_ratio != Bench.max_ratio:
        raise UserError("--max-ratio is for --compare; leave it out, or name two files")
    if what is None:
        return measure.run(TABLE, config, "none" if config.calls is None else config.calls)
    for field in dataclasses.fields(config):
        if field.name != "what" and getattr(config, field.name) != field.default:
            flag = field.name.replace("_", "-")
            raise UserError(f"write --{flag} after the name of the subcommand, not before it")
    if isinstance(what, Classifier | Gan):
        kind = ClassifierCase if isinstance(what, Classifier) else GanCase
        values = {field.name: getattr(what, field.name) for field in dataclasses.fields(kind)}
        return measure.run([kind(**values)], what, CALLS if what.calls is None else what.calls)
    runners = {
        TimeToAccuracy: time_to_accuracy.run,
        Population: population.run,
        Inference: inference.run,
        Input: input_rate.run,
        Startup: startup.run,
        Scores: scores.run,
        Checkpoints: checkpoints.run,
        Watermark: watermark.run,
    }
    code = runners[type(what)](what)  # type: ignore[arg-type]
    return code if isinstance(code, int) else 0
