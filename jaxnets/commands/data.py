"""`data prepare NAME`, `data show NAME` and `data cache`."""

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxnets.commands import common
from jaxnets.commands.configs import constraints
from jaxnets.commands.configs.data import Cache, Prepare, Show
from jaxnets.commands.session import Session
from jaxnets.data import cache_dir, contact_sheet, describe, example_page
from jaxnets.data.cache import entries, remove
from jaxnets.errors import printable
from jaxnets.files import check_writable


def run(config: Prepare | Show | Cache, session: Session) -> None:
    """Runs one of the commands."""
    if isinstance(config, Show):
        show(config)
    elif isinstance(config, Cache):
        show_cache(config)
    else:
        prepare(config)


def show_cache(config: Cache) -> None:
    """Prints a line for each data set in the cache, the latest used first, or deletes all."""
    found = entries()
    for entry in found:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        print(f"{entry.size / 1e6:10,.1f} MB  last used {used}  {entry.name}")
        if config.clear:
            remove(entry)
    total = sum(entry.size for entry in found) / 1e6
    plural = "s" * (len(found) != 1)
    what = f"{len(found)} data set{plural}, {total:,.1f} MB, in {cache_dir() / 'arrays'}"
    print(f"deleted {what}" if config.clear and found else what)


def prepare(config: Prepare) -> None:
    """Loads the data set once, which leaves it in the cache, and prints a line about it."""
    constraints.check(config)
    dataset = common.load_data(config, config.name)
    counts = ", ".join(f"{len(split):,} {name}" for name, split in dataset.splits.items())
    where = "not decoded ahead" if dataset.splits["train"].lazy else f"cached in {cache_dir()}"
    print(f"{dataset.name}: {counts}; {common.classes(dataset.num_classes)}; {where}")
    common.print_notes(dataset)


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
    dataset = common.load_data(config, config.name)
    write(dataset, out, config.per_class)
    print(format_description(describe(dataset)))
    common.print_notes(dataset)
    print(f"examples of every class: {out}")


def format_description(description: Mapping[str, Any]) -> str:
    """The result of `describe` as text for a terminal."""
    lines = [
        f"{description['name']}: {common.classes(description['num_classes'])}, "
        f"{description['skipped']} files skipped",
        f"fingerprint {description['fingerprint']}",
    ]
    for name, split in description["splits"].items():
        copies = f"{split['duplicates']} exact duplicates"
        if split["duplicates"] is None:
            copies = f"by {split['seen']:,} of them"
        lines += [
            f"{name}: {split['count']:,} {_told(split)}, {copies}",
            "  " + ", ".join(f"{label} {n:,}" for label, n in split["class_counts"].items()),
        ]
    for pair, count in description["duplicates_across"].items():
        lines.append(f"in both {pair.replace('/', ' and ')}: {count} examples")
    return "\n".join(map(printable, lines))


def _told(split: Mapping[str, Any]) -> str:
    """The numbers of a split's inputs, whatever they are."""
    if "mean" in split:
        mean, std = (", ".join(f"{v:.4f}" for v in split[key]) for key in ("mean", "std"))
        shape = "x".join(map(str, split["shape"]))
        return f"images of {shape}, mean {mean}, std {std} (0 to 1)"
    known = ("count", "shape", "duplicates", "seen", "class_counts")
    told = [f"{name} {value:.4g}" for name, value in split.items() if name not in known]
    return f"rows of {split['shape'][0]:,}, " + ", ".join(told)
