"""The training loop. It can't tell a GAN from a CNN."""

import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import jax
from jax.sharding import Mesh

from jaxnets.checkpoint import Checkpoints
from jaxnets.errors import UserError
from jaxnets.log import MetricLog, Progress, brief
from jaxnets.parallel import Lazily, Mode, compile_step, replicate, take_feed
from jaxnets.state import TrainState
from jaxnets.steps import Step
from jaxnets.typing import Batch, Metrics, PyTree

__all__ = ["EarlyStopping", "FitOptions", "FitResult", "Interrupted", "Task", "fit"]


class Feeder(Protocol):
    """What the loop asks of a data pipeline (see `jaxnets.data.pipeline`)."""

    batch_size: int

    @property
    def num_examples(self) -> int:
        """Size of the split: with the batch size, how many steps an epoch takes."""
        ...

    @property
    def source(self) -> PyTree:
        """Arrays that stay on the devices during the run."""
        ...

    def feed(self, first_step: int, steps: int) -> PyTree:
        """What is sent for some consecutive steps, leaves [steps, B, ...]."""
        ...

    def fetch(self, source: PyTree, feed: PyTree) -> Batch:
        """The batch of one step, inside the compiled program."""
        ...

    def close(self) -> None:
        """Ends reader threads."""
        ...


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """Stop when `metric` of the evaluations has not improved `patience` times in a row.

    The run ends with the state of its best evaluation.
    """

    metric: str
    patience: int
    higher_is_better: bool = True


@dataclasses.dataclass(frozen=True)
class Task:
    """What an experiment hands to the loop.

    Attributes:
      name: shown as the progress' title.
      init: makes the first state.
      step: `(state, batch) -> (state, metrics)`, or two of them in turn (`jaxnets.parallel`).
      pipeline: where batches come from.
      total_steps: how many steps the run takes.
      evaluate: state -> name -> number.
      preview: writes pictures of what the state can do into a folder; None where there is
        nothing to see.
      early_stopping: None trains to the end.
    """

    name: str
    init: Callable[[], TrainState]
    step: Step | Lazily
    pipeline: Feeder
    total_steps: int
    evaluate: Callable[[TrainState], dict[str, float]]
    preview: Callable[[TrainState, Path], None] | None = None
    early_stopping: EarlyStopping | None = None


