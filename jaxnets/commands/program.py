"""The program: parses a command line, runs the command, and says what went wrong."""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import signal
import sys
import typing
from collections.abc import Mapping, Sequence
from functools import reduce
from inspect import cleandoc
from operator import or_
from typing import Annotated, Any

import tyro

from jaxnets import __version__
from jaxnets.commands import flags, processes
from jaxnets.commands.configs import (
    classify,
    data,
    detect,
    generate,
    inspect,
    quickstart,
    spot,
    use,
)
from jaxnets.commands.session import Session
from jaxnets.errors import UserError, printable
from jaxnets.processes import distributed
from jaxnets.registry import check_name
from jaxnets.run.interruption import Interrupted, Watchdog

#: name -> (config, or several of subcommands; the module whose `run(config, session)` is the
#: command, which is imported when it is run).
Commands = Mapping[str, tuple[Any, str]]

COMMANDS: Commands = {
    "quickstart": (quickstart.Quickstart, "jaxnets.commands.quickstart"),
    "classify": (classify.Classify, "jaxnets.commands.classify"),
    "generate": (generate.Generate, "jaxnets.commands.generate"),
    "detect": (detect.Detect, "jaxnets.commands.detect"),
    "inspect": (inspect.Inspect, "jaxnets.commands.inspect"),
    "spot": (spot.SpotCommand, "jaxnets.commands.spot"),
    "predict": (use.Predict, "jaxnets.commands.predict"),
    "evaluate": (use.Evaluate, "jaxnets.commands.evaluate"),
    "report": (use.Report, "jaxnets.commands.report"),
    "sample": (use.Sample, "jaxnets.commands.sample"),
    "export": (use.Export, "jaxnets.commands.export"),
    "marks": (use.Marks, "jaxnets.commands.marks"),
    "data": (data.DataCommand, "jaxnets.commands.data"),
    "list": (use.List, "jaxnets.commands.listing"),
}

#: Commands that a checkout of the repository adds.
EVIDENCE = ("reproduce", "families", "study", "judges", "bench", "chaos")


