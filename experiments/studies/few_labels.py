"""`study few-labels`: what unlabelled images add to a few labels, by four methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments import budget
from experiments.studies.cells import Cell, Column, conduct
from experiments.studies.configs import FewLabels
from jaxnets.commands import classify, common, training
from jaxnets.commands.configs.classify import Classify, resolve
from jaxnets.commands.session import Session
from jaxnets.devices import parallel
from jaxnets.errors import UserError
from jaxnets.files import read_json
from jaxnets.registry import check_name
from jaxnets.run import runs
from jaxnets.run.task import Task

#: Of all methods: the network, and that nothing is looked at or saved before the end.
_ALL: dict[str, Any] = {"width": 0.25, "eval_every": 0.0, "save_every": 0.0, "pictures": False}

#: Method -> what `classify` is told beyond its defaults for few labels.
METHODS: dict[str, dict[str, Any]] = {
    "none": {"learning_rate": 0.2},
    "none-strong": {"learning_rate": 0.2, "strong_augment": True},
    "pseudo": {"few_labels": "pseudo"},
    "fixmatch": {"few_labels": "fixmatch"},
    "gan": {"few_labels": "gan"},
    "gan-fixmatch": {"few_labels": "gan-fixmatch"},
}

#: Labelled examples of a batch, where there are so many.
_BATCH = 64

#: Against which the others save errors.
_ALONE = "none"

_COLUMNS = [
    Column("accuracy", "accuracy", factor=100),
    Column("error", "error", factor=100),
    Column("errors saved, %", "saved", ".1f", 100),
]


def run(config: FewLabels, session: Session) -> Path:
    """The study; gives its JSON file."""
    for name in config.methods:
        check_name("entry of --methods", name, METHODS)
    if _ALONE not in config.methods:
        raise UserError(f"--methods needs {_ALONE}, which the others are compared with")
    digits = config.data == "digits"
    labels = config.labels_per_class or (5 if digits else 100)
    minutes = config.minutes or (0.3 if digits else 3.0)
    study = f"few-labels-{config.data.rpartition(':')[2].replace('/', '-')}"
    root = config.run_dir or Path("runs") / f"study-{study}"
    mesh = parallel.make_mesh(1)
    base = Classify(data=config.data, labels_per_class=labels, devices=1, **_ALL)
    dataset = common.load_data(base, config.data)

    def options(method: str, seed: int = 0, steps: int = 1) -> Classify:
        examples = labels * dataset.num_classes
        size = training.fitting_batch(base, _BATCH, examples, 1)
        one = resolve(dataclasses.replace(base, seed=seed, batch_size=size, **METHODS[method]))
        if one.few_labels != "none":
            size, examples = size * one.unlabelled_ratio, len(dataset.splits["train"])
        return dataclasses.replace(one, epochs=steps * size / examples)

    def built(method: str) -> tuple[Task, Classify]:
        return classify.build(options(method), dataset, mesh).task, options(method)

    runs.open_run(root, "study", {"study": study})
    seconds = budget.step_seconds(root / "budget.json", config.methods, built, mesh)
    steps = {name: budget.steps_in(minutes, seconds[name]) for name in config.methods}

    def cell(method: str, seed: int) -> Cell:
        values = common.experiment_values(options(method, seed, steps[method]))
        values |= {"steps": steps[method], "steps_alone": steps[_ALONE]}
        return Cell({"method": method, "labels": labels, "minutes": minutes}, seed, values)

    def measure(of: Cell, folder: Path) -> Mapping[str, float]:
        method = of.row["method"]
        one = options(method, of.seed, steps[method])
        folder = classify.run(dataclasses.replace(one, run_dir=folder / "run"), session)
        numbers = read_json(folder / "summary.json")
        scores = {"accuracy": numbers["test_accuracy"], "error": 1 - numbers["test_accuracy"]}
        scores["seconds"] = numbers["train_seconds"]
        if method == _ALONE:
            return scores
        alone = read_json(root / cell(_ALONE, of.seed).name / "cell.json")["scores"]["error"]
        return {**scores, "saved": 1 - scores["error"] / alone}

    order = [_ALONE, *(name for name in config.methods if name != _ALONE)]
    return conduct(
        study,
        [cell(method, seed) for seed in range(config.seeds) for method in order],
        measure,
        _COLUMNS,
        run_dir=root,
        out=config.out,
        about={"data": config.data, "seconds_per_step": seconds},
    )
