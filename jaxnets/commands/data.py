"""`data prepare NAME` and `data show NAME`: get a data set ready, and look at it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxnets.commands.configs import constraints
from jaxnets.commands.configs.constraints import COUNT

__all__ = ["DataCommand", "Prepare", "Show", "prepare", "run", "show"]


@dataclass(frozen=True)
class Source:
    """Which data set, and how it is read."""

    name: tyro.conf.Positional[str]
    """digits, fashion_mnist, tfds:NAME[/config][:version] or folder:PATH."""
    data_dir: Path | None = None
    """Folder of TensorFlow Datasets in which prepared data lies."""
    image_size: tuple[int, int] | int | None = None
    """Height and width, or one number for both, to resize and crop to (tfds:, folder:)."""
    channels: int | None = None
    """1 for grey or 3 for colour (tfds:, folder:)."""
    skip_bad: bool = False
    """Leave unusable files out and count them instead of stopping (folder:)."""


@dataclass(frozen=True)
class Prepare(Source):
    """Download, decode and cache a data set, so that training starts at once."""


@dataclass(frozen=True)
class Show(Source):
    """Print what is in a data set, and draw examples of every class."""

    out: Path | None = None
    """PNG file for the sheet of examples, one row for each class; by default named after the
    data set, in the working directory."""
    per_class: Annotated[int, COUNT] = 10
    """Examples in each row of that sheet."""


DataCommand = (
    Annotated[Prepare, tyro.conf.subcommand("prepare")]
    | Annotated[Show, tyro.conf.subcommand("show")]
)


def run(config: Prepare | Show) -> None:
    """Runs either command."""
    if isinstance(config, Show):
        show(config)
    else:
        prepare(config)


def prepare(config: Prepare) -> None:
    """Loads the data set once, which leaves it in the cache, and prints a line about it."""
    from jaxnets.data import cache_dir

    dataset = _load(config)
    counts = ", ".join(f"{len(split):,} {name}" for name, split in dataset.splits.items())
    print(f"{dataset.name}: {counts}; {dataset.num_classes} classes; cached in {cache_dir()}")
    if dataset.skipped:
        print(f"skipped {dataset.skipped} unusable files")


def show(config: Show) -> None:
    """Prints the description and writes the sheet of examples."""
    from jaxnets.data import contact_sheet, describe
    from jaxnets.files import check_writable

    constraints.check(config)
    out = config.out
    if out is None:
        out = Path(re.sub(r"\W+", "-", config.name).strip("-")[:100] + ".png")
    check_writable(out, "--out")
    dataset = _load(config)
    contact_sheet(dataset, out, config.per_class)
    print(format_description(describe(dataset)))
    print(f"examples of every class: {out}")


def format_description(description: Mapping[str, Any]) -> str:
    """The result of `describe` as text for a terminal."""
    lines = [
        f"{description['name']}: {description['num_classes']} classes, "
        f"{description['skipped']} files skipped",
        f"fingerprint {description['fingerprint']}",
    ]
    for name, split in description["splits"].items():
        mean, std = (", ".join(f"{v:.4f}" for v in split[key]) for key in ("mean", "std"))
        lines += [
            f"{name}: {split['count']:,} images of {'x'.join(map(str, split['shape']))}, "
            f"mean {mean}, std {std} (0 to 1), {split['duplicates']} exact duplicates",
            "  " + ", ".join(f"{label} {n:,}" for label, n in split["class_counts"].items()),
        ]
    for pair, count in description["duplicates_across"].items():
        lines.append(f"in both {pair.replace('/', ' and ')}: {count} images")
    return "\n".join(lines)


def _load(config: Source) -> Any:
    from jaxnets.data import load

    return load(
        config.name,
        data_dir=config.data_dir,
        image_size=config.image_size,
        channels=config.channels,
        skip_bad=config.skip_bad,
    )
