"""What commands and benchmarks share and needs no jax to be imported: `--help` does not wait."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jaxnets
from jaxnets.commands.configs.options import NOT_WHAT, ImageOptions
from jaxnets.errors import printable
from jaxnets.files import write_json
from jaxnets.run.runs import config_values

if TYPE_CHECKING:
    from jaxnets.data import DataSet
    from jaxnets.run.task import FitResult


def load_data(options: ImageOptions, name: str) -> DataSet:
    """The data set of that name, read as the options say."""
    from jaxnets import data

    crop, strength = (getattr(options, name, None) for name in ("resized_crop", "rand_augment"))
    return data.load(
        name,
        data_dir=options.data_dir,
        image_size=options.image_size,
        channels=options.channels,
        skip_bad=options.skip_bad,
        background=options.background,
        decode_ahead=options.decode_ahead,
        views=data.Views(crop, strength or 0),
        **{name: getattr(options, name, None) for name in ("rate", "seconds", "unit")},
    )


def print_notes(dataset: DataSet) -> None:
    """Says once what the owner of the data should know."""
    size = sum(split.nbytes for split in dataset.splits.values()) / 1e6
    if dataset.name.startswith(("folder:", "tfds:")) and not dataset.splits["train"].lazy:
        print(f"note: all images are decoded ahead, into {size:,.1f} MB of the cache", flush=True)
    for note in dataset.notes:
        print(f"note: {printable(note)}", flush=True)


def experiment_values(config: Any) -> dict[str, Any]:
    """The fields of a config that a run's numbers depend on."""
    # Evaluations come at the ends of calls, and early stopping depends on where they come.
    what = ("steps_per_call",) if getattr(config, "patience", None) is not None else ()
    return config_values(config, leave_out=tuple(n for n in NOT_WHAT if n not in what))


def machine() -> dict[str, Any]:
    """What a number was measured on."""
    import flax
    import jax

    device = jax.devices()[0]
    return {
        "jaxnets": jaxnets.__version__,
        "jax": jax.__version__,
        "flax": flax.__version__,
        "python": platform.python_version(),
        "backend": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "cores": os.cpu_count(),
    }


def write_summary(folder: Path, numbers: Mapping[str, Any], result: FitResult | None) -> None:
    """Writes `summary.json`: the final numbers by name, the time they took, and where.

    One that is there stays, if this process has trained nothing: what it says was measured.
    """
    timing = {}
    if result is not None and not result.trained and (folder / "summary.json").exists():
        return
    if result is not None:
        timing = {
            "step": int(result.state.step),
            "stopped_early": result.stopped_early,
            "train_seconds": round(result.seconds, 1),
            "compile_seconds": round(result.compile_seconds, 1),
            "images_per_second": round(result.images_per_second, 1),
        }
    write_json(folder / "summary.json", {**finite(numbers), **finite(timing), "machine": machine()})


def finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with NaN and infinity, which JSON has not, as None."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


def classes(count: int) -> str:
    """How many classes there are: "1 class"."""
    return f"{count:,} class{'es' * (count != 1)}"


def print_table(title: str, rows: list[tuple[str, str]]) -> None:
    """A short table of names and numbers on the terminal."""
    width = max(len(name) for name, _ in rows)
    print(f"\n{title}")
    for name, value in rows:
        print(f"  {name:<{width}}  {value}")
