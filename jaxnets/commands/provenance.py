"""Whether a run's images are those that it began with, and which of them are not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxnets.commands.configs.reading import FINGERPRINT
from jaxnets.data import DataSet
from jaxnets.data.listing import differences, read_listing, write_listing
from jaxnets.errors import UserError
from jaxnets.processes import distributed
from jaxnets.run.runs import read_run

#: File of a run that names what its images were made of, where that is files of the user's.
_LISTING = "data_files.json.gz"
#: Fields that say which images are asked for.
_SOURCE = ("data", "data_dir", "image_size", "channels", "background", "skip_bad")


def fingerprint(dataset: DataSet) -> dict[str, str]:
    """What a run's `config.json` keeps of its images."""
    return {FINGERPRINT: dataset.fingerprint[:16]}


def check(folder: Path | None, experiment: str, asked: Mapping[str, Any], dataset: DataSet) -> None:
    """Fails if a run is to go on with other images than it began with.

    Args:
      folder: of the run, which may not be there yet.
      experiment: name of the command.
      asked: what would be its `config.json`.
      dataset: the images as they are now.

    Raises:
      UserError: names the files that were changed, added or removed.
    """
    if folder is None or not (folder / "config.json").exists():
        return
    record = read_run(folder)
    config = record["config"]
    # That other images were asked for, or another command, is another sentence.
    if record["experiment"] == experiment and all(config.get(n) == asked.get(n) for n in _SOURCE):
        why = changes(folder, config, dataset)
        if why is not None:
            raise UserError(
                f"the images of {dataset.name} are not those that {folder} began with: {why}; put "
                "them back, or start over in another --run-dir"
            )


def changes(folder: Path, config: Mapping[str, Any], dataset: DataSet) -> str | None:
    """How a run's images have changed since it began; None if they have not.

    Args:
      folder: of the run.
      config: of its `config.json`.
      dataset: the images as they are now.
    """
    began, now = config.get(FINGERPRINT), fingerprint(dataset)[FINGERPRINT]
    if began is None or began == now:
        return None
    before = read_listing(folder / _LISTING)
    after = None if dataset.listing is None else read_listing(dataset.listing)
    if before is None or after is None:
        return f"their fingerprint was {began} and is {now}"
    return differences(before, after)


def keep(folder: Path, dataset: DataSet) -> None:
    """Keeps, in the folder of a run that has just been opened, what its images were made of."""
    if dataset.listing is None or (folder / _LISTING).exists() or distributed.index():
        return
    listing = read_listing(dataset.listing)
    if listing is not None:
        write_listing(folder / _LISTING, listing)
