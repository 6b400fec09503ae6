"""How long a training will take on this machine, and what would take less."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import jax
from jax.sharding import Mesh

from jaxnets.commands.configs.options import RunOptions, given
from jaxnets.devices import parallel
from jaxnets.run.log import duration
from jaxnets.run.task import Lazily, Task, take_feed

#: Flags of another run, and how many seconds it takes.
Faster = tuple[str, float]

#: Seconds from which on a training is long.
LONG = 600.0


def told(
    config: RunOptions, mesh: Mesh, faster: Callable[[], Faster | None], left: float, whole: float
) -> str:
    """What is said of a long run with so many seconds left of the whole; "" of a short one."""
    if left < LONG:
        return ""
    flags, seconds = faster() or ("", whole)
    if seconds > whole / 2:
        flags = f"--epochs {float(f'{given(config.epochs) * LONG / whole:.2g}'):g}"
        seconds = LONG
    device = mesh.devices.flat[0].platform.upper()
    where = f"this {device}" if mesh.size == 1 else f"these {mesh.size} {device}s"
    other = f"a new run with {flags} would take about {duration(seconds)}"
    return f"about {duration(left)} to go on {where}; {other}"


def measured(task: Task, mesh: Mesh, per_call: int) -> float:
    """Seconds that a task would take, by the second call of its compiled step; closes its feed."""
    step, pipeline = task.step, task.pipeline
    steps = step.steps(0, per_call) if isinstance(step, Lazily) else (step,) * per_call
    program = parallel.compile_step(steps, mesh, steps_per_call=per_call, fetch=pipeline.fetch)
    state, seconds = parallel.place(jax.jit(task.init)(), mesh), 0.0
    source = parallel.replicate(pipeline.source, mesh)
    with contextlib.closing(pipeline):
        for _ in range(2):
            begin = time.monotonic()
            state, metrics = program(state, take_feed(pipeline, 0, per_call), source)
            jax.block_until_ready(metrics)
            seconds = time.monotonic() - begin
    return seconds / per_call * task.total_steps
