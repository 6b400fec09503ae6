"""The folder of a run: one experiment, one configuration, resumed by the same command."""

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxnets import __version__
from jaxnets.errors import UserError
from jaxnets.files import check_path, new_folder, read_json, write_json

__all__ = ["belongs", "newest_checkpoint", "open_run", "read_run"]

#: Key of a `config.json` with the numbers of epochs that the run was to have before, in order.
_EARLIER = "earlier_epochs"


def read_run(folder: Path) -> dict[str, Any]:
    """`config.json` of a run: `{"experiment": ..., "config": {...}, "version": ...}`.

    Raises:
      UserError: if the folder is not that of a run.
    """
    if not folder.is_dir():
        raise UserError(f"there is no run folder {folder}; `list` shows the runs there are")
    if not (folder / "config.json").exists():
        raise UserError(f"{folder} is not the folder of a run: it has no config.json")
    record = read_json(folder / "config.json")
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        raise UserError(f"{folder / 'config.json'} does not describe a run; choose another folder")
    if not isinstance(record.get("experiment"), str):
        raise UserError(f"{folder / 'config.json'} does not name an experiment")
    return record


def newest_checkpoint(folder: Path) -> int | None:
    """The step of a run's newest checkpoint, good or not; None if there is none."""
    # "12.orbax-checkpoint-tmp" is a save that was cut off.
    names = (path.name for path in (folder / "checkpoints").glob("[0-9]*"))
    return max((int(name) for name in names if name.isdecimal()), default=None)


def open_run(
    folder: Path | None,
    experiment: str,
    config: Mapping[str, Any],
    *,
    defaults: Mapping[str, Any] | None = None,
    root: Path | None = None,
    ends: str | None = None,
) -> Path:
    """Makes the folder of a run, or finds it again.

    Args:
      folder: the run's folder; by default `<root>/<experiment>-<date>-<time>`.
      experiment: name of the command.
      config: every value that the run's results depend on, as JSON types.
      defaults: values of fields that the `config.json` of an earlier version may lack: what was
        done before there was a choice.
      root: folder of runs; by default `runs` in the working directory.
      ends: why a run of this configuration can't go on for more `epochs`, "" if it can: its folder
        then has the greater number from now on. None says nothing of it.

    Returns:
      The folder, with its `config.json`.

    Raises:
      UserError: if the folder belongs to another experiment or another configuration (the
        message names the fields that differ), holds other files, or can't be written to.
    """
    if folder is None:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        base = (root or Path("runs")) / f"{experiment}-{stamp}"
        folder, n = base, 1
        while folder.exists():
            n += 1
            folder = base.with_name(f"{base.name}-{n}")
    check_path(folder, "--run-dir")
    if (folder / "config.json").exists():
        record = read_run(folder)
        if record["experiment"] != experiment:
            raise UserError(
                f"{folder} is a run of `{record['experiment']}`, not of `{experiment}`; choose "
                "another --run-dir"
            )
        # Through JSON, so that a tuple equals the list that was read back.
        asked = json.loads(json.dumps(config))
        there = json.loads(json.dumps(dict(defaults or {}))) | record["config"]
        missing = "(not set)"
        differ = [
            f"{name} (there {there.get(name, missing)!r}, asked {asked.get(name, missing)!r})"
            for name in sorted({*record["config"], *asked})
            if there.get(name, missing) != asked.get(name, missing)
        ]
        longer = differ and {**asked, "epochs": None} == {**there, "epochs": None}
        longer = longer and asked["epochs"] > there["epochs"]
        if differ and not (longer and ends == ""):
            why = (
                f"; it can't go on, as {ends}: start another from its weights, --init-from {folder}"
            )
            raise UserError(
                f"{folder} is a run with another configuration: {', '.join(differ)}; choose "
                f"another --run-dir or the same values{why if longer and ends else ''}"
            )
        if not os.access(folder, os.W_OK):
            raise UserError(f"no permission to write to {folder}; choose another --run-dir")
        if longer:
            _lengthen(folder, record, asked["epochs"])
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not the folder of a run; choose another --run-dir")
    try:
        with new_folder(folder):
            write_json(
                folder / "config.json",
                {"experiment": experiment, "config": dict(config), "version": __version__},
            )
    except OSError as error:
        raise UserError(
            f"cannot write to {folder}: {error.strerror}; choose another --run-dir"
        ) from error
    return folder


def _lengthen(folder: Path, record: dict[str, Any], epochs: float) -> None:
    """Gives a run more epochs, and drops what was made of its end."""
    shutil.rmtree(folder / "accuracy_score", ignore_errors=True)  # a CNN taught by its samples
    (folder / "summary.json").unlink(missing_ok=True)
    earlier = [*record.get(_EARLIER, []), record["config"]["epochs"]]
    config = {**record["config"], "epochs": epochs}
    write_json(folder / "config.json", {**record, "config": config, _EARLIER: earlier})


def belongs(about: Mapping[str, Any] | None, record: Mapping[str, Any] | None) -> bool:
    """Whether a checkpoint is of the run that a `config.json` describes.

    Args:
      about: the content of `config.json` when the checkpoint was saved.
      record: its content now: that of then, or with more epochs. None stands for any run.
    """
    if about is None or record is None:
        return True
    earlier = record.get(_EARLIER, [])
    for number, epochs in enumerate(earlier):
        then = {**record, "config": {**record["config"], "epochs": epochs}}
        then[_EARLIER] = earlier[:number]
        if about == (then if number else {k: v for k, v in then.items() if k != _EARLIER}):
            return True
    return about == record


def config_values(config: Any, *, leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """A config dataclass as JSON types, for `open_run`."""
    values = dataclasses.asdict(config)
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in values.items()
        if name not in leave_out
    }
