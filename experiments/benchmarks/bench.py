"""`bench`: what training steps cost, where the time goes, and whether it has become worse."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments.benchmarks import (
    cases,
    checkpoints,
    collectives,
    compare,
    input_rate,
    machine,
    measure,
    population,
    report,
    scores,
    startup,
    time_to_accuracy,
    watermark,
)
from jaxnets.commands import checks
from jaxnets.commands.configs import constraints
from jaxnets.commands.configs.constraints import COUNT, POSITIVE
from jaxnets.commands.session import Session
from jaxnets.errors import UserError

#: The cases of `bench` without a subcommand.
TABLE: tuple[cases.Case, ...] = (
    cases.ClassifierCase(),
    cases.ClassifierCase(batch_size=512),
    cases.ClassifierCase(network="resnet18", image_size=32, channels=3),
    cases.GanCase(),
    cases.GanCase(penalty="r1"),
    cases.GanCase(family="sngan", loss="hinge", width=0.25, batch_size=64),
    cases.GanCase(
        family="r3gan", loss="relativistic", penalty="r1_r2", width=0.0625, batch_size=64
    ),
)

#: Steps a call that are compared by default, where there is one case.
CALLS = "1,2,4"


@dataclasses.dataclass(frozen=True)
class Measuring:
    """How it is measured."""

    devices: Annotated[int, COUNT] = 1
    """How many devices to use; on a CPU they are made, and share its cores."""
    mode: Literal["jit", "pmap"] = "jit"
    """How the step goes onto the devices."""
    shard_params: bool = False
    """Divide parameters, optimiser state and averages among the devices (--mode jit)."""
    steps_per_call: Annotated[int, COUNT] = 1
    """Training steps in one call of the compiled program."""
    calls: str | None = None
    """Steps a call to compare, to see what calls cost: numbers such as 1,2,4 (the default for one
    case), or none."""
    rounds: Annotated[int, COUNT] = 7
    """Rounds in which everything that is timed takes its turn."""
    min_seconds: Annotated[float, POSITIVE] = 0.5
    """Least length of a timed window, which makes as many calls as that takes."""
    plain: bool = False
    """Time XLA's own convolutions instead of those of jaxnets.ops."""
    bandwidth_gb_s: Annotated[float, POSITIVE] = collectives.LINK.bandwidth / 1e9
    """For the estimate of weak scaling: what a chip sends a second. 50 is one port of a TPU v5e,
    or a 400 Gbit/s network card a GPU."""
    latency_us: Annotated[float, POSITIVE] = collectives.LINK.latency * 1e6
    """For the estimate of weak scaling: what the smallest message takes. 1 is an assumption."""
    chip_tflop_s: Annotated[float, POSITIVE] = collectives.LINK.chip_flops / 1e12
    """For the estimate of weak scaling: useful operations a second of an assumed chip. 79 is 40%
    of a TPU v5e's peak in bfloat16."""
    against: Literal["torch"] | None = None
    """Time PyTorch on the same network, weights and images beside it."""
    json: Path | None = None
    """Write every figure to this file."""


@dataclasses.dataclass(frozen=True)
class Classifier(Measuring, cases.ClassifierCase):
    """Time a classifier's training step: SGD with Nesterov momentum on the cross-entropy."""


@dataclasses.dataclass(frozen=True)
class Gan(Measuring, cases.GanCase):
    """Time a GAN's training step: one update of the discriminator and one of the generator."""


Subcommand = (
    Annotated[Classifier, tyro.conf.subcommand("classifier")]
    | Annotated[Gan, tyro.conf.subcommand("gan")]
    | Annotated[time_to_accuracy.TimeToAccuracy, tyro.conf.subcommand("time-to-accuracy")]
    | Annotated[population.Population, tyro.conf.subcommand("population")]
    | Annotated[input_rate.Input, tyro.conf.subcommand("input")]
    | Annotated[startup.Startup, tyro.conf.subcommand("startup")]
    | Annotated[scores.Scores, tyro.conf.subcommand("scores")]
    | Annotated[checkpoints.Checkpoints, tyro.conf.subcommand("checkpoints")]
    | Annotated[watermark.Watermark, tyro.conf.subcommand("watermark")]
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
    if config.what is not None:
        early = _changed(config)
        if early:
            raise UserError(f"write --{early[0]} after the name of the subcommand, not before it")
        code = RUN[type(config.what)](config.what)
        return code if isinstance(code, int) else 0
    if config.compare is not None:
        return compare.run(*config.compare, config.max_ratio)
    if config.max_ratio != Bench.max_ratio:
        raise UserError("--max-ratio is for --compare; leave it out, or name two files")
    return _measure(TABLE, config, "none" if config.calls is None else config.calls)


def _one(config: Classifier | Gan) -> int:
    kind = cases.ClassifierCase if isinstance(config, Classifier) else cases.GanCase
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(kind)}
    return _measure([kind(**values)], config, CALLS if config.calls is None else config.calls)


