"""Signals that end a run: noted when they come, heeded where the run can leave.

No handler here raises. An exception that comes from a handler comes up in whatever Python is
running at that moment: a callback or a destructor, which loses it and prints a traceback, or the
start of an extension module, which makes another error of it. So a handler only takes a note; the
main thread reads it where it may leave; and a thread that the signal itself wakes ends the process
when the main thread does not come to such a place.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from jaxnets import files
from jaxnets.processes import distributed

__all__ = ["Cut", "Interrupted", "Interruption", "Watchdog"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

#: Of the time to leave, what work gets that need not be finished before the state is saved.
_SHARE_OF_WORK_AT_REST = 0.5

_SHOW_CURSOR = b"\x1b[?25h"  # which a live progress bar has hidden


class Interrupted(Exception):
    """A signal ended the run, after its state was saved.

    Attributes:
      step: the step that was saved.
      signum: the signal.
    """

    def __init__(self, step: int, signum: int):
        super().__init__(f"interrupted by {signal.Signals(signum).name} and saved at step {step}")
        self.step, self.signum = step, signum


class Cut(Exception):
    """Work that may be left where it stands is left, for a signal (see `Interruption.cuttable`)."""


class Watchdog:
    """Ends the process some seconds after SIGINT or SIGTERM, if it has not ended by then.

    It works while the main thread is in one long call, such as a compilation. A signal that the
    process ignores, as a shell has it in the background, stays ignored.

    Attributes:
      rescue: called before the process is ended, if there is one: it saves what can be saved, and
        gives the last words.
    """

    def __init__(
        self,
        grace_seconds: float,
        last_words: Callable[[int], str],
        note: Callable[[int], None] | None = None,
    ):
        """Sets it up; `with` makes it work.

        Args:
          grace_seconds: what the process gets from the first signal on.
          last_words: signal -> what is said before the process is ended.
          note: called in the main thread with each signal, as soon as Python can.
        """
        self.rescue: Callable[[int], str] | None = None
        self._grace, self._last_words, self._note = grace_seconds, last_words, note or self.wake
        self._done = threading.Event()
        self._ending = threading.Lock()
        self._ends: tuple[socket.socket, ...] = ()
        self._wakeup = -1
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Watchdog":
        if threading.current_thread() is not threading.main_thread():
            return self  # Python lets only the main thread have handlers
        self._ends = socket.socketpair()
        for end in self._ends:
            end.setblocking(False)
        self._ends[0].setblocking(True)
        self._wakeup = signal.set_wakeup_fd(self._ends[1].fileno(), warn_on_full_buffer=False)
        heeded = [n for n in _SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self.handle) for number in heeded}
        threading.Thread(target=self._watch, daemon=True, name="signal watchdog").start()
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._ends:
            signal.set_wakeup_fd(self._wakeup)
        with self._ending:  # for ever, if the process is being ended already
            self._done.set()
        if self._ends:
            self._ends[1].close()  # the thread reads the end of it and goes
            self._ends = ()

    def wake(self, signum: int) -> None:
        """Wakes the thread, as the signal would have."""
        ends = self._ends
        if ends:
            with suppress(OSError):  # what it watched has ended
                ends[1].send(bytes([signum]))

    @contextmanager
    def rescuing(self, rescue: Callable[[int], str]) -> Iterator[None]:
        """Work that need not be finished: before the process is ended in it, `rescue` is called."""
        with self._ending:
            self.rescue = rescue
        try:
            yield
        finally:
            with self._ending:  # the process may be being ended
                self.rescue = None

    def handle(self, signum: int, frame: Any) -> None:
        """The handler of signals, which keeps Python from its own way to end."""
        self._note(signum)

    def pass_on(self, signum: int) -> None:
        """Gives the signal to the handler that there was before this watchdog."""
        before = self._before.get(signum)
        if callable(before):
            before(signum, None)

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
                if woken[0] in _SIGNALS:
                    break
            distributed.ask_to_leave(woken[0])
            first = self._grace * _SHARE_OF_WORK_AT_REST
            for seconds, ready in ((first, self._at_rest), (self._grace - first, lambda: True)):
                if self._done.wait(seconds):
                    return
                with self._ending:
                    if ready() and not self._done.is_set():
                        self._end(woken[0])

    def _at_rest(self) -> bool:
        return self.rescue is not None

    def _end(self, signum: int) -> None:
        try:
            files.clean_up()
            words = self._rescued(signum) or self._last_words(signum)
            shown = f"{words}\n".encode()
            os.write(2, _SHOW_CURSOR + shown if os.isatty(2) else shown)
            distributed.fail(128 + signum, words)
        finally:  # whether or not anyone listens
            os._exit(128 + signum)

    def _rescued(self, signum: int) -> str:
        """What `rescue` says; "" if there is none, or it fails, as on a full disk, or hangs."""
        words: list[str] = []

        def save(rescue: Callable[[int], str]) -> None:
            with suppress(Exception):
                words.append(rescue(signum))

        if self.rescue is not None:
            thread = threading.Thread(target=save, args=(self.rescue,), daemon=True)
            thread.start()
            thread.join(self._grace * (1 - _SHARE_OF_WORK_AT_REST))
        return "".join(words)


class Interruption:
    """Collects SIGINT and SIGTERM instead of dying of them.

    A `Watchdog` ends the process if nothing else has. A second SIGINT is for whoever had it before:
    Python raises KeyboardInterrupt, and a command ends at once.

    With several processes (`jaxnets.processes.distributed`) all leave at one point for a signal
    that came to any of them; the watchdog passes it on.

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
        self._watchdog = Watchdog(grace_seconds, last_words, self._note)

    def __enter__(self) -> "Interruption":
        self._watchdog.__enter__()
        distributed.when_asked(self._watchdog.wake)
        return self

    def __exit__(self, *exc: object) -> None:
        distributed.when_asked(lambda signum: None)
        self._watchdog.__exit__()

    @contextmanager
    def cuttable(self, rescue: Callable[[int], str]) -> Iterator[None]:
        """Work that changes nothing: for a signal, `Cut` is raised at the next pause in it.

        With several processes, in all of them at the same `distributed.pause`.

        Args:
          rescue: signal -> last words. Saves the state, in a thread, where no pause comes in time;
            the process ends then. Not with several processes, which would all have to.
        """
        alone = distributed.count() == 1
        with distributed.pausing(self._cut_if_asked):
            distributed.pause()
            if not alone:
                yield
                return
            with self._watchdog.rescuing(rescue):
                yield

    def asked_to_leave(self) -> int:
        """The signal to leave for, or 0; several processes must all ask, in the same order."""
        if distributed.count() > 1:
            return distributed.asked_to_leave()
        return self.caught[0] if self.caught else 0

    def _cut_if_asked(self) -> None:
        if self.asked_to_leave():
            raise Cut

    def _note(self, signum: int) -> None:
        again = bool(self.caught)
        self.caught.append(signum)
        if again and signum == signal.SIGINT:
            self._watchdog.pass_on(signum)
