"""Signals that end a run: noted while a call is under way, acted on when the state can be saved."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from jaxnets import distributed

__all__ = ["Cut", "Interrupted", "Interruption", "Watchdog"]


#: How often, after a signal, the main thread is woken from what it waits for.
_NUDGE_SECONDS = 0.5


class Interrupted(Exception):
    """A signal ended the run, after its state was saved.

    Attributes:
      step: the step that was saved.
      signum: the signal.
    """

    def __init__(self, step: int, signum: int):
        super().__init__(f"interrupted by {signal.Signals(signum).name} and saved at step {step}")
        self.step, self.signum = step, signum


class Cut(BaseException):
    """A signal came in work that may be left where it stands (see `Interruption.cuttable`)."""


class Watchdog:
    """Ends the process some seconds after SIGINT or SIGTERM, if nothing else has.

    A signal handler of Python waits for the call under way, and compiling a large network may take
    minutes; and an exception that it raises may be lost, as in a destructor. So there is a thread
    that is woken by the signal itself. A signal may also come in the moment before the main thread
    begins to wait for something, which Python would notice at the end of the wait only: the thread
    breaks such waits off, by SIGURG, whose handler does nothing.
    """

    def __init__(self, grace_seconds: float, last_words: Callable[[int], str]):
        """Sets it up; `with` makes it work.

        Args:
          grace_seconds: what the process gets from the first signal on.
          last_words: signal -> what is said before the process is ended.
        """
        self._grace, self._last_words = grace_seconds, last_words
        self._done = threading.Event()
        self._ends: tuple[socket.socket, ...] = ()
        self._wakeup = -1
        self._before: Any = None

    def __enter__(self) -> "Watchdog":
        if threading.current_thread() is not threading.main_thread():
            return self  # Python lets only the main thread have handlers
        self._ends = socket.socketpair()
        for end in self._ends:
            end.setblocking(False)
        self._ends[0].setblocking(True)
        self._wakeup = signal.set_wakeup_fd(self._ends[1].fileno(), warn_on_full_buffer=False)
        self._before = signal.signal(signal.SIGURG, lambda signum, frame: None)
        threading.Thread(target=self._watch, daemon=True, name="signal watchdog").start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        if self._ends:
            # SIGURG stays harmless if the thread sends it now: by default it is ignored.
            signal.signal(signal.SIGURG, self._before or signal.SIG_DFL)
            signal.set_wakeup_fd(self._wakeup)
            self._ends[1].close()  # the thread reads the end of it and goes
            self._ends = ()

    def wake(self, signum: int) -> None:
        """Wakes the thread, as the signal would have."""
        ends = self._ends
        if ends:
            with suppress(OSError):  # what it watched has ended
                ends[1].send(bytes([signum]))

    def _watch(self) -> None:
        reader = self._ends[0]
        with reader:
            while True:
                try:
                    woken = reader.recv(1)
                except OSError:
                    return
                if not woken:
                    return
                if woken[0] in (signal.SIGINT, signal.SIGTERM):
                    break
            distributed.ask_to_leave(woken[0])
            end = time.monotonic() + self._grace
            while (left := end - time.monotonic()) > 0:
                if self._done.wait(min(left, _NUDGE_SECONDS)):
                    return
                signal.pthread_kill(threading.main_thread().ident, signal.SIGURG)  # type: ignore[arg-type]
            try:
                os.write(2, f"{self._last_words(woken[0])}\n".encode())
            finally:  # whether or not anyone listens
                os._exit(128 + woken[0])


class Interruption:
    """Collects SIGINT and SIGTERM instead of dying of them; a second SIGINT interrupts at once.

    A `Watchdog` ends the process if nothing else has.

    Of several processes (`jaxnets.distributed`) all leave at one point for a signal that came to
    any of them; the watchdog passes it on.

    Attributes:
      caught: the signals that came to this process, in their order.
    """

    def __init__(self, grace_seconds: float, last_words: Callable[[int], str]):
        """Sets it up; `with` makes it work.

        Args:
          grace_seconds: what the process gets from the first signal on.
          last_words: signal -> what the watchdog says before it ends the process.
        """
        self.caught: list[int] = []
        self._watchdog = Watchdog(grace_seconds, last_words)
        self._may_cut = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is not threading.main_thread():
            return self  # Python lets only the main thread have handlers
        self._watchdog.__enter__()
        numbers = (signal.SIGINT, signal.SIGTERM)
        distributed.when_asked(self._watchdog.wake)
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *exc: object) -> None:
        distributed.when_asked(lambda signum: None)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._watchdog.__exit__()

    @contextmanager
    def cuttable(self) -> Iterator[None]:
        """Work that changes nothing: a signal raises `Cut` in it, at once.

        Of several processes, in all of them at the same `distributed.pause`.
        """
        if distributed.count() > 1:
            with distributed.cuttable(_raise_cut):
                yield
            return
        if self.caught:
            raise Cut
        self._may_cut = True
        try:
            yield
        finally:
            self._may_cut = False

    def asked_to_leave(self) -> int:
        """The signal to leave for, or 0; of several processes, all must ask at the same points."""
        if distributed.count() > 1:
            return distributed.asked_to_leave()
        return self.caught[0] if self.caught else 0

    def _note(self, signum: int, frame: Any) -> None:
        if self.caught and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.caught.append(signum)
        if self._may_cut:
            self._may_cut = False
            raise Cut


def _raise_cut() -> None:
    raise Cut
