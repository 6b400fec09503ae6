"""What saving a run's state costs the training that goes on meanwhile."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from experiments.benchmarks import cases, machine, report, timing
from experiments.benchmarks.configs import Checkpoints
from jaxnets.commands import checks
from jaxnets.errors import UserError
from jaxnets.files import cleaning
from jaxnets.run.checkpoint import Checkpoints as Saver
from jaxnets.run.task import FitOptions
from jaxnets.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class Window:
    """Some calls of the training step.

    Attributes:
      seconds: until the last call was done.
      blocking: of these, until the save let the training go on; 0 where nothing was saved.
      unfinished: seconds beyond the window until the save was done.
    """

    seconds: float
    blocking: float = 0.0
    unfinished: float = 0.0


def run(config: Checkpoints) -> int:
    """The benchmark; gives its exit code. For what it prints see `figures` and `_measure`.

    Raises:
      UserError: for numbers that can't be, a folder that can't be written to, or a save that
        failed.
    """
    report.begin(config)
    mesh = machine.start(config.devices)
    checks.check_batch(config.batch_size, mesh)
    with _folder(config.folder) as folder:
        numbers = report.end(config, _measure(config, mesh, folder))
    if numbers["share"] > config.max_share:
        print(
            f"saving costs {numbers['share']:.1%} of the training, more than the "
            f"{config.max_share:.1%} of --max-share"
        )
        return 1
    return 0


def figures(
    with_save: Sequence[Window], without: Sequence[Window], save_seconds: float
) -> dict[str, Any]:
    """What the windows of some rounds say of the cost of a save.

    Args:
      with_save: a window of each round.
      without: the other of each round, of as many calls.
      save_seconds: from one save of a run to the next.

    Returns:
      `extra_seconds`: what a save costs, by round, as if training had waited for what was left of
      it after the window; `blocking_seconds`, what of it is in the call of `save`, and
      `background_seconds`, what its threads take from the training; and `share`, the median of
      the extra seconds by `save_seconds`.
    """
    extra = [a.seconds + a.unfinished - b.seconds for a, b in zip(with_save, without, strict=True)]
    behind = [cost - window.blocking for cost, window in zip(extra, with_save, strict=True)]
    return {
        "extra_seconds": timing.spread(extra),
        "blocking_seconds": timing.spread([window.blocking for window in with_save]),
        "background_seconds": timing.spread(behind),
        "unfinished_seconds": [window.unfinished for window in with_save],
        "with_save_seconds": [window.seconds for window in with_save],
        "without_seconds": [window.seconds for window in without],
        "save_every_seconds": save_seconds,
        "share": statistics.median(extra) / save_seconds,
    }


@contextlib.contextmanager
def _folder(parent: Path | None) -> Iterator[Path]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="jaxnets-checkpoints-", dir=parent)
    except OSError as error:
        place = parent or tempfile.gettempdir()
        raise UserError(f"cannot write checkpoints to {place}: {error}") from error
    with folder as name, cleaning(partial(shutil.rmtree, name, ignore_errors=True)):
        yield Path(name)


def _training(config: Checkpoints, mesh: Mesh) -> cases.Running:
    """A run without evaluations."""
    work = cases.build(cases.of_flags(config.kind, config))
    work = dataclasses.replace(work, state=_with_average(work.state))
    return cases.Running(work, mesh, steps=config.steps_per_call)


def _train(training: cases.Running, calls: int) -> None:
    """Trains on; waits for each call's metrics, as the loop does."""
    for _ in range(calls):
        jax.device_get(training())


def _with_average(state: TrainState) -> TrainState:
    """The state with the moving average of the weights that `classify` and `generate` save."""
    nets = dict(state.nets)
    for name in ("classifier", "generator"):
        if name in nets:
            net = nets[name]
            average = {"params": net.params, "model_state": net.model_state}
            nets[name] = dataclasses.replace(net, ema=jax.tree.map(jnp.copy, average))
    return dataclasses.replace(state, nets=nets)


def _measure(config: Checkpoints, mesh: Mesh, folder: Path) -> dict[str, Any]:
    """Everything but the machine; `save_alone_seconds` of a save while nothing else runs."""
    training = _training(config, mesh)
    keep = FitOptions().keep
    with Saver(folder / "checkpoints", keep=keep) as saver:
        alone = []
        for _ in range(keep + 1):  # from then on, each save deletes an old checkpoint
            _train(training, 1)
            alone.append(timing.timed(lambda: (saver.save(training.state), saver.wait()))[1])
        call = min(timing.timed(lambda: _train(training, 1))[1] for _ in range(3))
        calls = math.ceil(max(config.min_seconds, 3 * alone[-1]) / call)
        windows: dict[bool, list[Window]] = {True: [], False: []}
        for round_ in range(config.rounds):
            for saves in (True, False) if round_ % 2 else (False, True):
                windows[saves].append(_window(training, saver, calls, saves))
        written = folder / "checkpoints" / str(saver.latest_step())
    files = [path.stat().st_size for path in written.rglob("*") if path.is_file()]
    found = figures(windows[True], windows[False], config.save_seconds)
    steps = calls * config.steps_per_call
    return {
        "case": cases.of_flags(config.kind, config).name,
        "devices": config.devices,
        "steps_per_call": config.steps_per_call,
        "steps_in_a_window": steps,
        "step_seconds": statistics.median(found["without_seconds"]) / steps,
        "arrays": len(jax.tree.leaves(training.state)),
        "checkpoint_bytes": sum(files),
        "checkpoint_files": len(files),
        "save_alone_seconds": alone[-1],
        **found,
        "max_share": config.max_share,
    }


def _window(training: cases.Running, saver: Saver, calls: int, saves: bool) -> Window:
    begin = time.perf_counter()
    blocking = 0.0
    if saves:
        saver.save(training.state)
        blocking = time.perf_counter() - begin
    _train(training, calls)
    seconds = time.perf_counter() - begin
    return Window(seconds, blocking, timing.timed(saver.wait)[1] if saves else 0.0)
