"""What the training commands need for `--distributed`: one run by several processes."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from pathlib import Path

from jaxnets.commands.configs import constraints
from jaxnets.commands.configs.options import RunOptions
from jaxnets.errors import UserError
from jaxnets.processes import distributed
from jaxnets.run.runs import config_values

#: Longer than it takes until this process hears that another has died.
_WATCH_SECONDS = 3.0

#: What may differ between the processes of a run.
_OWN = ("process_id", "coordinator", "start_timeout", "data_dir", "compilation_cache")


def start(config: RunOptions, hint: Callable[[], str]) -> None:
    """Joins the other processes, where the flags say that there are any; before jax has devices.

    Args:
      config: of the run.
      hint: how to go on, for the news that a process is gone.
    """
    constraints.check(config)
    if not config.distributed:
        names = ("coordinator", "process_count", "process_id")
        given = [name for name in names if getattr(config, name) is not None]
        if given:
            raise UserError(
                f"{constraints.flag(given[0])} is for several processes: add --distributed"
            )
        return
    if config.mode == "pmap":
        raise UserError("--distributed needs --mode jit, got --mode pmap")
    distributed.start(
        config.coordinator,
        config.process_count,
        config.process_id,
        timeout=config.start_timeout,
        config=config_values(config, leave_out=_OWN),
        hint=hint,
    )


def check_data(name: str, fingerprint: str) -> None:
    """Fails, in one sentence and in all processes, if they have not loaded the same images."""
    prints = distributed.gather(fingerprint)
    other = next((i for i, one in enumerate(prints) if one != prints[0]), None)
    if other is not None:
        raise UserError(
            f"{name} is not the same data in all processes (fingerprint {prints[other]} in process "
            f"{other}, {prints[0]} in process 0); give all of them the same files"
        )


def share_folder(make: Callable[[], Path]) -> Path:
    """The run's folder, which process 0 makes or finds with `make`, and which all must see."""
    if distributed.count() == 1:
        return make()
    folder = Path(distributed.on_first(lambda: str(make().absolute())))
    seen = distributed.gather((folder / "config.json").exists())
    if not all(seen):
        raise UserError(
            f"process {seen.index(False)} does not see {folder}, which process 0 has made; "
            "--run-dir must be on storage that all processes share"
        )
    return folder


def end_by(error: Exception) -> None:
    """Ends this process, if it was one of several, by an error that nobody expected."""
    if distributed.count() == 1:
        return
    # It may be what a collective says when another process has died, and the watch says it better.
    time.sleep(_WATCH_SECONDS)
    traceback.print_exception(error)
    distributed.end(1, f"{type(error).__name__}: {error}", together=False)
