"""How a run folder is struck again and again until its run ends, and what is then asked of it."""

from __future__ import annotations

import abc
import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from experiments.chaos.faults import Chain, Fault, Moment, lose
from experiments.chaos.trainee import Stage, Stuck, Trainee
from experiments.chaos.undisturbed import Reference, judge
from jaxnets.errors import UserError

#: Run folders that a chain may take. A run that ends before it can be struck is made anew.
_ATTEMPTS = 12


class Striker(abc.ABC):
    """Does the faults of one kind to the runs of one experiment."""

    def __init__(self, stage: Stage, reference: Reference):
        """Sets it up.

        Args:
          stage: where the runs are made.
          reference: what they would be undisturbed.
        """
        self.stage, self.reference = stage, reference

    @abc.abstractmethod
    def hit(self, trainee: Trainee, fault: Fault, planned: Moment) -> Sequence[str] | None:
        """Does the fault, and waits for the process to end.

        Returns:
          The arguments of the command that the run goes on with; None if the process had ended
          before it was struck. What is wrong already goes into the fault.
        """

    def start(self, arguments: Sequence[str], name: str, chain: Chain, done: int) -> Trainee:
        """Starts a process of a chain's run, `done` of whose faults have been done."""
        del chain, done
        return self.stage.start(arguments, name)

    def verdict(self, folder: Path) -> str | None:
        """What is wrong with the run that has ended; by default, with its bits."""
        return judge(self.stage, folder, self.reference.final)

    def discard(self, folder: Path) -> None:
        """Deletes the folder of a run that has survived."""
        shutil.rmtree(folder)

    def strike(self, chain: Chain) -> list[Fault]:
        """Does a chain's faults, in as many run folders as it takes."""
        faults: list[Fault] = []
        pending = list(chain.faults)
        for attempt in range(1, _ATTEMPTS + 1):
            if not pending:
                return faults
            struck = self._strike_one(chain, pending, attempt)
            if not struck:  # it ended before: sooner, next time
                pending[0] = dataclasses.replace(pending[0], fraction=pending[0].fraction / 2)
            del pending[: len(struck)]
            faults += struck
        raise UserError(
            f"the runs of {chain.name} end before they can be struck; is the machine changing its "
            "speed?"
        )

    def _strike_one(self, chain: Chain, pending: Sequence[Moment], attempt: int) -> list[Fault]:
        """Strikes one run folder until nothing is pending or the run has ended, and judges it."""
        folder = self.stage.folder / f"{chain.name}-{attempt}"
        arguments: Sequence[str] = [*self.reference.arguments, "--run-dir", str(folder)]
        struck: list[Fault] = []
        before = len(chain.faults) - len(pending)
        try:
            while True:
                done = before + len(struck)
                name = f"{folder.name}.{len(struck) + 1}"
                trainee = self.start(arguments, name, chain, done)
                if len(struck) == len(pending):
                    break
                planned = pending[len(struck)]
                share = 1 / len(chain.faults)
                if not trainee.wait_for(planned, self.reference.timing, share):
                    break
                fault = Fault(chain.kind, chain.run, str(planned), at_seconds=trainee.age)
                after = self.hit(trainee, fault, planned)
                if after is None:
                    break
                struck.append(fault)
                self._tell(chain, fault, done + 1)
                arguments = after
            code = trainee.wait()
            why = (
                f"going on ended with exit code {code}{trainee.last_words()}"
                if code
                else trainee.untidy() or self.verdict(folder)
            )
        except Stuck as stuck:
            why = str(stuck)
        if why is not None and not struck:  # it fell before it was struck
            struck.append(Fault(chain.kind, chain.run, str(pending[0])))
        if why is not None:
            lose(struck, why, folder)
            self.stage.say(f"{folder.name}: LOST, {why}")
        elif not any(fault.lost for fault in struck):
            self.discard(folder)
        return struck

    def _tell(self, chain: Chain, fault: Fault, number: int) -> None:
        trouble = f", LOST: {fault.lost}" if fault.lost else ""
        self.stage.say(
            f"{chain.name}: {number}/{len(chain.faults)}  {fault.what}  at {fault.at_seconds:.1f} s"
            f"  {fault.outcome}{trouble}"
        )
