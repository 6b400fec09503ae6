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
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxnets.processes.lines import Gone, Line

__all__ = ["Peers"]

#: Every process is heard of this often, and given up when it has not been for so long: its machine
#: or the network is gone. The death of a process alone is seen at once.
_BEAT_SECONDS = 2.0
_SILENCE_SECONDS = 30.0

#: What makes one process fail makes most others fail too; they get so long to say so themselves.
_OWN_WORDS_SECONDS = 2.0


class Peers:
    """One process's side of what the processes of a run have to tell each other.

    Attributes:
      index: number of this process.
      count: how many there are.
      names: of all, for people.
      on_stop: called with a signal, in a thread, when the processes are asked to leave for it.
      on_jax: called with the number of a process and what jax sends from there.
      hint: what to add to the news that a process is gone: how to go on.
    """

    def __init__(self, index: int, lines: Mapping[int, Line], names: Sequence[str]):
        self.index, self.count, self.names = index, len(names), list(names)
        self.on_stop: Callable[[int], None] = lambda signum: None
        self.on_jax: Callable[[int, Mapping[str, Any]], None] = lambda other, message: None
        self.hint: Callable[[], str] = lambda: ""
        self._lines = dict(lines)
        self._turn = threading.Condition()
        self._leaving = threading.Lock()
        self._over = threading.Event()
        # Gathering: of this many rounds; process 0 collects, and all get the outcome.
        self._round = 0
        self._given: dict[int, dict[int, Any]] = {}
        self._gathered: dict[int, list[Any]] = {}
        # Stopping: at which of the points that all processes pass in the same order.
        self._passed, self._stop_at, self._signum = 0, -1, 0
        self._frozen = False
        self._at: dict[int, int] = {}

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
        self._tell_hub("give", round=number, value=value)
        with self._turn:
            self._turn.wait_for(lambda: number in self._gathered)
            return self._gathered.pop(number)

    # Stopping. A signal may reach one process only, and all must save the same step: the first
    # point that none has passed yet. While they are asked how far they are, none goes on.

    def ask_to_stop(self, signum: int) -> None:
        """Makes all processes leave for a signal, at one point; may be called in any thread."""
        self._tell_hub("stop", signum=signum)

    def pass_point(self) -> int:
        """Called by all processes in the same order, wherever they could leave.

        Returns:
          The signal that all of them leave for at this point or have been asked to at an earlier
          one; 0 to go on.
        """
        with self._turn:
            self._turn.wait_for(lambda: not self._frozen)
            self._passed += 1
            return self._signum if 0 <= self._stop_at <= self._passed else 0

    # The end.

    def finish(self) -> None:
        """Returns when every process has called it: from then on none needs another."""
        self.gather(None)
        self._over.set()

    def fail(self, code: int, sentence: str) -> None:
        """Tells the others that this process ends, with which exit code, and why."""
        self._tell_all(kind="failed", process=self.index, code=code, sentence=sentence)

    # What the threads do.

    def _beat(self) -> None:
        while not self._over.wait(_BEAT_SECONDS):
            self._tell_all(kind="beat")

    def _listen(self, other: int, line: Line) -> None:
        while True:
            try:
                message = line.receive(_SILENCE_SECONDS)
            except (TimeoutError, Gone, ValueError) as error:
                if self._over.is_set():  # it has nothing more to say
                    return
                silent = f"has not been heard of for {_SILENCE_SECONDS:g} s"
                reasons = {TimeoutError: silent, Gone: "has died"}
                why = reasons.get(type(error), f"has sent {error}")
                return self._on_lost(other, {"process": other, "why": why})
            self._heed(other, message)

    def _heed(self, other: int, message: Mapping[str, Any]) -> None:
        getattr(self, f"_on_{message['kind']}")(other, message)

    def _on_beat(self, other: int, message: Mapping[str, Any]) -> None:
        """That it came is all it says."""

    def _on_jax(self, other: int, message: Mapping[str, Any]) -> None:
        self.on_jax(other, message)

    def _on_give(self, other: int, message: Mapping[str, Any]) -> None:
        number = message["round"]
        with self._turn:
            values = self._given.setdefault(number, {})
            values[other] = message["value"]
            complete = len(values) == self.count
        if complete:
            del self._given[number]
            self._tell_everyone(
                "gathered", round=number, values=[values[i] for i in sorted(values)]
            )

    def _on_gathered(self, other: int, message: Mapping[str, Any]) -> None:
        with self._turn:
            self._gathered[message["round"]] = message["values"]
            self._turn.notify_all()

    def _on_stop(self, other: int, message: Mapping[str, Any]) -> None:
        """In process 0: someone got a signal. The first one counts."""
        with self._turn:
            if self._signum:
                return
            self._signum = message["signum"]
        self._tell_everyone("where", signum=self._signum)

    def _on_where(self, other: int, message: Mapping[str, Any]) -> None:
        with self._turn:
            self._signum, self._frozen = message["signum"], True
            passed = self._passed
        self._tell_hub("at", passed=passed)
        self.on_stop(self._signum)

    def _on_at(self, other: int, message: Mapping[str, Any]) -> None:
        with self._turn:
            self._at[other] = message["passed"]
            if len(self._at) < self.count:
                return
            point = max(self._at.values()) + 1
        self._tell_everyone("until", point=point)

    def _on_until(self, other: int, message: Mapping[str, Any]) -> None:
        with self._turn:
            self._stop_at, self._frozen = message["point"], False
            self._turn.notify_all()

    def _on_failed(self, other: int, message: Mapping[str, Any]) -> None:
        self._pass_on(other, message)
        time.sleep(_OWN_WORDS_SECONDS)  # meanwhile nobody reads that the line is closed
        process, code = message["process"], message["code"]
        self._leave(f"process {process} of {self.count} has stopped: {message['sentence']}", code)

    def _on_lost(self, other: int, message: Mapping[str, Any]) -> None:
        self._pass_on(other, {"kind": "lost", **message})
        process = message["process"]
        hint = self.hint()
        self._leave(
            f"error: process {process} of {self.count} ({self.names[process]}) "
            f"{message['why']}, so this one ends too" + (f"; {hint}" if hint else ""),
            128 + self._signum if self._signum else 1,
        )

    def _pass_on(self, origin: int, message: Mapping[str, Any]) -> None:
        if self.index == 0:
            self._tell_all(leave_out=origin, **message)

    def _leave(self, sentence: str, code: int) -> None:
        """Ends the process at once: its main thread may be in a collective that never ends."""
        self._leaving.acquire()  # for good: one sentence is enough
        os.write(2, f"{sentence}\n".encode())
        os._exit(code)

    def _tell_hub(self, kind: str, **message: Any) -> None:
        """Sends a message to process 0, which may be this one."""
        if self.index:
            self.send(0, kind=kind, **message)
        else:
            self._heed(0, {"kind": kind, **message})

    def _tell_everyone(self, kind: str, **message: Any) -> None:
        """In process 0: sends a message to the others, and heeds it."""
        self._tell_all(kind=kind, **message)
        self._heed(0, {"kind": kind, **message})

    def _tell_all(self, *, leave_out: int = -1, **message: Any) -> None:
        for other in self._lines:
            if other != leave_out:
                self.send(other, **message)

    def send(self, other: int, **message: Any) -> None:
        """Sends a message to a process to which there is a line."""
        with contextlib.suppress(Gone):  # the thread that listens to it finds out, and says so
            self._lines[other].send(message)
