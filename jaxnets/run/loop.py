"""The training loop. It can't tell a GAN from a CNN."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from jaxnets.devices.parallel import bytes_per_device, compile_step, place, replicate
from jaxnets.errors import UserError
from jaxnets.files import read_json
from jaxnets.judge.evaluate import to_look_at
from jaxnets.processes import distributed
from jaxnets.run import guard
from jaxnets.run.checkpoint import Checkpoints
from jaxnets.run.interruption import Cut, Interrupted, Interruption
from jaxnets.run.log import MetricLog, Progress, read_records
from jaxnets.run.task import FitOptions, FitResult, Lazily, Ranking, Task, take_feed
from jaxnets.train.descent import Step
from jaxnets.train.state import TrainState
from jaxnets.typing import Metrics

__all__ = ["fit"]


def fit(task: Task, folder: Path, mesh: Mesh, options: FitOptions) -> FitResult:
    """Trains from the start, or from the newest checkpoint in the folder, to the end.

    What happens at a step depends on the step's number alone, never on when the process began, so
    a run that was interrupted and started again ends with the same bits.

    Several processes that `jaxnets.processes.distributed.start` has brought together all call it,
    with the devices of all of them and a folder that all of them see; process 0 writes what is no
    checkpoint.

    Args:
      task: what to train.
      folder: of the run; gets `metrics.jsonl`, `tensorboard/`, `checkpoints/`, `samples/`.
      mesh: the devices.
      options: see `FitOptions`.

    Returns:
      A `FitResult`.

    Raises:
      Interrupted: after SIGINT or SIGTERM, once the state is saved.
      UserError: if a checkpoint can't be written, there were checkpoints and none of them is good,
        or the numbers of the run stay non-finite.
    """
    if task.total_steps < 1:
        raise UserError(f"{task.total_steps} training steps were asked for; at least 1 is needed")
    if jax.process_count() != distributed.count():
        raise UserError(
            f"there are {jax.process_count()} processes that do not know each other; start them "
            "by jaxnets.processes.distributed.start instead of jax.distributed.initialize"
        )
    run = _Run(task, folder, mesh, options)
    try:
        with run.checkpoints:
            return run.to_the_end()
    finally:
        task.pipeline.close()


#: A speed is known after so many seconds of training, and is another beyond this factor.
_SETTLED, _OTHER = 5.0, 1.5

_ADVICE = "lower the learning rate, or clip gradients with --clip-norm, in a new run folder"


def _first_notes() -> dict[str, Any]:
    """What a run must remember across processes, kept beside its state; at its start."""
    ranked = {"best": None, "best_step": 0, "stale": 0, "stopped": False}
    done = {"train_seconds": 0.0, "rollbacks": 0, "unevaluated": False}
    return {**ranked, **done, "told_pace": None}


class _Run:
    """The moving parts of one `fit`."""

    def __init__(self, task: Task, folder: Path, mesh: Mesh, options: FitOptions):
        self.task, self.folder, self.mesh, self.options = task, folder, mesh, options
        step = task.step.costly if isinstance(task.step, Lazily) else task.step
        if num_classes := getattr(step, "num_classes", None):
            task.pipeline.check_classes(num_classes)
        ranking = task.ranking
        stops = ranking is not None and ranking.patience is not None
        read_records(folder / "metrics.jsonl")  # one that can't be read, before anything changes
        config = folder / "config.json"
        self.checkpoints = Checkpoints(
            folder / "checkpoints",
            keep=options.keep,
            keep_best=max(options.keep_best, int(stops)),
            higher_is_better=ranking is None or ranking.higher_is_better,
            about=read_json(config) if config.exists() else None,
            say=lambda text: self.progress.say(text),
        )
        self.silent = not distributed.writes()
        size, examples = task.pipeline.batch_size, task.pipeline.num_examples
        self.progress = Progress(
            task.total_steps, size, examples, shown=task.shown, silent=self.silent
        )
        self.state = self._first_state()
        self.notes = _first_notes()
        if distributed.agree(self.checkpoints.ever_saved()):
            self._restore()
        self.step = int(self.state.step)
        self.metrics: dict[str, float] = {}
        self._trained: dict[str, float] = {}
        self._paced = False
        self._warned: set[str] = set()
        self._compiled: dict[tuple[Step, ...], Callable[..., tuple[TrainState, Metrics]]] = {}
        self._source = replicate(task.pipeline.source, mesh)
        self.compile_seconds = 0.0

    def to_the_end(self) -> FitResult:
        task, begun = self.task, self.step
        again = self.notes["unevaluated"]
        writers = self.options.writers
        # Imports much: not on the clock.
        self.log = MetricLog(
            self.folder, self.step, unevaluated=again, silent=self.silent, writers=writers
        )
        self.progress.start(self.step)
        self.interruption = Interruption(self.options.grace_seconds, self._last_words)
        with self.log, self.progress, self.interruption:
            if self.options.shard_params:
                size, devices = bytes_per_device(self.state) / 1e6, self.mesh.size
                self.progress.say(
                    f"{task.name}: the state takes {size:,.2f} MB on each of {devices} devices"
                )
            if self.step:
                self.progress.say(f"{task.name}: going on from step {self.step}")
            try:
                self._catch_up()
                while self.step < task.total_steps and not self.notes["stopped"]:
                    self._advance()
                    self._leave_if_asked()
                speed = self.progress.images_per_second(self.step)  # before what follows counts
                self.checkpoints.save_and_wait(self.state, self.notes)
                stopped = self.notes["stopped"]
                if stopped or (task.ranking is not None and task.ranking.patience is not None):
                    self.state, _ = self.checkpoints.restore(self.state, best=True)
                    self.metrics = {}
                if not self.metrics:  # resumed after the end, or back at an earlier state
                    with self.interruption.cuttable(self._rescue):
                        self.metrics = distributed.agree(task.evaluate(self.state))
                self._leave_if_asked()  # what comes after the loop may take long
            except Cut:
                self._mark_unevaluated()
                self._leave_if_asked()
                raise AssertionError("only a signal cuts") from None
            return FitResult(
                state=self.state,
                metrics=self.metrics,
                seconds=self.notes["train_seconds"],
                compile_seconds=self.compile_seconds,
                images_per_second=speed,
                stopped_early=stopped,
                trained=self.step > begun,
            )

    def _leave_if_asked(self) -> None:
        if signum := self.interruption.asked_to_leave():
            self.checkpoints.save_and_wait(self.state, self.notes)
            raise Interrupted(self.step, signum)

    def _mark_unevaluated(self) -> None:
        self.notes["unevaluated"] = not self.notes["stopped"]

    def _rescue(self, signum: int) -> str:
        """Saves the state while the main thread evaluates it; what is said then."""
        self._mark_unevaluated()
        self.checkpoints.save_and_wait(self.state, self.notes)
        return f"{Interrupted(self.step, signum)}; {self.options.resume_hint}"

    def _last_words(self, signum: int) -> str:
        newest = self.checkpoints.newest_on_disk()
        kept = "no step was saved yet" if newest is None else f"the newest checkpoint is {newest}"
        return (
            f"the call under way did not end within {self.options.grace_seconds:g} s of the "
            f"signal, so the run leaves without saving; {kept}; {self.options.resume_hint}"
        )

    def _advance(self) -> None:
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
            self.progress.leave_out(seconds, steps)
            if len(self._compiled) == 1:
                self.progress.say(f"{task.name}: {self.progress}; compiled in {seconds:.0f} s")
        values = {name: mean.compute() for name, mean in metrics.items()}
        faults, members = guard.find_faults(values, before, steps), guard.members(values)
        self._trained = values = guard.without_flags(values)
        self.progress.update(self.step, values)
        for fault in faults:
            if not fault.member:
                return self._go_back(fault)
            self._warn({fault.member: f"{fault.member} diverged: {fault}"})
        if faults and len(faults) == len(members):
            raise UserError(f"every member of the population diverged; {_ADVICE}")
        self._tell_time()
        last = self.step == task.total_steps

        def due(every: int) -> bool:
            return last or (every > 0 and before // every != self.step // every)

        if due(options.log_every):
            speed = self.progress.images_per_second(self.step)
            record = {**values, "epoch": self._epoch(), "images_per_second": speed}
            self.log.write("train", self.step, record)
            self._warn_of(record)
        begin = time.monotonic()
        value = self._evaluate() if due(options.eval_every) else None
        ranks = value is not None and distributed.agree(self.checkpoints.would_be_kept(value))
        if due(options.save_every) or ranks or self.notes["stopped"]:
            self.checkpoints.save(self.state, self.notes, value)
        self.progress.leave_out(time.monotonic() - begin, again=True)

    def _tell_time(self) -> None:
        """Says how long the run will take, once the speed is known; again only for another one."""
        left, told = self.progress.seconds_left(self.step), self.notes["told_pace"]
        if self._paced or not left > 0 or self.progress.seconds < _SETTLED:
            return
        self._paced, pace = True, left / (self.task.total_steps - self.step)
        if told is None or not 1 / _OTHER < pace / told < _OTHER:
            self.notes["told_pace"] = pace
            begin = time.monotonic()
            if said := self.task.tell_time(left, pace * self.task.total_steps):
                self.progress.say(said)
            self.progress.leave_out(time.monotonic() - begin)

    def _first_state(self) -> TrainState:
        return place(self.task.init(), self.mesh, shard_params=self.options.shard_params)

    def _restore(self) -> None:
        self.state, notes = self.checkpoints.restore(self.state, repair=True)
        self.notes.update(notes)

    def _go_back(self, fault: guard.Fault) -> None:
        """Takes up the last good state again, with other random numbers from there on."""
        tried, spent = self.notes["rollbacks"], self.notes["train_seconds"]
        newest = self.checkpoints.latest_step()
        if tried >= self.options.max_rollbacks:
            plural = "" if tried == 1 else "s"
            others = f", and {tried} attempt{plural} with other random numbers" if tried else ""
            kept = "" if newest is None else f" (the newest checkpoint is that of step {newest})"
            raise UserError(f"training diverged: {fault}{others}; {_ADVICE}{kept}")
        # A process that is killed before the next save does all of this again, to the same bits.
        if newest is None:
            self.state, self.notes = self._first_state(), _first_notes()
        else:
            self._restore()
        self.notes.update(rollbacks=tried + 1, train_seconds=spent)
        lost, self.step = self.step, int(self.state.step)
        self.progress.leave_out(0.0, self.step - lost)
        self.log.rewind(self.step, unevaluated=self.notes["unevaluated"])
        self.progress.say(
            f"warning: {fault}; going back to step {self.step} with other random numbers (attempt "
            f"{tried + 1} of {self.options.max_rollbacks})"
        )
        self._catch_up()
        key = jax.random.fold_in(self.state.key, tried + 1)
        self.state = dataclasses.replace(self.state, key=replicate(key, self.mesh))

    def _program(self, made: tuple[Step, ...]) -> Callable[..., tuple[TrainState, Metrics]]:
        """The program that takes these steps in one call."""
        if made not in self._compiled:
            self._compiled[made] = compile_step(
                made,
                self.mesh,
                self.options.mode,
                steps_per_call=len(made),
                fetch=self.task.pipeline.fetch,
                shard_params=self.options.shard_params,
            )
        return self._compiled[made]

    def _catch_up(self) -> None:
        """Judges a state that was saved before there was time for it."""
        if self.notes["unevaluated"] and (value := self._evaluate()) is not None:
            self.checkpoints.set_value(self.step, value)

    def _evaluate(self) -> float | None:
        """Judges the state; the value that it is ranked by, where there is one."""
        task = self.task
        with self.interruption.cuttable(self._rescue):
            self.metrics = distributed.agree(task.evaluate(self.state))
            self._preview()
        self.notes["unevaluated"] = False
        self.log.write("eval", self.step, {**self.metrics, "epoch": self._epoch()})
        rule, text = task.headline, ""
        if rule and (best := self.log.best(rule.metric, higher=rule.higher_is_better)):
            value, step = best
            text = f" (best {value:.4g}, epoch {self.progress.epochs(step)})"
            text = " (best so far)" if step == self.step else text
        trained = {} if task.shown is None else self._trained
        self.progress.say(self.progress.line(self.step, {**trained, **self.metrics}, text))
        self._warn_of({**self.metrics, "epoch": self._epoch()})
        return None if task.ranking is None else self._rank(task.ranking)

    def _preview(self) -> None:
        if self.task.preview is None:
            return
        shown = to_look_at(self.state)
        if distributed.writes():
            samples = self.folder / "samples"
            samples.mkdir(exist_ok=True)
            for name, path in self.task.preview(shown, samples).items():
                self.log.picture(self.step, name, path)

    def _rank(self, rule: Ranking) -> float:
        if rule.metric not in self.metrics:
            raise UserError(
                f"the best states are to be told by {rule.metric!r}, and the evaluation gives "
                f"{', '.join(self.metrics) or 'nothing'}"
            )
        value, best = self.metrics[rule.metric], self.notes["best"]
        if math.isfinite(value) and (
            best is None or (value > best if rule.higher_is_better else value < best)
        ):
            self.notes.update(best=value, best_step=self.step, stale=0)
            return value
        self.notes["stale"] += 1
        if rule.patience is not None and self.notes["stale"] >= rule.patience:
            self.notes["stopped"] = True
            self.progress.say(
                f"{self.task.name}: {rule.metric} has not improved since step "
                f"{self.notes['best_step']}; going back to it"
            )
        return value

    def _epoch(self) -> float:
        return self.step * self.task.pipeline.batch_size / self.task.pipeline.num_examples

    def _warn_of(self, values: Mapping[str, float]) -> None:
        self._warn(self.task.warn(values) if self.task.warn is not None else {})

    def _warn(self, troubles: Mapping[str, str]) -> None:
        for kind, sentence in troubles.items():
            if kind not in self._warned:
                self._warned.add(kind)
                self.progress.say(f"warning: step {self.step}: {sentence}")
