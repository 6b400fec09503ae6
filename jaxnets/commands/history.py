"""What the folder of a run tells of it: how it began, how far it came, its numbers and curves."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnets.commands import common, populations
from jaxnets.commands.configs import sweeps
from jaxnets.commands.session import Session
from jaxnets.data import DataSet
from jaxnets.data.dividing import row_hashes
from jaxnets.errors import UserError
from jaxnets.files import read_json, write_json
from jaxnets.media import report
from jaxnets.run.log import read_records
from jaxnets.run.runs import newest_checkpoint

#: File of a run that says how it began; so many classes are counted there one by one.
_FILE, _CLASSES = "about.json", 20


def keep(
    folder: Path, title: str, session: Session, config: Any, dataset: DataSet, told: str
) -> None:
    """Writes how a run begins into its folder, for its reports, unless it is there."""
    if (folder / _FILE).exists():
        return
    seeds = getattr(config, "seeds", 1)
    machine, train, names = common.machine(), dataset.splits["train"], dataset.class_names
    splits = ", ".join(f"{len(split):,} {name}" for name, split in dataset.splits.items())
    target: Any = train.columns.get("target")
    counts = target.counts(train.target) if names else np.zeros(0)
    each = ", ".join(f"{name}: {n:,}" for name, n in zip(names, counts, strict=True))
    if len(names) > _CLASSES:
        each = f"{counts.min():,} to {counts.max():,}"
    read = [split.inputs for split in dataset.splits.values() if not split.lazy]
    hashes = [row for rows in read for row in row_hashes(rows)]
    rows = {
        "command": f"{session.program} {shlex.join(session.arguments)}",
        "begun": time.strftime("%Y-%m-%d %H:%M"),
        "seed": f"{config.seed}" + f", and {seeds - 1} more" * (seeds > 1),
        "versions": ", ".join(f"{n} {machine[n]}" for n in ("jaxnets", "jax", "flax", "python")),
        "machine": f"{machine['devices']} x {machine['device']}, {machine['cores']} CPU cores",
        "data": f"{dataset.name}: {splits}; {common.classes(len(names))}",
        "training data by class": each,
        "exact copies": f"{len(hashes) - len(set(hashes)):,} of {len(hashes):,} examples"
        if hashes
        else "not looked for",
        "trained on": told,
    }
    rows = {name: text for name, text in rows.items() if text}
    write_json(folder / _FILE, {"title": title, "rows": rows, "notes": dataset.notes})


class History:
    """A run, as its folder tells it.

    Attributes:
      folder: of the run.
      config: of the run.
      records: of its training and of its evaluations.
      summary: what its end has left; empty where it has not ended.
      numbers: the final ones or, where it has not ended, those of its last evaluation.
      epoch: how far its records go; NaN where they don't tell.
    """

    def __init__(self, folder: Path, config: Any):
        """Reads it."""
        self.folder, self.config = folder, config
        self._about, self.summary = (_content(folder / name) for name in (_FILE, "summary.json"))
        self.records = read_records(folder / "metrics.jsonl")
        last = next((r for r in reversed(self.records) if r["split"] == "eval"), {})
        numbers = (self.summary or last).items()
        self.numbers = {name: math.nan if value is None else value for name, value in numbers}
        epochs = [r["epoch"] for r in self.records if r.get("epoch") is not None]
        self.epoch = max(epochs, default=math.nan)

    def opening(
        self, rows: Sequence[tuple[str, str]], absent: Sequence[str]
    ) -> list[report.Section]:
        """What a report begins with: how far the run came, how it began, and rows of numbers."""
        status = [] if self.summary else [self._status()]
        # Runs of earlier versions don't say more.
        about = self._about.get("rows", {"data": self.config.data, "seed": self.config.seed})
        texts = {"": [*status, *absent], "About the data": self._about.get("notes", [])}
        first, notes = (report.Text("\n\n".join(t), heading) for heading, t in texts.items())
        sections = [first, report.Table([*about.items()], heading="The run"), notes]
        told = [part for part in sections if isinstance(part, report.Table) or part.body]
        told.append(report.Table(rows, heading="Results"))
        table, sentences = self._sweep()
        if table:
            told.append(report.Table(table[1:], table[0], heading="The sweep"))
        return [*told, report.Text("\n\n".join(sentences))] if table else told

    def _sweep(self) -> tuple[list[list[str]], list[str]]:
        """How the values of a sweep compare, a table and sentences; nothing where none is swept."""
        told = (self.config, populations.names(self.config), self.numbers)
        table, sentences = sweeps.winners(*told)
        return table, [*sentences, sweeps.best_member(*told)[1]] if table else []

    def _status(self) -> str:
        """How far a run has come that has not ended, and how to go on."""
        saved = newest_checkpoint(self.folder)
        last = max(self.records[-1]["step"], saved or 0)
        kept = "it has no checkpoint yet" if saved is None else f"its last checkpoint is {saved}"
        step = self.numbers.get("step")
        of = "" if step is None else f" The numbers below are of its evaluation at step {step}."
        return (
            f"This run has not ended: it has come to epoch {self._epochs()}, step {last}, and "
            f"{kept}.{of} If it is not at work any more, the same command goes on, with --run-dir "
            f"{self.folder}."
        )

    def _epochs(self) -> str:
        planned = self.config.epochs
        ended = self.summary and not self.summary.get("stopped_early")
        # The number of steps is whole: the last may end a little before or after the epochs.
        return f"{planned if ended else min(self.epoch, planned):.3g} of {planned:g}"

    def rows(self) -> list[tuple[str, str]]:
        """Rows of a report's table that any run has."""
        seconds = self.summary.get("train_seconds")
        time = (
            [] if seconds is None else [("training time, compilation included", f"{seconds:.0f} s")]
        )
        return [("epochs", self._epochs()), *time]

    def curve(self, labels: Mapping[str, str], title: str, *, log: bool = False) -> list[str]:
        """A drawing of what the records have of some numbers; none where they have nothing.

        `labels` says what it calls each. A few members of a population are drawn one by one.
        """
        x = "epoch" if all(r.get("epoch") is not None for r in self.records) else "step"
        members, names = populations.names(self.config), dict(labels)
        if 1 < len(members) <= 8 // len(labels):  # else a reader can't tell them apart
            names = {f"{n}/{m}": f"{label}, {m}" for n, label in labels.items() for m in members}
        points = [
            {x: r[x], **{label: r[n] for n, label in names.items() if n in r}} for r in self.records
        ]
        there = [k for k in names.values() if any(point.get(k) is not None for point in points)]
        return [report.curves_svg(points, there, x, title, log=log)] if there else []

    def write(
        self,
        rows: list[tuple[str, str]],
        parts: Sequence[report.Section],
        sentences: Sequence[str] = (),
    ) -> None:
        """Writes the report, and prints its tables, some sentences and where it is."""
        title, path = self._about.get("title", str(self.folder)), self.folder / "report.html"
        report.html_report(path, title, parts)
        common.print_table(title, rows)
        table, told = self._sweep()
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for i, row in enumerate(table):
            cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
            print("\n" * (i == 0) + f"  {'  '.join(cells)}".rstrip())
        for line in (*told, *sentences, f"report: {path}"):
            print(f"  {line}")


def _content(path: Path) -> dict[str, Any]:
    """The content of a JSON file of a run; nothing if it is not there."""
    content = read_json(path) if path.exists() else {}
    if not isinstance(content, dict):
        raise UserError(f"{path} is not what a run has written; delete it to go without")
    return content
