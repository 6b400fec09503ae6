"""Faulty parts: PaDiM, PatchCore and f-AnoGAN on one folder of pictures, and how fast they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.studies.cells import Cell, Column, conduct
from experiments.studies.configs import Inspection
from jaxnets import metrics
from jaxnets.commands import inspect
from jaxnets.commands.configs.inspect import Inspect
from jaxnets.commands.session import Session
from jaxnets.data import Split
from jaxnets.files import read_json
from jaxnets.judge import inspection
from jaxnets.run.inspector import TrainedInspector
from jaxnets.run.load import load_run

#: Row of the table -> how the method is run.
ARMS: dict[str, dict[str, Any]] = {
    "padim": {"method": "padim"},
    "patchcore": {"method": "patchcore"},
    "patchcore 256": {"method": "patchcore", "image_size": (256, 256)},
    "f-anogan": {"method": "f-anogan"},
}

#: Pictures that the speed is measured with.
_TIMED = 64

COLUMNS = (
    Column("AUROC, pictures", "auroc", ".3f"),
    Column("of the half not looked at", "auroc_other_half", ".3f"),
    Column("average precision", "average_precision", ".3f"),
    Column("AUROC, pixels", "pixel_auroc", ".3f"),
    Column("PRO", "pixel_pro", ".3f"),
    Column("false alarms, %", "false_alarms", ".1f", 100),
    Column("recall, %", "recall", ".1f", 100),
    Column("pictures/s", "per_second", ".0f"),
    Column("with decoding", "per_second_decoded", ".0f"),
)


def run(config: Inspection, session: Session) -> Path:
    """The study; gives the JSON file with the table."""
    cells = [
        Cell(
            {"method": name}, seed, {"data": Path(config.data.partition(":")[2]).name, **ARMS[name]}
        )
        for seed in range(config.seeds)
        for name in config.methods
    ]

    def measure(cell: Cell, folder: Path) -> Mapping[str, float]:
        asked: dict[str, Any] = ARMS[cell.row["method"]]
        options = Inspect(data=config.data, seed=cell.seed, run_dir=folder / "run", **asked)
        return scores_of(options, inspect.run(options, session))

    about = {
        "study": "inspect",
        "command": "python -m experiments study inspect --data folder:PATH",
        "data": Path(config.data.partition(":")[2]).name,
        "chosen_by": "every second test picture, from the first (some choices by all of them); "
        "auroc_other_half is of the others",
    }
    return conduct(
        "inspect",
        cells,
        measure,
        COLUMNS,
        run_dir=config.run_dir,
        out=config.out,
        about=about,
    )


def scores_of(options: Inspect, folder: Path) -> dict[str, float]:
    """The numbers of a run, and how many pictures a second it looks at."""
    summary = read_json(folder / "summary.json")
    scores = {name: value for name, value in summary.items() if isinstance(value, float)}
    trained: TrainedInspector = load_run(folder)
    height, width, channels = trained.columns["inputs"].shape
    pictures = inspect.read_again(options, (height, width), channels)
    test = pictures.dataset.splits["test"]
    others = test.take(range(1, len(test), 2))
    scored = inspection.score(trained.module, trained.variables, others)
    scores["auroc_other_half"] = metrics.auroc(scored.scores, others.target > 0)
    some = [*pictures.paths[:: max(1, len(test) // _TIMED)]][:_TIMED]
    rows = Split(test.inputs[:_TIMED])
    scores["per_second"] = _rate(lambda: trained.predict(rows.inputs))
    scores["per_second_decoded"] = _rate(lambda: trained.predict(some))
    return scores


def _rate(call: Callable[[], list[Any]]) -> float:
    """Pictures a second, the best of three after a first that compiles."""
    call()
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        count = len(call())
        seconds.append((time.perf_counter() - begin) / count)
    return 1 / min(seconds)
