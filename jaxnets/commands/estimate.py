"""How long a training will take on this machine, and what would take less."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from jaxnets.commands.configs.options import RunOptions, given
from jaxnets.devices import parallel
from jaxnets.run.task import Lazily, Task, take_feed

#: Flags of another run, and how many seconds it takes.
Faster = tuple[str, float]

#: Seconds from which on a training is long.
LONG = 600.0


def told(
    config: RunOptions, mesh: Mesh, faster: Callable[[], Faster | None], left: float, whole: float
) -> str:
    """What is said of a long training once its speed is known; "" of a short one.

    Args:
      config: of the run, resolved.
      mesh: its devices.
      faster: gives another run to choose; None where none is known.
      left: seconds to the end.
      whole: seconds of all of it at this speed.
    """
    if left < LONG:
        return ""
    device = mesh.devices.flat[0].platform.upper()
    where = f"this {device}" if mesh.size == 1 else f"these {mesh.size} {device}s"
    other, epochs = faster(), round(given(config.epochs) * LONG / whole, 1)
    if other is None or other[1] > whole / 2:
        other = (f"--epochs {epochs:g}", whole * epochs / given(config.epochs))
    known = other[1] > 0
    instead = f"; a new run with {other[0]} would take about {span(other[1])}" if known else ""
    return f"about {span(left)} to go on {where}{instead}"


def span(seconds: float) -> str:
    """A length of time, as one says it: "40 s", "25 min", "3.5 h", "12 days"."""
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.0f} s"


def measured(task: Task, mesh: Mesh, config: RunOptions) -> float:
    """Seconds that a task would take, by two calls of its compiled step; its pipeline is closed."""
    per_call, step = min(config.steps_per_call, task.total_steps), task.step
    program = parallel.compile_step(
        step.steps(0, per_call) if isinstance(step, Lazily) else (step,) * per_call,
        mesh,
        config.mode,
        steps_per_call=per_call,
        fetch=task.pipeline.fetch,
        shard_params=config.shard_params,
    )
    state: Any = jax.jit(task.init)()
    state = parallel.place(state, mesh, shard_params=config.shard_params)
    source = parallel.replicate(task.pipeline.source, mesh)
    feed, seconds = take_feed(task.pipeline, 0, per_call), []
    for _ in range(3):  # the first compiles
        begin = time.monotonic()
        state, metrics = program(state, feed, source)
        jax.block_until_ready((state, metrics))
        seconds.append(time.monotonic() - begin)
    task.pipeline.close()
    return sum(seconds[1:]) / 2 / per_call * task.total_steps