@dataclasses.dataclass(frozen=True)
class FitOptions:
    """How the loop runs. The updates are the same whatever stands here.

    Evaluations come at the ends of calls, so with early stopping `steps_per_call` and
    `eval_every` decide which state is the best.

    Attributes:
      mode: "jit" or "pmap".
      steps_per_call: steps that one call of the compiled program makes. What is done every so
        many steps is done at the end of the call in which they are reached.
      log_every: steps between records of training metrics.
      eval_every: steps between evaluations (and previews); 0 leaves all but the last out.
      save_every: steps between checkpoints; 0 leaves all but the last out.
      keep: how many checkpoints are kept.
    """

    mode: Mode = "jit"
    steps_per_call: int = 1
    log_every: int = 50
    eval_every: int = 0
    save_every: int = 0
    keep: int = 2


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What a finished run gives.

    Attributes:
      state: the last one, or with early stopping the best.
      metrics: of the last evaluation of `state`.
      seconds: wall time of the steps, their compilation and their data, over all processes that
        worked on the run; without evaluations, previews and checkpoints.
      compile_seconds: of these, the first calls in this process, which compiled.
      images_per_second: mean speed after the first call, NaN if this process made no further one.
      stopped_early: whether early stopping ended the run.
    """

    state: TrainState
    metrics: dict[str, float]
    seconds: float
    compile_seconds: float
    images_per_second: float
    stopped_early: bool


class Interrupted(Exception):
    """A signal ended the run, after its state was saved.

    Attributes:
      step: the step that was saved.
      signum: the signal.
    """

    def __init__(self, step: int, signum: int):
        super().__init__(f"interrupted by {signal.Signals(signum).name} and saved at step {step}")
        self.step, self.signum = step, signum


def fit(task: Task, folder: Path, mesh: Mesh, options: FitOptions) -> FitResult:
    """Trains from the start, or from the newest checkpoint in the folder, to the end.

    What happens at a step depends on the step's number alone, never on when the process began, so
    a run that was interrupted and started again ends with the same bits.

    Args:
      task: what to train.
      folder: of the run; gets `metrics.jsonl`, `tensorboard/`, `checkpoints/`, `samples/`.
      mesh: the devices.
      options: see `FitOptions`.

    Returns:
      A `FitResult`.

    Raises:
      Interrupted: after SIGINT or SIGTERM, once the state is saved.
      UserError: if a checkpoint can't be written or read.
    """
    if task.total_steps < 1:
        raise UserError(f"{task.total_steps} training steps were asked for; at least 1 is needed")
    run = _Run(task, folder, mesh, options)
    try:
        with run.checkpoints, run.best or nullcontext():
            return run.to_the_end()
    finally:
        task.pipeline.close()


class _Run:
    """The moving parts of one `fit`."""

    def __init__(self, task: Task, folder: Path, mesh: Mesh, options: FitOptions):
        self.task, self.folder, self.mesh, self.options = task, folder, mesh, options
        self.checkpoints = Checkpoints(folder / "checkpoints", keep=options.keep)
        # Without early stopping there is no best state to keep apart.
        self.best = Checkpoints(folder / "best", keep=1) if task.early_stopping else None
        self.state = replicate(task.init(), mesh)
        # What a run must remember across processes, kept beside its state.
        self.notes: dict[str, Any] = {"best": None, "best_step": 0, "stale": 0, "stopped": False}
        self.notes["train_seconds"] = 0.0
        if self.checkpoints.latest_step() is not None:
            self.state, notes = self.checkpoints.restore(self.state)
            self.notes.update(notes)
        self.step = int(self.state.step)
        self.metrics: dict[str, float] = {}
        self._compiled: dict[tuple[Step, ...], Callable[..., tuple[TrainState, Metrics]]] = {}
        self._source = replicate(task.pipeline.source, mesh)
        self.compile_seconds = 0.0

    def to_the_end(self) -> FitResult:
        task = self.task
        log = MetricLog(self.folder, resume_step=self.step)  # imports much: before the clock starts
        progress = Progress(task.name, task.total_steps, self.step, task.pipeline.batch_size)
        with log, progress, _signals() as caught:
            if self.step:
                progress.say(f"{task.name}: going on from step {self.step}")
            while self.step < task.total_steps and not self.notes["stopped"]:
                self._advance(progress, log)
                if caught:
                    if self.best is not None:
                        self.best.wait()
                    self.checkpoints.save(self.state, self.notes)
                    self.checkpoints.wait()
                    raise Interrupted(self.step, caught[0])
            speed = progress.images_per_second(self.step)  # before what follows is counted in
            self.checkpoints.save(self.state, self.notes)
            stopped = self.notes["stopped"]
            if self.best is not None and self.best.latest_step() is not None:
                self.best.wait()
                self.state, _ = self.best.restore(self.state)
                self.metrics = {}
            if not self.metrics:  # resumed after the end, or back at an earlier state
                self.metrics = task.evaluate(self.state)
            if caught:  # during that evaluation
                raise Interrupted(self.step, caught[0])
            return FitResult(
                state=self.state,
                metrics=self.metrics,
                seconds=self.notes["train_seconds"],
                compile_seconds=self.compile_seconds,
                images_per_second=speed,
                stopped_early=stopped,
            )

    def _advance(self, progress: Progress, log: MetricLog) -> None:
        """One call of the compiled program, and what is due after it."""
        options, task = self.options, self.task
        begin = time.monotonic()
        # Calls lie on a grid of absolute steps, wherever the run was resumed.
        steps = options.steps_per_call - self.step % options.steps_per_call
        steps = min(steps, task.total_steps - self.step)
        step = task.step
        made = step.steps(self.step, steps) if isinstance(step, Lazily) else (step,) * steps
        first_call = made not in self._compiled
        feed = take_feed(task.pipeline, self.step, steps)
        self.state, metrics = self._program(made)(self.state, feed, self._source)
        metrics = jax.device_get(metrics)  # waits: at most one call is under way
        before, self.step = self.step, self.step + steps
        seconds = time.monotonic() - begin
        self.notes["train_seconds"] += seconds
        if first_call:
            self.compile_seconds += seconds
            progress.leave_out(seconds, steps)
        values = {name: mean.compute() for name, mean in metrics.items()}
        progress.update(self.step, values)
        last = self.step == task.total_steps

        def due(every: int) -> bool:
            return last or (every > 0 and before // every != self.step // every)

        if due(options.log_every):
            speed = progress.images_per_second(self.step)
            epoch = self.step * task.pipeline.batch_size / task.pipeline.num_examples
            log.write("train", self.step, {**values, "epoch": epoch, "images_per_second": speed})
        begin = time.monotonic()
        if due(options.eval_every):
            self._evaluate(progress, log)
        if due(options.save_every) or self.notes["stopped"]:
            if self.best is not None:
                self.best.wait()  # the notes name it: it must be on disk before they are
            self.checkpoints.save(self.state, self.notes)
        progress.leave_out(time.monotonic() - begin)

    def _program(self, made: tuple[Step, ...]) -> Callable[..., tuple[TrainState, Metrics]]:
        """The program that takes these steps in one call."""
        if made not in self._compiled:
            self._compiled[made] = compile_step(
                made,
                self.mesh,
                self.options.mode,
                steps_per_call=len(made),
                fetch=self.task.pipeline.fetch,
            )
        return self._compiled[made]

    def _evaluate(self, progress: Progress, log: MetricLog) -> None:
        task = self.task
        self.metrics = task.evaluate(self.state)
        log.write("eval", self.step, self.metrics)
        shown = brief(self.metrics)
        if shown:
            progress.say(f"{task.name}  step {self.step}: {shown}")
        if task.preview is not None:
            samples = self.folder / "samples"
            samples.mkdir(exist_ok=True)
            task.preview(self.state, samples)
        if task.early_stopping is not None:
            self._consider_stopping(task.early_stopping, progress)

    def _consider_stopping(self, rule: EarlyStopping, progress: Progress) -> None:
        if rule.metric not in self.metrics:
            raise UserError(
                f"early stopping watches {rule.metric!r}, and the evaluation gives "
                f"{', '.join(self.metrics)}"
            )
        value, best = self.metrics[rule.metric], self.notes["best"]
        better = math.isfinite(value) and (
            best is None or (value > best if rule.higher_is_better else value < best)
        )
        if better:
            self.notes.update(best=value, best_step=self.step, stale=0)
            # A resumed run comes by the same states again: what is saved already is the same.
            if self.best is not None and self.step > (self.best.latest_step() or 0):
                self.best.save(self.state)
        else:
            self.notes["stale"] += 1
            if self.notes["stale"] >= rule.patience:
                self.notes["stopped"] = True
                progress.say(
                    f"{self.task.name}: {rule.metric} has not improved since step "
                    f"{self.notes['best_step']}; going back to it"
                )


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying of them; a second SIGINT interrupts at once."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught  # Python lets only the main thread have handlers
        return

    def note(signum: int, frame: Any) -> None:
        if caught and signum == signal.SIGINT:
            raise KeyboardInterrupt
        caught.append(signum)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
