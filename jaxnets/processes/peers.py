"""The processes of one run, as each of them sees the others: alive, of one mind, gone.

A collective operation waits for a process that has died until some time-out of its library, or for
ever, and nothing in Python can interrupt it. So every process has threads that watch the lines to
the others (see `jaxnets.processes.lines`); the kernel closes the lines of a process that dies,
however it dies, and what finds that says so and ends its own process.

Process 0 is the hub: the others have a line to it alone.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jaxnets.processes.lines import Gone, Line, Stranger

__all__ = ["Peers"]

#: Every process is heard of this often, and given up when it has not been for so long: its machine
#: or the network is gone. The death of a process alone is seen at once.
_BEAT_SECONDS = 2.0
_SILENCE_SECONDS = 30.0

#: The round in which all tell how many points they have passed.
_HOW_FAR = 0

#: What makes one process fail makes most others fail too; they get so long to say so themselves.
_OWN_WORDS_SECONDS = 2.0


class Peers:
    """One process's side of what the processes of a run have to tell each other.

    Attributes:
      index: number of this process.
      count: how many there are.
      names: of all, for people.
      on_stop: called with a signal, in a thread, when the processes are asked to leave for it.
      on_jax: called with what jax sends: from which process, over which of its streams, what.
      hint: what to add to the news that a process is gone: how to go on.
    """

    def __init__(self, index: int, lines: Mapping[int, Line], names: Sequence[str]):
        self.index, self.count, self.names = index, len(names), list(names)
        self.on_stop: Callable[[int], None] = lambda signum: None
        self.on_jax: Callable[[int, int, str], None] = lambda other, stream, data: None
        self.hint: Callable[[], str] = lambda: ""
        self._lines, self._everyone = dict(lines), (*lines, index)
        self._turn = threading.Condition()
        self._leaving = threading.Lock()
        self._over = threading.Event()
        # Gathering, in rounds from 1: process 0 collects, and all get the outcome.
        self._round = 0
        self._given: dict[int, dict[int, Any]] = {}
        self._gathered: dict[int, list[Any]] = {}
        # How many points were passed, which all processes pass in the same order.
        self._passed, self._signum = 0, 0

    def start(self) -> None:
        """Starts the threads."""
        threading.Thread(target=self._beat, daemon=True, name="heartbeat").start()
        for other, line in self._lines.items():
            threading.Thread(
                target=self._listen, args=(other, line), daemon=True, name=f"line to {other}"
            ).start()

    def gather(self, value: Any) -> list[Any]:
        """Waits for every process to call it, and gives all of them the values of all.

        Args:
          value: of JSON types.
        """
        self._round += 1
        number = self._round
        self.send(0, kind="give", number=number, value=value)
        with self._turn:
            self._turn.wait_for(lambda: number in self._gathered)
            return self._gathered.pop(number)

    # Stopping. A signal may reach one process only, and all must save the same step: the first
    # point that none has passed yet. None goes on before all have told how far they are.

    def ask_to_stop(self, signum: int) -> None:
        """Makes all processes leave for a signal, at one point; may be called in any thread."""
        self.send(0, kind="ask", signum=signum)

    def pass_point(self) -> int:
        """Called by all processes in the same order, wherever they could leave.

        Returns:
          The signal that all of them leave for at this point or have been asked to at an earlier
          one; 0 to go on.
        """
        with self._turn:
            self._turn.wait_for(lambda: not self._signum or _HOW_FAR in self._gathered)
            self._passed += 1
            goes_on = not self._signum or self._passed <= max(self._gathered[_HOW_FAR])
            return 0 if goes_on else self._signum

    # The end.

    def finish(self) -> None:
        """Returns when every process has called it: from then on none needs another."""
        self.gather(None)
        self._over.set()

    def fail(self, code: int, sentence: str) -> None:
        """Tells the others that this process ends, with which exit code, and why."""
        self._tell(self._lines, kind="failed", process=self.index, code=code, sentence=sentence)

    # What the threads do.

    def _beat(self) -> None:
        while not self._over.wait(_BEAT_SECONDS):
            self._tell(self._lines, kind="beat")

    def _listen(self, other: int, line: Line) -> None:
        while True:
            try:
                message = line.receive(_SILENCE_SECONDS)
                self._heed(other, **message)
            except TimeoutError:
                return self._lose(other, f"has not been heard of for {_SILENCE_SECONDS:g} s")
            except Gone:
                return self._lose(other, "has died")
            except Stranger as error:
                return self._lose(other, str(error))

    def _heed(self, other: int, kind: str, **message: Any) -> None:
        getattr(self, f"_on_{kind}")(other, **message)

    def _on_beat(self, other: int) -> None:
        """That it came is all it says."""

    def _on_jax(self, other: int, stream: int, data: str) -> None:
        self.on_jax(other, stream, data)

    def _on_give(self, other: int, number: int, value: Any) -> None:
        with self._turn:
            values = self._given.setdefault(number, {})
            values[other] = value
            if len(values) < self.count:
                return
            del self._given[number]
        ordered = [values[i] for i in range(self.count)]
        self._tell(self._everyone, kind="gathered", number=number, values=ordered)

    def _on_gathered(self, other: int, number: int, values: list[Any]) -> None:
        with self._turn:
            self._gathered[number] = values
            self._turn.notify_all()

    def _on_ask(self, other: int, signum: int) -> None:
        """In process 0: someone got a signal. The first one counts."""
        with self._turn:
            if self._signum:
                return
            self._signum = signum
        self._tell(self._everyone, kind="stop", signum=signum)

    def _on_stop(self, other: int, signum: int) -> None:
        with self._turn:
            self._signum, passed = signum, self._passed
        self.send(0, kind="give", number=_HOW_FAR, value=passed)
        self.on_stop(signum)

    def _lose(self, other: int, why: str) -> None:
        if not self._over.is_set():  # otherwise it has nothing more to say
            self._on_lost(other, other, why)

    def _on_lost(self, other: int, process: int, why: str) -> None:
        self._tell(self._lines, other, kind="lost", process=process, why=why)
        hint = self.hint()
        self._leave(
            f"error: process {process} of {self.count} ({self.names[process]}) {why}, so this one "
            "ends too" + (f"; {hint}" if hint else ""),
            128 + self._signum if self._signum else 1,
        )

    def _on_failed(self, other: int, process: int, code: int, sentence: str) -> None:
        self._tell(self._lines, other, kind="failed", process=process, code=code, sentence=sentence)
        time.sleep(_OWN_WORDS_SECONDS)  # meanwhile nobody reads that the line is closed
        self._leave(f"process {process} of {self.count} has stopped: {sentence}", code)

    def _leave(self, sentence: str, code: int) -> None:
        """Ends the process at once: its main thread may be in a collective that never ends."""
        self._leaving.acquire()  # for good: one sentence is enough
        os.write(2, f"{sentence}\n".encode())
        os._exit(code)

    def _tell(self, others: Iterable[int], leave_out: int = -1, **message: Any) -> None:
        for other in others:
            if other != leave_out:
                self.send(other, **message)

    def send(self, other: int, **message: Any) -> None:
        """Sends a message to a process to which there is a line, or to this one itself."""
        if other == self.index:
            return self._heed(other, **message)
        with contextlib.suppress(Gone):  # the thread that listens to it finds out, and says so
            self._lines[other].send(message)
