"""Processes that are killed, and processes that are told to end."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator, Sequence

from experiments.chaos.faults import Chain, Fault, Moment, Phase, dealt, in_chains, lose, shares
from experiments.chaos.striking import Striker
from experiments.chaos.trainee import Trainee

#: A process gets so long to save its state and to be gone, by the promise of `jaxnets.fit`.
TERM_SECONDS = 10.0

_KILLS: tuple[Phase, ...] = ("start", "train", "save", "train", "save", "save", "end")
_TERMS: tuple[Phase, ...] = ("start", "compile", "train", "save", "train", "end")

#: Kills of one run folder, so many that most runs are struck in every phase.
_LENGTH = 5


def plan_kills(seed: int, count: int, runs: Sequence[str]) -> list[Chain]:
    """When which run is killed: the same for the same seed.

    Where there are ten or more of an experiment, one of its runs is killed for the first time in a
    start that finds nothing compiled and no data prepared, and goes on with what is left of them.
    """
    chains = []
    for run, share in shares(count, runs).items():
        rng = random.Random(f"kills {run} {seed}")
        phases = dealt(_KILLS, rng)
        cold = share >= 10
        moments = _moments(phases, share - cold, rng)
        made = in_chains("kills", run, moments, _LENGTH)
        if cold:
            made.append(Chain("kills", run, len(made) + 1, (Moment("cold", rng.random()),)))
        chains += made
    return chains


def plan_terms(seed: int, count: int, runs: Sequence[str]) -> list[Chain]:
    """When which run gets SIGTERM: the same for the same seed."""
    chains = []
    for run, share in shares(count, runs).items():
        rng = random.Random(f"terms {run} {seed}")
        chains += in_chains("terms", run, _moments(dealt(_TERMS, rng), share, rng), _LENGTH)
    return chains


def _moments(phases: Iterator[Phase], count: int, rng: random.Random) -> list[Moment]:
    return [Moment(next(phases), rng.random()) for _ in range(count)]


class Killer(Striker):
    """SIGKILL: the process gets to do nothing any more."""

    def start(self, arguments: Sequence[str], name: str, chain: Chain, done: int) -> Trainee:
        """A chain that is struck cold has a cache folder of its own."""
        if chain.faults[0].phase != "cold":
            return self.stage.start(arguments, name)
        own = self.stage.folder / f"cache-{chain.name}"
        return self.stage.start(arguments, name, JAXNETS_CACHE=str(own))

    def hit(self, trainee: Trainee, fault: Fault, planned: Moment) -> Sequence[str] | None:
        """Kills it."""
        trainee.send(signal.SIGKILL)
        if trainee.wait() != -signal.SIGKILL:
            return None
        fault.outcome = "killed"
        return trainee.arguments


class Terminator(Striker):
    """SIGTERM: the process saves its state, says how to go on, and is gone."""

    def start(self, arguments: Sequence[str], name: str, chain: Chain, done: int) -> Trainee:
        """One that is struck in compiling finds nothing compiled, and keeps nothing."""
        if done < len(chain.faults) and chain.faults[done].phase == "compile":
            return self.stage.start(arguments, name, JAX_ENABLE_COMPILATION_CACHE="false")
        return self.stage.start(arguments, name)

    def hit(self, trainee: Trainee, fault: Fault, planned: Moment) -> Sequence[str] | None:
        """Sends the signal, and looks at how the process leaves."""
        begun, trained = trainee.begun(), trainee.trained()
        begin = time.monotonic()
        trainee.send(signal.SIGTERM)
        code = trainee.wait()
        fault.seconds = time.monotonic() - begin
        # One that had not got as far as to Python's first line dies of it; a shell shows 143 too.
        status = 128 - code if code < 0 else code
        if status == 0 and trained:
            return None  # it had ended
        fault.outcome = f"gone after {fault.seconds:.2f} s"
        command = trainee.command_to_go_on()
        why = trainee.untidy()
        if why is None and status != 128 + signal.SIGTERM:
            why = f"the exit code was {status}{trainee.last_words()}"
        if why is None and fault.seconds > TERM_SECONDS:
            why = f"it was gone after {fault.seconds:.1f} s only"
        if why is None and begun and not (trained or "and saved at step" in trainee.err):
            why = f"it did not save{trainee.last_words()}"
        done = "report: " in trainee.out  # all is written and said, and Python was ending
        if why is None and command is None and "run folder: " in trainee.out and not done:
            why = f"it did not say how to go on{trainee.last_words()}"
        if why is not None:
            lose([fault], why, trainee.folder)
        return trainee.arguments if command is None else command
