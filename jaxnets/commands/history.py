"""What the folder of a run tells of it: how it began, how far it came, its numbers and curves."""

from __future__ import annotations

import dataclasses
import math
import shlex
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxnets.commands import common, populations
from jaxnets.commands.session import Session
from jaxnets.data import DataSet
from jaxnets.data.dividing import row_hashes
from jaxnets.errors import UserError
from jaxnets.files import read_json, write_json
from jaxnets.media import report
from jaxnets.run.log import read_records
from jaxnets.run.runs import newest_checkpoint

#: File of a run that says how it began; so many classes are counted there one by one in a report.
_FILE, _CLASSES = "about.json", 20


def keep(folder: Path, title: str, session: Session, dataset: DataSet, examples: int) -> None:
    """Writes how a run begins into its folder, unless it is there.

    Args:
      folder: of the run.
      title: of its reports.
      session: the call.
      dataset: what it is trained and tested on.
      examples: how many it is trained on.
    """
    if (folder / _FILE).exists():
        return
    train, names = dataset.splits["train"], dataset.class_names
    counts = np.bincount(train.target, minlength=len(names)) if train.labelled else ()
    about = {
        "title": title,
        "program": session.program,
        "arguments": list(session.arguments),
        "begun": time.strftime("%Y-%m-%d %H:%M"),
        "machine": common.machine(),
        "data": dataset.name,
        "kind": dataset.columns["inputs"].kind,
        "splits": {name: len(split) for name, split in dataset.splits.items()},
        "classes": [[name, int(n)] for name, n in zip(names, counts, strict=False)],
        "examples": examples,
        "notes": list(dataset.notes),
    }
    write_json(folder / _FILE, about)


