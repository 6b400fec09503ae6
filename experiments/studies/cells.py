"""What all studies share: cells that are computed once, and their table of mean and spread."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.reproduce import spread
from jaxnets.commands import common
from jaxnets.files import check_writable, read_json, write_json
from jaxnets.run import runs


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training, or other piece of work, with one seed.

    Attributes:
      row: what names its row of the table, such as {"method": "gan", "labels": 100}.
      seed: its seed, or number of the draw.
      values: all further numbers and texts that its scores depend on. A cell that lies there with
        other values is computed anew.
    """

    row: Mapping[str, Any]
    seed: int
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of its folder."""
        words = [f"{key}-{value}" for key, value in self.row.items()]
        return "-".join([*words, f"seed-{self.seed}"]).replace("/", "-").replace(" ", "-")

    def as_json(self) -> dict[str, Any]:
        """Values as a JSON file gives them back."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of the printed table: its heading, and the score that it shows."""

    heading: str
    score: str
    form: str = ".2f"
    factor: float = 1.0


def conduct(
    name: str,
    cells: Sequence[Cell],
    measure: Callable[[Cell, Path], Mapping[str, float]],
    columns: Sequence[Column],
    *,
    run_dir: Path | None = None,
    out: Path | None = None,
    about: Mapping[str, Any],
) -> Path:
    """Computes the cells in their order, and writes the table after each.

    Args:
      name: of the study.
      cells: what is computed.
      measure: (cell, folder for its runs) -> name -> score.
      columns: of the printed table.
      run_dir: folder of the runs, a sub-folder for each cell; by default runs/study-NAME.
      out: the JSON file; by default experiments/results/NAME.json.
      about: what else the file should say.

    Returns:
      The JSON file: `about`, `cells` with their scores, `table` with mean and standard deviation.
    """
    out = out or Path(__file__).parents[1] / "results" / f"{name}.json"
    check_writable(out, "--out")
    root = run_dir or Path("runs") / f"study-{name}"
    runs.open_run(root, "study", {"study": name})
    records: list[dict[str, Any]] = []
    for number, cell in enumerate(cells, 1):
        path = root / cell.name / "cell.json"
        record = read_json(path) if path.exists() else {}
        if {key: record.get(key) for key in cell.as_json()} != cell.as_json():
            print(f"cell {number} of {len(cells)}: {cell.name}", flush=True)
            scores = {key: float(value) for key, value in measure(cell, path.parent).items()}
            record = {**cell.as_json(), "scores": scores}
            write_json(path, record)
        records.append(record)
        table = rows_of(records)
        machine = common.machine()
        write_json(out, {**about, "table": table, "cells": records, "machine": machine})
    print(markdown(rows_of(records), columns))
    print(f"  {out}")
    return out


def rows_of(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each row: what names it, how many seeds, and the spread of every score."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        rows.setdefault(json.dumps(record["row"]), []).append(record)
    return [
        {
            **of[0]["row"],
            "seeds": len(of),
            "scores": {
                name: spread([record["scores"][name] for record in of])
                for name in of[0]["scores"]
                if all(name in record["scores"] for record in of)
            },
        }
        for of in rows.values()
    ]


def markdown(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> str:
    """The table of mean ± standard deviation; a score that a row lacks is left empty."""
    names = [name for name in rows[0] if name != "scores"]
    lines = [" | ".join([*names, *(column.heading for column in columns)])]
    lines.append(" | ".join(["---"] * (len(names) + len(columns))))
    for row in rows:
        cells = [str(row[name]) for name in names]
        for column in columns:
            score = row["scores"].get(column.score)
            mean, std = (score[k] * column.factor for k in ("mean", "std")) if score else (0, 0)
            cells.append(f"{mean:{column.form}} ± {std:{column.form}}" if score else "")
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)
