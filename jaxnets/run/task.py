"""What the loop is told: a task, how to run it, and what it hands back."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import jax

from jaxnets.devices.parallel import Mode
from jaxnets.run.writers import OpenWriter, TensorBoard
from jaxnets.train.descent import Step
from jaxnets.train.state import TrainState
from jaxnets.typing import Feeder, PyTree

__all__ = ["FitOptions", "FitResult", "Lazily", "Ranking", "Task", "take_feed"]


@dataclasses.dataclass(frozen=True)
class Lazily:
    """A step with a costly term at every n-th step, and one without it at the others.

    Lazy regularisation, where the costly step has n times the term's weight (Karras et al. 2020,
    arXiv:1912.04958, appendix B). Which step it is follows from its number, which the host knows:
    so these are two compiled programs, and not one with a branch that both would pay for.

    Attributes:
      costly: taken at the steps 0, n, 2 n, ...
      cheap: taken at the others; with the same state.
      every: n, at least 1.
    """

    costly: Step
    cheap: Step
    every: int

    def steps(self, first: int, count: int) -> tuple[Step, ...]:
        """The steps to take from number `first` on."""
        numbers = range(first, first + count)
        return tuple(self.cheap if n % self.every else self.costly for n in numbers)


def take_feed(pipeline: Feeder, first_step: int, steps: int) -> PyTree:
    """What a pipeline feeds to one call of a step that was compiled for so many steps a call.

    Args:
      pipeline: see `jaxnets.typing.Feeder`.
      first_step: the number of the call's first step.
      steps: steps a call.

    Returns:
      Leaves [B, ...] for one step, else [steps, B, ...]; with several processes, each has its rows.
    """
    feed = pipeline.feed(first_step, steps)
    return jax.tree.map(lambda leaf: leaf[0], feed) if steps == 1 else feed


@dataclasses.dataclass(frozen=True)
class Ranking:
    """By which metric of the evaluations a state is better than another.

    Attributes:
      metric: its name.
      higher_is_better: what better means. A value that is not finite never ranks.
      patience: stop when the metric has not improved this many evaluations in a row, and end with
        the best state (early stopping); None trains to the end.
    """

    metric: str
    higher_is_better: bool = True
    patience: int | None = None


@dataclasses.dataclass(frozen=True)
class Task:
    """What an experiment hands to the loop.

    Attributes:
      name: shown as the progress' title.
      init: makes the first state.
      step: `(state, batch) -> (state, metrics)`, or two of them in turn.
      pipeline: where batches come from.
      total_steps: how many steps the run takes.
      evaluate: state -> name -> number.
      preview: writes pictures of what the state can do into a folder, and gives the PNG files by
        their names; None where there is nothing to see.
      ranking: what the best states are; None where they are not to be told apart.
      shown: the few numbers, of the training and the evaluations, that a line of progress has ->
        what each is called there; None shows all of an evaluation.
      headline: the one of them whose best value so far is told; nothing else goes by it.
      tell_time: (seconds to the end, seconds of the whole run at this speed) -> what to say of it.
      warn: metrics of the training or of an evaluation, and the `epoch` -> kind of trouble ->
        sentence; each kind is said once.
    """

    name: str
    init: Callable[[], TrainState]
    step: Step | Lazily
    pipeline: Feeder
    total_steps: int
    evaluate: Callable[[TrainState], dict[str, float]]
    preview: Callable[[TrainState, Path], Mapping[str, Path]] | None = None
    ranking: Ranking | None = None
    shown: Mapping[str, str] | None = None
    headline: Ranking | None = None
    tell_time: Callable[[float, float], str] = lambda left, whole: ""
    warn: Callable[[Mapping[str, float]], Mapping[str, str]] | None = None


@dataclasses.dataclass(frozen=True)
class FitOptions:
    """How the loop runs. The updates are the same whatever stands here.

    Evaluations come at the ends of calls, so with early stopping `steps_per_call` and
    `eval_every` decide which state is the best.

    Attributes:
      mode: "jit" or "pmap".
      steps_per_call: steps that one call of the compiled program makes. What is done every so
        many steps is done at the end of the call in which they are reached.
      shard_params: divide parameters, optimiser state and averages among the devices (see
        `jaxnets.compile_step`).
      log_every: steps between records of training metrics.
      eval_every: steps between evaluations (and previews); 0 leaves all but the last out.
      save_every: steps between checkpoints; 0 leaves all but the last out.
      keep: how many of the latest checkpoints are kept.
      keep_best: how many of the best are kept beside them, by the task's ranking.
      max_rollbacks: how often a run whose numbers are no longer finite goes back to its last good
        checkpoint and tries other random numbers, before it gives up.
      grace_seconds: what a run gets to save after a signal.
      writers: of the numbers and pictures, beside `metrics.jsonl`.
      resume_hint: how to go on, for the last words of a run that could not save in that time.
    """

    mode: Mode = "jit"
    steps_per_call: int = 1
    shard_params: bool = False
    log_every: int = 50
    eval_every: int = 0
    save_every: int = 0
    keep: int = 2
    keep_best: int = 0
    max_rollbacks: int = 3
    grace_seconds: float = 8.0
    writers: tuple[OpenWriter, ...] = (TensorBoard,)
    resume_hint: str = "run the same command again"


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
      trained: whether this process made a step; not, where the run had ended already.
    """

    state: TrainState
    metrics: dict[str, float]
    seconds: float
    compile_seconds: float
    images_per_second: float
    stopped_early: bool
    trained: bool = True