class Program:
    """A command line of some commands.

    Args:
      name: how it is called.
      commands: what it has.
    """

    def __init__(self, name: str, commands: Commands) -> None:
        self._name, self._commands = name, commands
        self._runners = {
            kind: runner for config, runner in commands.values() for kind in _kinds(config)
        }

    def parse(self, arguments: Sequence[str]) -> Any:
        """The config of a command line; leaves with exit code 2 where there is none, 0 for help."""
        if arguments and arguments[0] in EVIDENCE and arguments[0] not in self._commands:
            raise UserError(
                f"the command `{arguments[0]}` belongs to a checkout of jaxnets: call `python -m "
                f"experiments {arguments[0]}` there"
            )
        if arguments and arguments[0] == "--version":
            print(f"jaxnets {__version__}")
            raise SystemExit(0)
        if arguments and not arguments[0].startswith("-"):
            check_name("command", arguments[0], self._commands)
            kinds = _kinds(self._commands[arguments[0]][0])
            arguments = [arguments[0], *flags.put_right(kinds, arguments[1:])]
        choices = [
            Annotated[config, tyro.conf.subcommand(name, description=_description(config))]
            for name, (config, _) in self._commands.items()
        ]
        return tyro.cli(
            reduce(or_, choices),  # type: ignore[arg-type]
            args=list(arguments),
            prog=self._name,
            description="Train CNNs and GANs, alone and together, and measure what they do.",
            config=(tyro.conf.OmitArgPrefixes,),
            registry=flags.REGISTRY,
        )

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Runs one command in this process.

        Returns:
          The exit code: 0, or the command's own; 2 for what the user can put right, after one
          sentence; 130 for Ctrl-C and 143 for SIGTERM, after the state was saved; 141, as of any
          Unix command, where the reader of a pipe has left before there was a run.
        """
        return _end(*self._run(self._session(arguments)))

    def process(self) -> None:
        """The process of one command, from the command line to its exit code; does not return.

        Outside the training loop, which saves its state first, SIGINT and SIGTERM end it at once.
        """
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        sys.unraisablehook = _report_unraisable
        session = self._session(None)
        with Watchdog(0.0, lambda signum: _last_words(signum, session)):
            ended = self._run(session)
        code = _end(*ended)
        if code:
            # All is saved and said. Python's own end may crash where Ctrl-C comes again, and prints
            # the tracebacks of saves that a full disk ended.
            with contextlib.suppress(OSError):
                sys.stdout.flush()
            os._exit(code)
        sys.exit(code)

    def _session(self, arguments: Sequence[str] | None) -> Session:
        return Session(self._name, list(sys.argv[1:] if arguments is None else arguments))

    def _run(self, session: Session) -> tuple[int, str, bool]:
        """Runs a command: exit code, last words, whether all processes of a run end like this."""
        try:
            config = self.parse(session.arguments)
            if getattr(config, "compilation_cache", False):
                _enable_compilation_cache()
            runner = importlib.import_module(self._runners[type(config)])
            code = runner.run(config, session)
            sys.stdout.flush()  # what was printed may go to a disk that is full
            return code if isinstance(code, int) else 0, "", True
        except UserError as error:
            return 2, _sentence(str(error)), False
        except OSError as error:
            if error.strerror is None:
                processes.end_by(error)
                raise
            unread = isinstance(error, BrokenPipeError) and _output_has_no_reader()
            _give_up_output()
            if unread and session.run_dir is None:
                return 128 + signal.SIGPIPE, "", False
            place = f" {error.filename}" if error.filename else ""
            return 2, _sentence(f"cannot read or write{place}: {error.strerror}"), False
        except Interrupted as error:
            said = f"{error}{session.report_hint()}{_how_to_go_on(session)}"
            return 128 + error.signum, said, True
        except KeyboardInterrupt:  # of a caller that keeps Python's own handler
            return 128 + signal.SIGINT, _last_words(signal.SIGINT, session), False
        except Exception as error:
            processes.end_by(error)
            raise


def _enable_compilation_cache() -> None:
    """Turns the cache of compiled programs on; says so, and goes on, where it can't be kept."""
    from jaxnets.devices import compilation

    try:
        compilation.enable_compilation_cache()
    except UserError as error:
        print(f"warning: {error}", file=sys.stderr)


def _kinds(config: Any) -> list[type]:
    """The class of a command's config, or those of its subcommands."""
    return (
        [config]
        if isinstance(config, type)
        else [typing.get_args(one)[0] for one in typing.get_args(config)]
    )


def _description(config: Any) -> str:
    """What a command, or each of its subcommands, does."""
    return "\n".join(cleandoc(kind.__doc__ or "") for kind in _kinds(config))


def _end(code: int, said: str, together: bool) -> int:
    """Says the last words of a command; gives its exit code."""
    if said:
        print(said, file=sys.stderr)
    distributed.end(code, said, together=together)
    return code


def _last_words(signum: int, session: Session) -> str:
    """Said where a signal ends the command."""
    how = "interrupted" if signum == signal.SIGINT else "terminated"
    return f"{how}{_how_to_go_on(session)}"


def _how_to_go_on(session: Session) -> str:
    """The command that resumes the run, on a line of its own; nothing if no run was begun."""
    command = session.command_to_go_on()
    return f"; go on with:\n  {command}" if command else ""


def _report_unraisable(unraisable: Any) -> None:
    # A checkpoint that could not be written leaves callbacks to an event loop that is gone, and
    # each of them would print a traceback before the one sentence that says what happened.
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _output_has_no_reader() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _give_up_output() -> None:
    """Drops what standard output could not take; Python would complain about it at the end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _sentence(text: str) -> str:
    return f"error: {printable(text)}"


def program() -> None:
    """`jaxnets`: the process of one command; does not return."""
    Program("jaxnets", COMMANDS).process()
