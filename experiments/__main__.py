"""`python -m experiments <command>`: every experiment of jaxnets from the command line."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import tyro

from experiments import (
    classify,
    common,
    data,
    detect,
    evaluate,
    families,
    generate,
    listing,
    processes,
    quickstart,
    reproduce,
    sample,
)
from experiments.benchmarks import bench
from experiments.chaos import chaos

Command = (
    Annotated[quickstart.Quickstart, tyro.conf.subcommand("quickstart")]
    | Annotated[classify.Classify, tyro.conf.subcommand("classify")]
    | Annotated[generate.Generate, tyro.conf.subcommand("generate")]
    | Annotated[evaluate.Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[sample.Sample, tyro.conf.subcommand("sample")]
    | Annotated[detect.Detect, tyro.conf.subcommand("detect")]
    | Annotated[data.DataCommand, tyro.conf.subcommand("data", description=data.__doc__)]
    | Annotated[reproduce.Reproduce, tyro.conf.subcommand("reproduce")]
    | Annotated[families.Families, tyro.conf.subcommand("families")]
    | Annotated[bench.Bench, tyro.conf.subcommand("bench")]
    | Annotated[chaos.Chaos, tyro.conf.subcommand("chaos")]
    | Annotated[listing.List, tyro.conf.subcommand("list")]
)

_GRACE_SECONDS = 8.0  # from a signal to the end of a command that has nothing to save

_RUN: dict[type, Callable[[Any], Any]] = {
    quickstart.Quickstart: quickstart.run,
    classify.Classify: classify.run,
    generate.Generate: generate.run,
    evaluate.Evaluate: evaluate.run,
    sample.Sample: sample.run,
    detect.Detect: detect.run,
    data.Prepare: data.run,
    data.Show: data.run,
    listing.List: listing.run,
    reproduce.Reproduce: reproduce.run,
    families.Families: families.run,
    bench.Bench: bench.run,
    chaos.Chaos: chaos.run,
}


def parse(arguments: Sequence[str]) -> Any:
    """The config of a command line; leaves with exit code 2 where there is none, 0 for help."""
    return tyro.cli(
        Command,  # type: ignore[arg-type]
        args=list(arguments),
        prog="python -m experiments",
        description="Train CNNs and GANs, alone and together, and measure what they do.",
        config=(tyro.conf.OmitArgPrefixes,),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
      The exit code: 0, or the command's own; 2 for what the user can put right, after one
      sentence; 130 for Ctrl-C and 143 for SIGTERM, after the state was saved.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    command = parse(arguments)
    from jaxnets.interruption import Watchdog

    common.begin_command(arguments)
    sys.unraisablehook = _report_unraisable
    _ended.clear()
    came: list[int] = []
    try:
        with Watchdog(_GRACE_SECONDS, _last_words), _heeding_signals(came):
            try:
                code, said, together = _run(command, came)
            finally:  # while the handlers are still there
                _ended.set()
    except (_Terminated, KeyboardInterrupt) as error:
        code, said, together = _by_signal(
            signal.SIGTERM if isinstance(error, _Terminated) else signal.SIGINT
        )
    if said:
        print(said, file=sys.stderr)
    processes.end(code, said, together=together)
    return code


def _run(command: Any, came: Sequence[int]) -> tuple[int, str, bool]:
    """Runs a command: exit code, last words, and whether all processes of a run end like this.

    Args:
      command: its config.
      came: the signals that came to end it. What is under way may make an error of its own of one,
        as the start of an extension module does.
    """
    from jaxnets.errors import UserError
    from jaxnets.interruption import Interrupted

    try:
        if getattr(command, "compilation_cache", False):
            common.enable_compilation_cache()
        code = _RUN[type(command)](command)
        sys.stdout.flush()  # what was printed may go to a disk that is full
        return code if isinstance(code, int) else 0, "", True
    except UserError as error:
        return _by_signal(came[0]) if came else (2, _sentence(str(error)), False)
    except OSError as error:
        if came:
            return _by_signal(came[0])
        if error.strerror is None:
            processes.end_by(error)
            raise
        _give_up_full_output()
        place = f" {error.filename}" if error.filename else ""
        return 2, _sentence(f"cannot read or write{place}: {error.strerror}"), False
    except Interrupted as error:
        return 128 + error.signum, f"{error}{_how_to_go_on()}", True
    except Exception as error:
        if came:
            return _by_signal(came[0])
        processes.end_by(error)
        raise


def _by_signal(signum: int) -> tuple[int, str, bool]:
    """The end of a command that a signal has ended, as `_run` gives it."""
    return 128 + signum, _last_words(signum), False


#: Set when a signal has ended the command.
_ended = threading.Event()


class _Terminated(BaseException):
    """SIGTERM, outside the training loop."""


@contextlib.contextmanager
def _heeding_signals(came: list[int]) -> Iterator[None]:
    """Makes SIGTERM end the command as Ctrl-C does; in the loop, the loop sees to it.

    Args:
      came: gets the signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(signum: int, frame: Any) -> None:
        came.append(signum)
        raise _Terminated if signum == signal.SIGTERM else KeyboardInterrupt

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, end)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored
        before[signal.SIGINT] = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:  # what is left to do is Python's own, which it would do with a traceback
        for number, handler in before.items():
            signal.signal(number, handler)


def _last_words(signum: int) -> str:
    """Said where a call under way, or a destructor, kept a signal from ending the command."""
    how = "interrupted" if signum == signal.SIGINT else "terminated"
    return f"{how}{_how_to_go_on()}"


def _report_unraisable(unraisable: Any) -> None:
    if isinstance(unraisable.exc_value, (_Terminated, KeyboardInterrupt)):
        # A destructor was running, which loses exceptions: the signal comes again, a moment later.
        term = isinstance(unraisable.exc_value, _Terminated)
        signum = signal.SIGTERM if term else signal.SIGINT
        threading.Thread(target=_send_again, args=(signum,), daemon=True).start()
        return
    # A checkpoint that could not be written leaves callbacks to an event loop that is gone, and
    # each of them would print a traceback before the one sentence that says what happened.
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _send_again(signum: int) -> None:
    """Sends the signal to this process until the command heeds it: one may be lost once more."""
    while not _ended.wait(0.5):
        os.kill(os.getpid(), signum)


def _give_up_full_output() -> None:
    """Lets what standard output could not take go, of which Python would complain at the end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _sentence(text: str) -> str:
    # File names and JSON may hold line breaks, escape sequences and worse.
    return "error: " + "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _how_to_go_on() -> str:
    """The command that resumes the run, on a line of its own; nothing if no run was begun."""
    command = common.how_to_go_on()
    return f"; go on with:\n  {command}" if command else ""


if __name__ == "__main__":
    _code = main()
    if _code:
        # All is saved and said. Python's own end may crash where a signal cut a compilation off, or
        # where Ctrl-C comes again, and prints the tracebacks of saves that a full disk ended.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(_code)
    sys.exit(_code)
