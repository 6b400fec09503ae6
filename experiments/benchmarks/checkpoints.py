"""What saving a run's state costs the training that goes on meanwhile."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from experiments.benchmarks import cases, machine, timing
from jaxnets.commands import checks
from jaxnets.commands.configs import constraints
from jaxnets.commands.configs.constraints import COUNT, POSITIVE
from jaxnets.errors import UserError
from jaxnets.files import cleaning

if TYPE_CHECKING:
    from jaxnets.checkpoint import Checkpoints as Saver
    from jaxnets.state import TrainState


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Time what a checkpoint costs: the training that is lost while it is made and written.

    Windows of training calls with a save at their start take turns with windows of as many calls
    without one. Exit code 1 if saving takes more than --max-share of the training.
    """

    kind: Literal["classifier", "gan"] = "classifier"
    """What trains: classifier or gan."""
    network: str = "speed_net"
    """The classifier: any network of `classify`."""
    width: float = 0.5
    """Factor on every number of channels; 1 is the published size."""
    batch_size: int = 128
    """Images a step."""
    image_size: int = 28
    """Height and width of the images."""
    steps_per_call: Annotated[int, COUNT] = 4
    """Training steps in one call of the compiled program."""
    devices: int = 1
    """How many devices to use; on a CPU they are made, and share its cores."""
    rounds: Annotated[int, COUNT] = 7
    """Rounds, each of a window with a save and one without."""
    min_seconds: Annotated[float, POSITIVE] = 3.0
    """Least length of a window, which is also at least three times as long as a save takes."""
    save_seconds: Annotated[float, POSITIVE] = 30.0
    """How often a run is taken to save."""
    max_share: Annotated[float, POSITIVE] = 0.05
    """The share of the training that saving may cost."""
    folder: Path | None = None
    """Where to write the checkpoints, to be deleted at the end; by default the system's folder for
    temporary files."""
    json: Path | None = None
    """A JSON file to keep the numbers in."""


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
    from jaxnets.files import write_json

    constraints.check(config)
    mesh = machine.start(config.devices)
    checks.check_batch(config.batch_size, mesh)
    numbers = {"machine": machine.environment()}
    with _folder(config.folder) as folder:
        numbers = {**_measure(config, mesh, folder), **numbers}
    if config.json is not None:
        write_json(config.json, numbers)
    print(json.dumps(numbers, indent=2))
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


class _Training:
    """A run without evaluations: its state, and the call that the loop makes again and again."""

    def __init__(self, config: Checkpoints, mesh: Any):
        import jax
        from jax.sharding import NamedSharding, PartitionSpec

        from jaxnets import parallel
        from jaxnets.typing import DATA_AXIS

        work = cases.build(_case(config))
        steps = config.steps_per_call
        self._step = parallel.compile_step(work.step, mesh, steps_per_call=steps)
        axes = PartitionSpec(DATA_AXIS) if steps == 1 else PartitionSpec(None, DATA_AXIS)
        self._feed = jax.device_put(work.feed(steps), NamedSharding(mesh, axes))
        self.state = parallel.replicate(_with_average(work.state), mesh)

    def calls(self, count: int) -> None:
        """Trains on; waits for each call's metrics, as the loop does."""
        import jax

        for _ in range(count):
            self.state, metrics = self._step(self.state, self._feed)
            jax.device_get(metrics)


def _case(config: Checkpoints) -> cases.Case:
    size = {
        "width": config.width,
        "batch_size": config.batch_size,
        "image_size": config.image_size,
    }
    if config.kind == "classifier":
        return cases.ClassifierCase(network=config.network, **size)
    return cases.GanCase(**size)


def _with_average(state: TrainState) -> TrainState:
    """The state with the moving average of the weights that `classify` and `generate` save."""
    import jax
    import jax.numpy as jnp

    nets = dict(state.nets)
    for name in ("classifier", "generator"):
        if name in nets:
            net = nets[name]
            average = {"params": net.params, "model_state": net.model_state}
            nets[name] = dataclasses.replace(net, ema=jax.tree.map(jnp.copy, average))
    return dataclasses.replace(state, nets=nets)


def _measure(config: Checkpoints, mesh: Any, folder: Path) -> dict[str, Any]:
    """Everything but the machine.

    `save_alone_seconds` is how long a save takes while nothing else runs; `checksum_seconds` what
    of it goes to the checksums of arrays and files.
    """
    import jax

    from jaxnets.checkpoint import Checkpoints as Saver
    from jaxnets.task import FitOptions

    training = _Training(config, mesh)
    keep = FitOptions().keep
    with Saver(folder / "checkpoints", keep=keep) as saver:
        alone = []
        for _ in range(keep + 1):  # from then on, each save deletes an old checkpoint
            training.calls(1)
            alone.append(_seconds(lambda: (saver.save(training.state), saver.wait())))
        call = min(_seconds(lambda: training.calls(1)) for _ in range(3))
        calls = math.ceil(max(config.min_seconds, 3 * alone[-1]) / call)
        windows: dict[bool, list[Window]] = {True: [], False: []}
        for round_ in range(config.rounds):
            for saves in (True, False) if round_ % 2 else (False, True):
                windows[saves].append(_window(training, saver, calls, saves))
        written = folder / "checkpoints" / str(saver.latest_step())
        sums = _checksums(training.state, written)
    files = [path.stat().st_size for path in written.rglob("*") if path.is_file()]
    found = figures(windows[True], windows[False], config.save_seconds)
    steps = calls * config.steps_per_call
    return {
        "case": _case(config).name,
        "devices": config.devices,
        "steps_per_call": config.steps_per_call,
        "steps_in_a_window": steps,
        "step_seconds": statistics.median(found["without_seconds"]) / steps,
        "arrays": len(jax.tree.leaves(training.state)),
        "checkpoint_bytes": sum(files),
        "checkpoint_files": len(files),
        "save_alone_seconds": alone[-1],
        "checksum_seconds": sums,
        **found,
        "max_share": config.max_share,
    }


def _window(training: _Training, saver: Saver, calls: int, saves: bool) -> Window:
    begin = time.perf_counter()
    blocking = 0.0
    if saves:
        saver.save(training.state)
        blocking = time.perf_counter() - begin
    training.calls(calls)
    seconds = time.perf_counter() - begin
    return Window(seconds, blocking, _seconds(saver.wait) if saves else 0.0)


def _checksums(state: TrainState, written: Path) -> Mapping[str, float]:
    """Seconds of a state's checksums, on their own; of the files' those that reading takes."""
    from jaxnets import integrity

    step = int(written.name)
    ways = {
        "arrays": lambda: integrity.array_sums(state)(),
        "files": lambda: integrity.read_manifest(written, step),
    }
    return {name: min(_seconds(way) for _ in range(3)) for name, way in ways.items()}


def _seconds(function: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin
