"""Minutes as numbers of steps: what a step of each of several trainings takes, timed in turn."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from experiments.benchmarks import timing
from jaxnets.commands import common
from jaxnets.devices import parallel
from jaxnets.files import read_json, write_json
from jaxnets.run.task import Lazily, Task, take_feed

_ROUNDS, _WINDOW_SECONDS = 5, 1.0


def step_seconds(
    path: Path, runners: Mapping[str, Callable[[], timing.Runner]]
) -> dict[str, float]:
    """Seconds of a step of each, of an earlier call of the command if it has them.

    The least of several windows: what the machine needs when nothing else is on it.

    Args:
      path: JSON file that keeps them.
      runners: name -> what makes the training's compiled steps, as `runner` does.
    """
    kept: dict[str, float] = read_json(path)["seconds_per_step"] if path.exists() else {}
    missing = [name for name in runners if name not in kept]
    if not missing:
        return {name: kept[name] for name in runners}
    # Those that have a time already are timed again beside the new, whose times are scaled by
    # what the machine does now to what it did then.
    again = [name for name in kept if name in runners]
    made = {name: runners[name]() for name in (*missing, *again)}
    seconds = {name: min(of) for name, of in timing.interleave(made, _ROUNDS).items()}
    pace = statistics.median([kept[name] / seconds[name] for name in again]) if again else 1.0
    kept |= {name: seconds[name] * pace for name in missing}
    write_json(path, {"seconds_per_step": kept, "machine": common.machine()})
    return {name: kept[name] for name in runners}


def runner(config: Any, task: Task, mesh: Mesh) -> timing.Runner:
    """A training's compiled steps, to be timed.

    Args:
      config: of a run of `classify` or `generate`, resolved.
      task: that it means.
      mesh: the devices.
    """
    per_call, step = config.steps_per_call, task.step
    if isinstance(step, Lazily):
        # A whole period in one call, so that each step has its share.
        per_call = config.penalty_every
        step = step.steps(0, per_call)
    program = parallel.compile_step(
        step,  # type: ignore[arg-type]
        mesh,
        config.mode,
        steps_per_call=per_call,
        fetch=task.pipeline.fetch,
    )
    state = parallel.replicate(task.init(), mesh)
    source = parallel.replicate(task.pipeline.source, mesh)
    feed = take_feed(task.pipeline, 0, per_call)
    call = timing.chain(program, state, feed, source)
    return timing.Runner(call, units=per_call, min_seconds=_WINDOW_SECONDS)