#: What each subcommand's config is run by; what is no exit code means 0.
RUN: dict[type, Callable[[Any], Any]] = {
    Classifier: _one,
    Gan: _one,
    time_to_accuracy.TimeToAccuracy: time_to_accuracy.run,
    population.Population: population.run,
    input_rate.Input: input_rate.run,
    startup.Startup: startup.run,
    scores.Scores: scores.run,
    checkpoints.Checkpoints: checkpoints.run,
    watermark.Watermark: watermark.run,
}


def _measure(chosen: Sequence[cases.Case], config: Measuring, calls: str) -> int:
    """Measures cases one after the other, and prints and writes what was found."""
    settings = _settings(config, calls)
    rival = _rival() if config.against else None
    for case in chosen:
        constraints.check(case)
        cases.networks(case)
        if isinstance(case, cases.GanCase):
            cases.objectives(case)
    checks.json_file(config)
    mesh = machine.start(config.devices, share=rival is not None)
    for case in chosen:
        checks.check_batch(case.batch_size, mesh)
    environment = machine.environment()
    print(report.machine_line(environment, mesh.size), flush=True)
    found: list[dict[str, Any]] = []
    for case in chosen:
        result = measure.measure(case, settings, lambda text, case=case: _say(case, text))
        if rival is not None:
            _say(case, f"beside {config.against}")
            result["against"] = {"name": config.against, **_beside(rival, case, config)}
        found.append(result)
        print(report.one(result), flush=True)
        if config.json is not None:  # after each, so that an interruption costs only the rest
            report.write(config.json, environment, _flags(config), found)
    if len(found) > 1:
        print(report.several(found))
    if config.json is not None:
        print(f"written: {config.json}")
    return 0


def _settings(config: Measuring, calls: str) -> measure.Settings:
    """The flags, checked."""
    constraints.check(config)
    if config.against and config.rounds < 5:
        raise UserError(f"--against takes at least 5 --rounds to tell, got {config.rounds}")
    if config.shard_params and (config.mode != "jit" or config.against):
        raise UserError("--shard-params goes with --mode jit, and without --against")
    try:
        steps = [] if calls == "none" else sorted({int(part) for part in calls.split(",")})
    except ValueError:
        steps = [0]
    if any(step < 1 for step in steps):
        raise UserError(f"--calls takes numbers of steps, such as 1,2,4, or none, got {calls!r}")
    return measure.Settings(
        devices=config.devices,
        mode=config.mode,
        shard_params=config.shard_params,
        steps_per_call=config.steps_per_call,
        rounds=config.rounds,
        min_seconds=config.min_seconds,
        plain=config.plain,
        calls=tuple(steps),
        link=collectives.Link(
            bandwidth=config.bandwidth_gb_s * 1e9,
            latency=config.latency_us / 1e6,
            chip_flops=config.chip_tflop_s * 1e12,
        ),
        peak_sizes=measure.PEAK_SIZES,
    )


def _rival() -> Any:
    """The module that times PyTorch.

    Raises:
      UserError: if there is no PyTorch.
    """
    import importlib
    import importlib.util

    if importlib.util.find_spec("torch") is None:
        raise UserError('PyTorch is not installed; get it by: pip install "jaxnets[bench]"')
    return importlib.import_module("experiments.benchmarks.torch_rivals")


def _beside(rival: Any, case: cases.Case, config: Measuring) -> dict[str, Any]:
    from jaxnets import ops

    with ops.plain_convolutions() if config.plain else contextlib.nullcontext():
        return rival.compare(
            case,
            rounds=config.rounds,
            devices=config.devices,
            steps_per_call=config.steps_per_call,
            mode=config.mode,
        )


def _changed(config: Bench) -> list[str]:
    """Flags of the table that are not at their defaults."""
    fields = [field for field in dataclasses.fields(config) if field.name != "what"]
    changed = [field.name for field in fields if getattr(config, field.name) != field.default]
    return [name.replace("_", "-") for name in changed]


def _flags(config: Measuring) -> dict[str, Any]:
    """The flags as JSON can hold them."""
    values = {name: value for name, value in vars(config).items() if name not in ("what", "json")}
    return {name: str(v) if isinstance(v, Path) else v for name, v in values.items()}


def _say(case: cases.Case, text: str) -> None:
    """Progress, apart from what the command finds."""
    print(f"{case.name}: {text}", file=sys.stderr, flush=True)
