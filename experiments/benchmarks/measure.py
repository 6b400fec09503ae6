"""Measures the steps of some cases: everything that a report says of one, as a tree for JSON."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks import cases, collectives, flops, machine, paths, plans, report, timing
from experiments.benchmarks.configs import Case, GanCase, Measuring
from jaxnets import ops
from jaxnets.commands import checks, memory
from jaxnets.commands.configs import constraints
from jaxnets.devices import parallel
from jaxnets.errors import UserError

#: Sizes of the square matrices whose fastest product is the peak.
PEAK_SIZES = (1024, 2048, 4096)


def run(chosen: Sequence[Case], config: Measuring, calls: str) -> int:
    """Measures cases one after the other, and prints and writes the figures."""
    steps = _steps(config, calls)
    rival = _rival() if config.against else None
    for case in chosen:
        constraints.check(case)
        cases.networks(case)
        if isinstance(case, GanCase):
            cases.objectives(case)
    checks.json_file(config)
    mesh = machine.start(config.devices, share=rival is not None)
    for case in chosen:
        checks.check_batch(case.batch_size, mesh)
    environment = machine.environment()
    print(report.machine_line(environment, mesh.size), flush=True)
    flags = {name: value for name, value in vars(config).items() if name not in ("what", "json")}
    flags = {name: str(v) if isinstance(v, Path) else v for name, v in flags.items()}
    results: list[dict[str, Any]] = []
    for case in chosen:
        result = measure(case, config, steps)
        if rival is not None:
            _say(case, f"beside {config.against}")
            with _form(config):
                other = rival.compare(
                    case,
                    rounds=config.rounds,
                    devices=config.devices,
                    steps_per_call=config.steps_per_call,
                    mode=config.mode,
                )
            result["against"] = {"name": config.against, **other}
        results.append(result)
        print(report.one(result), flush=True)
        if config.json is not None:  # after each, so that an interruption costs only the rest
            report.write(config.json, environment, flags, results)
    if len(results) > 1:
        print(report.several(results))
    if config.json is not None:
        print(f"written: {config.json}")
    return 0


def _steps(config: Measuring, calls: str) -> list[int]:
    """The steps a call to be compared; with the other flags, checked."""
    constraints.check(config)
    if config.against and config.rounds < 5:
        raise UserError(f"--against needs at least 5 --rounds, got {config.rounds}")
    if config.shard_params and (config.mode != "jit" or config.against):
        raise UserError("--shard-params goes with --mode jit, and without --against")
    try:
        steps = [] if calls == "none" else sorted({int(part) for part in calls.split(",")})
    except ValueError:
        steps = [0]
    if any(step < 1 for step in steps):
        raise UserError(f"--calls takes numbers of steps, such as 1,2,4, or none, got {calls!r}")
    return steps


def _rival() -> Any:
    """The module that times PyTorch.

    Raises:
      UserError: if there is no PyTorch.
    """
    if importlib.util.find_spec("torch") is None:
        raise UserError('PyTorch is not installed; get it by: pip install "jaxnets[bench]"')
    return importlib.import_module("experiments.benchmarks.torch_rivals")


def _form(config: Measuring) -> contextlib.AbstractContextManager[object]:
    """In which convolutions have the form that the flags ask for, where a step is traced."""
    return ops.plain_convolutions() if config.plain else contextlib.nullcontext()


def _say(case: Case, text: str) -> None:
    """Progress, apart from the figures."""
    print(f"{case.name}: {text}", file=sys.stderr, flush=True)


def measure(case: Case, config: Measuring, calls: Sequence[int] = ()) -> dict[str, Any]:
    """Measures one case.

    Args:
      case: what.
      config: how.
      calls: steps a call to be compared.

    Returns:
      `name`, `case`, and what the keys of the report say (see `experiments.benchmarks.report`).

    Raises:
      UserError: for sizes that can't be, or that memory can't hold.
    """
    mesh = machine.start(config.devices)
    with _out_of_memory_is_an_error_of_the_user(case):
        return _measure(case, config, calls, mesh)


def _measure(case: Case, config: Measuring, calls: Sequence[int], mesh: Any) -> dict[str, Any]:
    pixels = case.batch_size * case.image_size**2 * case.channels * config.steps_per_call
    if pixels > 0:  # one float64 and one float32 while the images are drawn
        memory.check_fits(12 * pixels, memory.host_available(), f"the batch of {case.name}")
    _say(case, "tracing, counting operations")
    work, shapes = cases.abstract(case)
    state = sum(memory.size_of(leaf) for leaf in jax.tree.leaves(shapes))
    memory.check_fits(2 * state, memory.host_available(), f"the state of {case.name}")
    counted = flops.count(work.step, shapes, work.batch)

    _say(case, "compiling")
    program = Program(work, shapes, mesh, config, config.steps_per_call)
    compiled, stages = timing.stages(program.make(), shapes, program.feed)
    plan = plans.planned(compiled)
    device = mesh.devices.flat[0]
    if plan is not None:
        copies = mesh.size if device.platform == "cpu" else 1  # CPU devices share one memory
        memory.check_fits(plan.peak * copies, memory.available(device), case.name)

    _say(case, f"timing {config.rounds} rounds")
    work = cases.build(case)
    main = program.runner(compiled, work.state)
    runners = {"step": main}
    for steps in set(calls) - {config.steps_per_call}:
        other = Program(work, shapes, mesh, config, steps)
        runners[f"{steps} a call"] = other.runner(other.compile(), work.state)
    runners["peak"], size = timing.matmul_peak(mesh, PEAK_SIZES, case.dtype, config.min_seconds)
    times = timing.interleave(runners, config.rounds)
    times[f"{config.steps_per_call} a call"] = times["step"]

    step = timing.spread(times["step"])
    rates = [2 * size**3 * mesh.size / seconds for seconds in times["peak"]]
    shares = [counted.total / t / rate for t, rate in zip(times["step"], rates, strict=True)]
    return {
        "name": case.name,
        "case": {"kind": "gan" if isinstance(case, GanCase) else "classifier", **vars(case)},
        **{
            name: getattr(config, name)
            for name in ("devices", "mode", "shard_params", "steps_per_call", "plain")
        },
        "seconds_before_steps": {**stages, "first_call": main.first_seconds},
        "step_seconds": {**step, "calls_in_a_window": main.calls},
        "images_per_second": case.batch_size / step["median"],
        "flops": {**vars(counted), "total": counted.total},
        "flops_per_second": counted.total / step["median"],
        "peak": {**timing.spread(rates), "size": size, "dtype": case.dtype},
        "share_of_peak": timing.spread(shares),
        "memory": None if plan is None else {**vars(plan), "peak": plan.peak},
        **_of_program(compiled.as_text(), shapes, config, mesh),
        "calls": {str(steps): timing.spread(times[f"{steps} a call"]) for steps in calls},
    }


def _of_program(text: str, shapes: Any, config: Measuring, mesh: Any) -> dict[str, Any]:
    """What the text of the compiled program shows: copies, code paths, what crosses devices."""
    donation = plans.donation(text, shapes)
    platform = mesh.devices.flat[0].platform
    sent = collectives.per_step(collectives.read(text), config.steps_per_call)
    return {
        "donation": {**vars(donation), "took": donation.took},
        "paths": paths.summary(paths.operations(text, platform)),
        "loop_nests": [vars(each) for each in paths.loop_nests(text, platform)],
        "collectives": {
            "per_step": sent,
            "least": collectives.least(shapes.nets) if mesh.size > 1 else {},
        },
    }


@dataclasses.dataclass(frozen=True)
class Program:
    """A case's step on its way onto devices, some number of steps a call."""

    work: cases.Work
    shapes: Any
    mesh: Any
    config: Measuring
    steps: int

    @property
    def feed(self) -> Any:
        """What one call is fed."""
        return self.work.feed(self.steps)

    def make(self) -> parallel.CompiledStep:
        """The step, to be traced in the form that the flags ask for."""

        def step(state: Any, batch: Any) -> Any:
            with _form(self.config):
                return self.work.step(state, batch)

        return parallel.compile_step(
            step,
            self.mesh,
            self.config.mode,
            steps_per_call=self.steps,
            shard_params=self.config.shard_params,
        )

    def compile(self) -> Any:
        """The executable."""
        return self.make().lower(self.shapes, self.feed).compile()

    def runner(self, compiled: Any, state: Any) -> timing.Runner:
        """The executable with a copy of the state, and the feed on the devices."""
        (at_state, at_feed, _), _ = compiled.input_shardings
        feed = jax.device_put(self.make().arrange(self.feed), at_feed)
        state = jax.device_put(jax.tree.map(jnp.copy, state), at_state)
        call = timing.chain(compiled, state, feed, None)
        return timing.Runner(call, units=self.steps, min_seconds=self.config.min_seconds)


@contextlib.contextmanager
def _out_of_memory_is_an_error_of_the_user(case: Case) -> Iterator[None]:
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = (str(error).splitlines() or ["out of memory"])[0]
        reason = reason.removeprefix("RESOURCE_EXHAUSTED: ").rstrip(". ")
        raise UserError(
            f"{case.name} does not fit into memory ({reason}); take a smaller --batch-size, "
            "--width or --image-size"
        ) from error
