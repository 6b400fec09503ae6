"""Minutes as numbers of training steps, so that what runs beside a training changes no number.

The steps of all trainings are timed in turn before any of them begins.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from experiments.benchmarks import timing
from jaxnets.commands import common
from jaxnets.commands.configs.options import RunOptions, given
from jaxnets.devices import parallel
from jaxnets.files import read_json, write_json
from jaxnets.run.task import Lazily, Task, take_feed

ROUNDS, WINDOW_SECONDS = 5, 1.0


def step_seconds(
    path: Path,
    names: Sequence[str],
    build: Callable[[str], tuple[Task, RunOptions]],
    mesh: Mesh,
) -> dict[str, float]:
    """Seconds of a step of each training; those of an earlier call of the command if it has them.

    The least of several windows: what the machine needs when nothing else is on it.

    Args:
      path: the JSON file in which they are kept.
      names: of the trainings.
      build: name of a training -> its task and its config.
      mesh: the devices.
    """
    kept: dict[str, float] = read_json(path)["seconds_per_step"] if path.exists() else {}
    missing = [name for name in names if name not in kept]
    if not missing:
        return {name: kept[name] for name in names}
    # Those that have a time already are timed again beside the new, whose times are scaled by
    # what the machine does now to what it did then.
    runners = {name: _runner(*build(name), mesh) for name in (*missing, *kept)}
    found = {name: min(of) for name, of in timing.interleave(runners, ROUNDS).items()}
    pace = statistics.median([kept[name] / found[name] for name in kept]) if kept else 1.0
    kept |= {name: found[name] * pace for name in missing}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"seconds_per_step": kept, "machine": common.machine()})
    return {name: kept[name] for name in names}


def steps_in(minutes: float, seconds: float) -> int:
    """The steps of so many seconds each that so many minutes hold, at least 1."""
    return max(1, int(60 * minutes / seconds))


def _runner(task: Task, config: Any, mesh: Mesh) -> timing.Runner:
    """A training's compiled steps, to be timed."""
    per_call = config.steps_per_call
    step: Any = task.step
    if isinstance(step, Lazily):
        # A whole period in one call, so that each step has its share.
        per_call = given(config.penalty_every)
        step = step.steps(0, per_call)
    program = parallel.compile_step(
        step,
        mesh,
        config.mode,
        steps_per_call=per_call,
        fetch=task.pipeline.fetch,
    )
    state = parallel.replicate(task.init(), mesh)
    source = parallel.replicate(task.pipeline.source, mesh)
    feed = take_feed(task.pipeline, 0, per_call)
    call = timing.chain(program, state, feed, source)
    return timing.Runner(call, units=per_call, min_seconds=WINDOW_SECONDS)
