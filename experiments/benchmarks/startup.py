"""How long a command takes until its first training step, with and without kept programs."""

from __future__ import annotations

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
from typing import Any

from experiments.benchmarks import report
from experiments.benchmarks.configs import Startup
from jaxnets.devices.compilation import OPTIONS
from jaxnets.errors import UserError
from jaxnets.files import cleaning

#: Commands that begin with a training.
TRAINERS = ("quickstart", "classify", "generate")


def run(config: Startup) -> dict[str, Any]:
    """The benchmark: `first_seconds`, and the `later_seconds` of each round with their median.

    Raises:
      UserError: if the command does not train.
    """
    report.begin(config)
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
    }
    return report.end(config, numbers)


def _words(command: str) -> list[str]:
    """The words of a command that trains, as far as can be told without starting it."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UserError(f"--command {command!r} cannot be read: {error}") from error
    if not words or words[0] not in TRAINERS or {"--help", "-h"} & {*words}:
        raise UserError(
            f"--command must train: one of {', '.join(TRAINERS)} and its flags, got {command!r}"
        )
    return words


def _start(command: list[str], run_dir: Path, programs: Path) -> float:
    """Seconds from the start of a process to its first step, which then ends it."""
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
                    if "; compiled in " in line:
                        return time.monotonic() - begin
                    said.append(line.strip())
        finally:
            process.stderr.read()  # it saves its state first, and may have something to say
    errors = [line for line in said if line.startswith("error: ")] or ["error: try it by itself"]
    raise UserError(f"`{shlex.join(command)}` began no training: {errors[-1]}")
