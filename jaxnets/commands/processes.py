"""What the training commands need for `--distributed`: one run by several processes."""

from __future__ import annotations

import dataclasses
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from jaxnets.commands.configs import constraints
from jaxnets.commands.configs.constraints import POSITIVE

#: What the news of a death take, and more.
_WATCH_SECONDS = 3.0

#: What may differ between the processes of a run.
_OWN = ("process_id", "coordinator", "start_timeout", "data_dir", "compilation_cache")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessOptions:
    """Which processes work on a run."""

    distributed: bool = False
    """Work on the run together with other processes, on this machine or others: start the same
    command in each, on storage that all see. Without the next three flags they are those that the
    cluster tells of (Cloud TPU, Slurm, Kubernetes)."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where the others find it. Outside of private networks all need the
    same secret in the environment, as JAXNETS_SECRET."""
    process_count: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """Which of them this is, from 0."""
    start_timeout: Annotated[float, POSITIVE] = 120.0
    """Seconds that each waits for all others to come."""


#: Names of the flags above. A run may go on by other processes.
FIELDS = tuple(field.name for field in dataclasses.fields(ProcessOptions))


def start(config: Any, hint: Callable[[], str]) -> None:
    """Joins the other processes, where the flags say that there are any.

    Args:
      config: has the fields of `ProcessOptions`.
      hint: how to go on, for the news that a process is gone.
    """
    from jaxnets import distributed
    from jaxnets.errors import UserError
    from jaxnets.runs import config_values

    constraints.check(config)
    if not config.distributed:
        names = ("coordinator", "process_count", "process_id")
        given = [name for name in names if getattr(config, name) is not None]
        if given:
            raise UserError(
                f"--{given[0].replace('_', '-')} is for several processes: add --distributed"
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


def writes() -> bool:
    """Whether this process writes reports and prints tables; of several, one does."""
    from jaxnets import distributed

    return distributed.writes()


def check_data(name: str, fingerprint: str) -> None:
    """Fails, in one sentence and in all processes, if they have not loaded the same images."""
    from jaxnets import distributed
    from jaxnets.errors import UserError

    found = distributed.gather(fingerprint)
    other = next((i for i, one in enumerate(found) if one != found[0]), None)
    if other is not None:
        raise UserError(
            f"{name} is not the same data in all processes (fingerprint {found[other]} in process "
            f"{other}, {found[0]} in process 0); give all of them the same files"
        )


def share_folder(make: Callable[[], Path]) -> Path:
    """The run's folder, which process 0 makes or finds, and which all must see.

    Args:
      make: gives it.
    """
    from jaxnets import distributed
    from jaxnets.errors import UserError

    if distributed.count() == 1:
        return make()
    folder = Path(distributed.on_first(lambda: str(make().absolute())))
    blind = [
        i
        for i, seen in enumerate(distributed.gather((folder / "config.json").exists()))
        if not seen
    ]
    if blind:
        raise UserError(
            f"process {blind[0]} does not see {folder}, which process 0 has made; --run-dir must "
            "be on storage that all processes share"
        )
    return folder


def end(code: int, said: str, *, together: bool) -> None:
    """The end of this process's part in a run, if it had one; does not return where it fails.

    Args:
      code: exit code.
      said: its last words.
      together: whether the others come to the same end.
    """
    distributed = _module()
    if distributed is not None:
        distributed.end(code, said, together=together)


def end_by(error: Exception) -> None:
    """Ends this process, if it was one of several, by an error that nobody expected."""
    distributed = _module()
    if distributed is None or distributed.count() == 1:
        return
    # It may be what a collective says when another process has died, and the watch says it better.
    time.sleep(_WATCH_SECONDS)
    traceback.print_exception(error)
    distributed.end(1, f"{type(error).__name__}: {error}", together=False)


def _module() -> Any:
    """`jaxnets.distributed`; None where nothing has needed it, for then there is nothing to end."""
    return sys.modules.get("jaxnets.distributed")
