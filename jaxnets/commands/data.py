"""`data prepare NAME` and `data show NAME`: get a data set ready, and look at it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxnets.commands.configs import constraints
from jaxnets.commands.configs.data import Named, Prepare, Show
from jaxnets.commands.session import Session
from jaxnets.data import DataSet, cache_dir, contact_sheet, describe, example_page, load
from jaxnets.files import check_writable


def run(config: Prepare | Show, session: Session) -> None:
    """Runs either command."""
    if isinstance(config, Show):
        show(config)
    else:
        prepare(config)


def prepare(config: Prepare) -> None:
    """Loads the data set once, which leaves it in the cache, and prints a line about it."""
    dataset = _load(config)
    counts = ", ".join(f"{len(split):,} {name}" for name, split in dataset.splits.items())
    print(f"{dataset.name}: {counts}; {dataset.num_classes} classes; cached in {cache_dir()}")
    if dataset.skipped:
        print(f"skipped {dataset.skipped} unusable files")


def show(config: Show) -> None:
    """Prints the description and writes the sheet of examples."""
    constraints.check(config)
    write, suffix = contact_sheet, ".png"
    if config.name.startswith(("sounds:", "texts:")):
        write, suffix = example_page, ".html"
    out = config.out
    if out is None:
        out = Path(re.sub(r"\W+", "-", config.name).strip("-")[:100] + suffix)
    check_writable(out, "--out")
    dataset = _load(config)
    write(dataset, out, config.per_class)
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
        lines += [
            f"{name}: {split['count']:,} {_told(split)}, {split['duplicates']} exact duplicates",
            "  " + ", ".join(f"{label} {n:,}" for label, n in split["class_counts"].items()),
        ]
    for pair, count in description["duplicates_across"].items():
        lines.append(f"in both {pair.replace('/', ' and ')}: {count} examples")
    return "\n".join(lines)


def _told(split: Mapping[str, Any]) -> str:
    """The numbers of a split's inputs, whatever they are."""
    if "mean" in split:
        mean, std = (", ".join(f"{v:.4f}" for v in split[key]) for key in ("mean", "std"))
        shape = "x".join(map(str, split["shape"]))
        return f"images of {shape}, mean {mean}, std {std} (0 to 1)"
    known = ("count", "shape", "duplicates", "class_counts")
    told = [f"{name} {value:.4g}" for name, value in split.items() if name not in known]
    return f"rows of {split['shape'][0]:,}, " + ", ".join(told)


def _load(config: Named) -> DataSet:
    return load(
        config.name,
        data_dir=config.data_dir,
        image_size=config.image_size,
        channels=config.channels,
        skip_bad=config.skip_bad,
        rate=config.rate,
        seconds=config.seconds,
        unit=config.unit,
    )
