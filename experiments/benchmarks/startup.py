"""How long a command takes until its first training step, with and without kept programs."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from jaxnets.commands import checks, common
from jaxnets.commands.configs import constraints
from jaxnets.commands.configs.constraints import COUNT
from jaxnets.errors import UserError
from jaxnets.files import cleaning


@dataclasses.dataclass(frozen=True)
class Startup:
    """Time from the start of a command's process to the end of its first training call.

    The first start compiles into an empty folder; the later ones find there what it compiled.
    """

    command: str = "quickstart"
    """The command and its flags, but for --run-dir."""
    rounds: Annotated[int, COUNT] = 3
    """Starts after the first."""
    json: Path | None = None
    """A JSON file to keep the numbers in."""


def run(config: Startup) -> dict[str, Any]:
    """The benchmark: `first_seconds`, and the `later_seconds` of each round with their median.

    Raises:
      UserError: if the command does not train.
    """
    constraints.check(config)
    checks.json_file(config)
    command = _words(config.command)
    with (
        tempfile.TemporaryDirectory(prefix="jaxnets-startup-") as folder,
        cleaning(partial(shutil.rmtree, folder, ignore_errors=True)),
    ):
        programs = Path(folder) / "programs"
        seconds = [
            _start(command, Path(folder) / f"run-{i}", programs) for i in range(config.rounds + 1)
        ]
        kept = [path.stat().st_size for path in programs.glob("*-cache")]
    first, *later = seconds
    numbers = {
        "command": config.command,
        "first_seconds": round(first, 2),
        "later_seconds": [round(value, 2) for value in later],
        "later_median_seconds": round(statistics.median(later), 2),
        "programs": len(kept),
        "program_bytes": sum(kept),
        "machine": common.machine(),
    }
    if config.json is not None:
        from jaxnets.files import write_json

        write_json(config.json, numbers)
    print(json.dumps(numbers, indent=2))
    return numbers


def _words(command: str) -> list[str]:
    """The words of a command, which is parsed to see that it can be run at all."""
    from jaxnets.commands.program import COMMANDS, Program

    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UserError(f"--command {command!r} cannot be read: {error}") from error
    try:
        Program("python -m experiments", COMMANDS).parse(
            [*words, "--run-dir", "run"]
        )  # says itself what is wrong, and leaves
    except SystemExit as left:
        if left.code:
            raise
        raise UserError(f"--command {command!r} asks for help, and trains nothing") from left
    return words


def _start(command: list[str], run_dir: Path, programs: Path) -> float:
    """Seconds from the start of a process to its first line of progress, which then ends it."""
    from jaxnets.compilation import OPTIONS

    options = {name.upper(): str(value) for name, value in OPTIONS.items()}
    environment = {**os.environ, **options, "JAX_COMPILATION_CACHE_DIR": str(programs)}
    said = []
    begin = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "experiments", *command, "--run-dir", str(run_dir)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            with cleaning(process.terminate):
                for line in process.stderr:
                    if "  step " in line:
                        return time.monotonic() - begin
                    said.append(line.strip())
        finally:
            process.stderr.read()  # it saves its state first, and may have something to say
    raise UserError(f"`{shlex.join(command)}` began no training: {said[-1] if said else 'silence'}")