@dataclasses.dataclass(frozen=True)
class History:
    """A run, as its folder tells it.

    Attributes:
      folder: of the run.
      config: of the run.
    """

    folder: Path
    config: Any

    @cached_property
    def about(self) -> dict[str, Any]:
        """How it began; nothing of runs of earlier versions."""
        return _mapping(self.folder / _FILE)

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """The records of its training and of its evaluations."""
        return read_records(self.folder / "metrics.jsonl")

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The final numbers; none of a run that has not ended."""
        return _mapping(self.folder / "summary.json")

    @cached_property
    def numbers(self) -> dict[str, Any]:
        """The final numbers or, of a run that has not ended, those of its last evaluation."""
        evaluations = [record for record in self.records if record["split"] == "eval"]
        numbers = self.summary or (evaluations[-1] if evaluations else {})
        return {name: math.nan if value is None else value for name, value in numbers.items()}

    @property
    def step(self) -> int:
        """How many steps it has made."""
        return self.summary.get("step", self.records[-1]["step"])

    @property
    def epoch(self) -> float:
        """How many epochs; NaN where its records don't tell."""
        told = [r["epoch"] for r in self.records if r.get("epoch") is not None]
        return max(told, default=math.nan)

    def status(self) -> str:
        """How far a run has come that has not ended, and how to go on; "" if it has ended."""
        if self.summary:
            return ""
        saved, last = newest_checkpoint(self.folder), self.records[-1]["step"]
        kept = "there is no checkpoint yet" if saved is None else f"the last checkpoint is {saved}"
        of = f" by the evaluation at step {self.numbers['step']}" if self.numbers else ""
        session = Session(
            self.about.get("program", ""), self.about.get("arguments", ()), self.folder
        )
        command = session.command_to_go_on() if self.about else f"--run-dir {self.folder}"
        return (
            f"This run has not ended: it has come to step {last}, {self._epochs()} epochs, and "
            f"{kept}. Numbers are{of or ' not there yet'}; pictures are of the last checkpoint.\n\n"
            f"If it is not at work any more, the same command goes on: {command}"
        )

    def _epochs(self) -> str:
        # The number of steps is whole, so the last may end a little later than the epochs.
        return f"{min(self.epoch, self.config.epochs):.3g} of {self.config.epochs:g}"

    def rows(self) -> list[tuple[str, str]]:
        """Rows of a report's table that any run has."""
        early = ", stopped early" if self.summary.get("stopped_early") else ""
        rows = [("epochs", self._epochs() + early)]
        if "train_seconds" in self.summary:
            seconds = f"{self.summary['train_seconds']:.0f} s"
            rows.append(("training time, compilation included", seconds))
        return rows

    def opening(
        self, dataset: DataSet | None, *more: tuple[str, str], absent: str = ""
    ) -> list[report.Section]:
        """What a report begins with: how far the run came; with what, on what, and when it began.

        Args:
          dataset: the data, if they are there.
          *more: rows.
          absent: what is left out, and why.
        """
        try:
            rows = [*self._rows(dataset), *more]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{self.folder / _FILE} does not say how the run began; delete it to go without"
            ) from error
        said = [report.Text(text) for text in (self.status(), absent) if text]
        notes = "\n\n".join(self.about.get("notes", ()))
        told = [report.Text(notes, heading="About the data")] if notes else []
        return [*said, report.Table(rows, heading="The run"), *told]

    def _rows(self, dataset: DataSet | None) -> list[tuple[str, str]]:
        about, config = self.about, self.config
        began = time.localtime((self.folder / "config.json").stat().st_mtime)
        rows = [
            ("begun", about.get("begun") or time.strftime("%Y-%m-%d %H:%M", began)),
            ("seed", f"{config.seed}" + f", and {config.seeds - 1} more" * (config.seeds > 1)),
        ]
        if about:
            command = f"{about['program']} {shlex.join(about['arguments'])}"
            rows = [("command", command), *rows]
        if machine := about.get("machine") or self.summary.get("machine"):
            versions = (f"{n} {machine[n]}" for n in ("jaxnets", "jax", "flax", "python"))
            where = f"{machine['devices']} x {machine['device']}, {machine['cores']} CPU cores"
            rows += [("versions", ", ".join(versions)), ("machine", where)]
        if not about:
            return [*rows, ("data", config.data)]
        counts, classes = about["splits"].items(), about["classes"]
        count = f"; {len(classes)} classes" if classes else ""
        told = ", ".join(f"{n:,} {of}" for of, n in counts)
        rows.append(("data", f"{about['data']}: {told}{count}"))
        if classes:
            numbers = [n for _, n in classes]
            each = f"{min(numbers):,} to {max(numbers):,} examples in each"
            if len(classes) <= _CLASSES:
                each = ", ".join(f"{name}: {n:,}" for name, n in classes)
            rows.append(("training examples by class", each))
        if dataset is not None:
            rows.append(("exact copies", _copies(dataset)))
        return rows

    def curve(self, labels: Mapping[str, str], title: str, *, log: bool = False) -> list[str]:
        """A drawing of what the records have of some numbers; none where they have nothing.

        Args:
          labels: name of a number -> what the drawing calls it.
          title: of the drawing.
          log: whether the axis is logarithmic.
        """
        x = "epoch" if all(r.get("epoch") is not None for r in self.records) else "step"
        names = {}
        for name in populations.curves(self.config, *labels):
            number, _, member = name.partition("/")
            names[name] = labels[number] + f", {member}" * bool(member)
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
        """Writes the report, and prints its table, some sentences and where it is."""
        title, path = self.about.get("title", str(self.folder)), self.folder / "report.html"
        report.html_report(path, title, parts)
        common.print_table(title, rows)
        for line in (*sentences, f"report: {path}"):
            print(f"  {line}")


def _mapping(path: Path) -> dict[str, Any]:
    """The content of a JSON file of a run; nothing if it is not there."""
    content = read_json(path) if path.exists() else {}
    if not isinstance(content, dict):
        raise UserError(f"{path} is not what a run has written; delete it to go without")
    return content


def _copies(dataset: DataSet) -> str:
    """How many examples are exact copies of others."""
    hashes = {name: row_hashes(split.inputs) for name, split in dataset.splits.items()}
    trained = set(hashes["train"])
    counts = {f"within {name}": len(of) - len(set(of)) for name, of in hashes.items()}
    counts |= {
        f"of {name} in train": sum(row in trained for row in of)
        for name, of in hashes.items()
        if name != "train"
    }
    return ", ".join(f"{n:,} {where}" for where, n in counts.items() if n) or "none"
