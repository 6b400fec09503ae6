"""`python -m experiments <command>`: every experiment of jaxnets from the command line."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import tyro

from experiments import (
    classify,
    common,
    data,
    evaluate,
    generate,
    listing,
    processes,
    quickstart,
    reproduce,
    sample,
)
from experiments.benchmarks import bench

Command = (
    Annotated[quickstart.Quickstart, tyro.conf.subcommand("quickstart")]
    | Annotated[classify.Classify, tyro.conf.subcommand("classify")]
    | Annotated[generate.Generate, tyro.conf.subcommand("generate")]
    | Annotated[evaluate.Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[sample.Sample, tyro.conf.subcommand("sample")]
    | Annotated[data.DataCommand, tyro.conf.subcommand("data", description=data.__doc__)]
    | Annotated[reproduce.Reproduce, tyro.conf.subcommand("reproduce")]
    | Annotated[bench.Bench, tyro.conf.subcommand("bench")]
    | Annotated[listing.List, tyro.conf.subcommand("list")]
)

_RUN: dict[type, Callable[[Any], Any]] = {
    quickstart.Quickstart: quickstart.run,
    classify.Classify: classify.run,
    generate.Generate: generate.run,
    evaluate.Evaluate: evaluate.run,
    sample.Sample: sample.run,
    data.Prepare: data.run,
    data.Show: data.run,
    listing.List: listing.run,
    reproduce.Reproduce: reproduce.run,
    bench.Bench: bench.run,
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
    common.begin_command(arguments)
    sys.unraisablehook = _report_unraisable
    code, said, together = _run(command)
    if said:
        print(said, file=sys.stderr)
    processes.end(code, said, together=together)
    return code


def _run(command: Any) -> tuple[int, str, bool]:
    """Runs a command: exit code, last words, and whether all processes of a run end like this."""
    from jaxnets.errors import UserError

    try:
        _heed_termination()
        if getattr(command, "compilation_cache", False):
            common.enable_compilation_cache()
        code = _RUN[type(command)](command)
        return code if isinstance(code, int) else 0, "", True
    except UserError as error:
        return 2, f"error: {error}", False
    except OSError as error:
        if error.strerror is None:
            processes.end_by(error)
            raise
        place = f" {error.filename}" if error.filename else ""
        return 2, f"error: cannot read or write{place}: {error.strerror}", False
    except _Terminated:
        return 128 + signal.SIGTERM, f"terminated{_how_to_go_on()}", False
    except KeyboardInterrupt:
        return 128 + signal.SIGINT, f"interrupted{_how_to_go_on()}", False
    except Exception as error:
        from jaxnets.interruption import (
            Interrupted,  # only here: it brings jax, and help must be quick
        )

        if not isinstance(error, Interrupted):
            processes.end_by(error)
            raise
        return 128 + error.signum, f"{error}{_how_to_go_on()}", True


class _Terminated(BaseException):
    """SIGTERM, outside the training loop."""


def _heed_termination() -> None:
    """Makes SIGTERM end the command as Ctrl-C does; in the loop, the loop sees to it."""
    if threading.current_thread() is threading.main_thread():

        def terminate(signum: int, frame: Any) -> None:
            raise _Terminated

        signal.signal(signal.SIGTERM, terminate)


def _report_unraisable(unraisable: Any) -> None:
    # A checkpoint that could not be written leaves callbacks to an event loop that is gone, and
    # each of them would print a traceback before the one sentence that says what happened.
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _how_to_go_on() -> str:
    """The command that resumes the run, on a line of its own; nothing if no run was begun."""
    command = common.how_to_go_on()
    return f"; go on with:\n  {command}" if command else ""


if __name__ == "__main__":
    sys.exit(main())
