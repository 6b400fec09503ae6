"""`python -m experiments <command>`: every experiment of jaxnets from the command line."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import tyro

from experiments import families, reproduce
from experiments.benchmarks import bench
from experiments.chaos import chaos
from jaxnets.commands import (
    classify,
    common,
    data,
    evaluate,
    generate,
    listing,
    marks,
    processes,
    quickstart,
    sample,
)

Command = (
    Annotated[quickstart.Quickstart, tyro.conf.subcommand("quickstart")]
    | Annotated[classify.Classify, tyro.conf.subcommand("classify")]
    | Annotated[generate.Generate, tyro.conf.subcommand("generate")]
    | Annotated[evaluate.Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[sample.Sample, tyro.conf.subcommand("sample")]
    | Annotated[marks.Detect, tyro.conf.subcommand("detect")]
    | Annotated[data.DataCommand, tyro.conf.subcommand("data", description=data.__doc__)]
    | Annotated[reproduce.Reproduce, tyro.conf.subcommand("reproduce")]
    | Annotated[families.Families, tyro.conf.subcommand("families")]
    | Annotated[bench.Bench, tyro.conf.subcommand("bench")]
    | Annotated[chaos.Chaos, tyro.conf.subcommand("chaos")]
    | Annotated[listing.List, tyro.conf.subcommand("list")]
)

_RUN: dict[type, Callable[[Any], Any]] = {
    quickstart.Quickstart: quickstart.run,
    classify.Classify: classify.run,
    generate.Generate: generate.run,
    evaluate.Evaluate: evaluate.run,
    sample.Sample: sample.run,
    marks.Detect: marks.run,
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
    """Runs one command in this process.

    Returns:
      The exit code: 0, or the command's own; 2 for what the user can put right, after one
      sentence; 130 for Ctrl-C and 143 for SIGTERM, after the state was saved.
    """
    return _end(*_command(arguments))


def program() -> None:
    """The process of one command, from the command line to its exit code; does not return.

    Outside the training loop, which saves its state first, SIGINT and SIGTERM end it at once.
    """
    from jaxnets.interruption import Watchdog

    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.unraisablehook = _report_unraisable
    with Watchdog(0.0, _last_words):
        ended = _command(None)
    code = _end(*ended)
    if code:
        # All is saved and said. Python's own end may crash where Ctrl-C comes again, and prints the
        # tracebacks of saves that a full disk ended.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def _command(arguments: Sequence[str] | None) -> tuple[int, str, bool]:
    """Runs a command line: exit code, last words, whether all processes of a run end like this."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    command = parse(arguments)
    common.begin_command(arguments)
    from jaxnets.errors import UserError
    from jaxnets.interruption import Interrupted

    try:
        if getattr(command, "compilation_cache", False):
            common.enable_compilation_cache()
        code = _RUN[type(command)](command)
        sys.stdout.flush()  # what was printed may go to a disk that is full
        return code if isinstance(code, int) else 0, "", True
    except UserError as error:
        return 2, _sentence(str(error)), False
    except OSError as error:
        if error.strerror is None:
            processes.end_by(error)
            raise
        _give_up_full_output()
        place = f" {error.filename}" if error.filename else ""
        return 2, _sentence(f"cannot read or write{place}: {error.strerror}"), False
    except Interrupted as error:
        return 128 + error.signum, f"{error}{_how_to_go_on()}", True
    except KeyboardInterrupt:  # of a caller that keeps Python's own handler
        return 128 + signal.SIGINT, _last_words(signal.SIGINT), False
    except Exception as error:
        processes.end_by(error)
        raise


def _end(code: int, said: str, together: bool) -> int:
    """Says the last words of a command; gives its exit code."""
    if said:
        print(said, file=sys.stderr)
    processes.end(code, said, together=together)
    return code


def _last_words(signum: int) -> str:
    """Said where a signal ends the command."""
    how = "interrupted" if signum == signal.SIGINT else "terminated"
    return f"{how}{_how_to_go_on()}"


def _report_unraisable(unraisable: Any) -> None:
    # A checkpoint that could not be written leaves callbacks to an event loop that is gone, and
    # each of them would print a traceback before the one sentence that says what happened.
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


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
    program()
