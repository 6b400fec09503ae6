"""One call of the command line: what was typed, and which run it has opened."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path

#: Commands whose --run-dir is the folder of all their runs.
_OF_MANY_RUNS = ("reproduce", "families", "study")


@dataclasses.dataclass
class Session:
    """What a command was called with, and the run that it has opened.

    Attributes:
      program: how the command line is called.
      arguments: what followed.
      run_dir: folder of the run; None until one is opened.
    """

    program: str = "jaxnets"
    arguments: Sequence[str] = ()
    run_dir: Path | None = None

    def command_to_go_on(self) -> str:
        """The command that resumes the run; "" if none was opened."""
        if self.run_dir is None:
            return ""
        words = list(self.arguments)
        if words[:1] and words[0] in _OF_MANY_RUNS:
            return f"{self.program} {shlex.join(words)}"
        kept, skip = [], False
        for word in words:
            if skip or word == "--run-dir":
                skip = not skip
            elif not word.startswith("--run-dir="):
                kept.append(word)
        return f"{self.program} {shlex.join([*kept, '--run-dir', str(self.run_dir)])}"

    def report_hint(self) -> str:
        """How to see what an interrupted run has come to, to follow what is said of it."""
        if self.run_dir is None or next(iter(self.arguments), "") not in ("classify", "generate"):
            return ""
        return f" (its report: {self.program} report {shlex.quote(str(self.run_dir))})"

    def hint(self) -> str:
        """How to go on, in words; "" if no run was opened."""
        command = self.command_to_go_on()
        return f"go on with: {command}" if command else ""
