"""Every family of GANs for the same minutes, judged alike: which of them is the best?"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from experiments import budget
from experiments.configs import Families
from experiments.reproduce import spreads
from jaxnets.commands import common, generate, judging, scoring, training
from jaxnets.commands.configs import constraints
from jaxnets.commands.configs.generate import NO_JUDGE, SHIPPED, Generate, resolve
from jaxnets.commands.configs.options import given
from jaxnets.commands.gan_step import Built
from jaxnets.commands.session import Session
from jaxnets.data import DataSet
from jaxnets.devices import parallel
from jaxnets.errors import UserError
from jaxnets.files import check_writable, json_digest, read_json, write_json
from jaxnets.judge.scoring import Judge, Looks, take
from jaxnets.registry import check_name
from jaxnets.run import runs
from jaxnets.run.loop import fit
from jaxnets.run.task import Task
from jaxnets.train.state import TrainState

#: A tenth of Fashion-MNIST.
_FEW = {"labels_per_class": 600}

#: name -> what it is told beyond its preset.
ENTRIES: dict[str, dict[str, Any]] = {
    "dcgan": {"generator": "dcgan"},
    "sngan": {"generator": "sngan"},
    "r3gan": {"generator": "r3gan"},
    "stylegan2": {"generator": "stylegan2"},
    "dcgan-r3": {"generator": "dcgan", "loss": "relativistic", "penalty": "r1_r2"},
    "sngan-r3": {"generator": "sngan", "loss": "relativistic", "penalty": "r1_r2"},
    "few": {"generator": "sngan", **_FEW},
    "few-augmented": {"generator": "sngan", **_FEW, "augment": "flip", "augment_probability": 0.5},
}

#: Scores of a cell, in this order; what `memorisation` gives is in the file only.
_METRICS = (
    "frechet",
    "kid",
    "precision",
    "recall",
    "density",
    "coverage",
    "intra_class",
    "recognised",
    "memorisation",
)

#: Columns of the table: heading -> (score, format, a factor).
_COLUMNS: dict[str, tuple[str, str, float]] = {
    "Frechet": ("frechet", ".2f", 1),
    "KID": ("kid", ".3f", 1),
    "precision": ("precision", ".3f", 1),
    "recall": ("recall", ".3f", 1),
    "coverage": ("coverage", ".3f", 1),
    "recognised": ("recognised", ".2f", 100),
    "accuracy score": ("accuracy_score", ".2f", 100),
}


def run(config: Families, session: Session) -> Path:
    """The command."""
    _check(config)
    name = f"families-{config.data.rpartition(':')[2].replace('/', '-')}"
    root = config.run_dir or Path("runs") / name
    out = config.out or Path(__file__).parent / "results" / f"{name}.json"
    check_writable(out, "--out")
    mesh = parallel.make_mesh(1)
    dataset = common.load_data(_config_of(config, config.names[0], 0, root, 1.0), config.data)
    generate.need_every_class(dataset)
    judge = judging.load_judge(config.judge or SHIPPED, dataset, mesh)
    runs.open_run(root, "families", {"data": config.data})

    def built(entry: str) -> tuple[Task, Generate]:
        options = _config_of(config, entry, 0, root, 1.0)
        return generate.build(options, dataset, mesh).task, options

    seconds = budget.step_seconds(root / "budget.json", config.names, built, mesh)
    contest = _Contest(config, session, root, dataset, mesh, judge, seconds)
    accuracy = judging.accuracy_of(judge, dataset)
    cells: list[dict[str, Any]] = []
    for minutes in sorted(config.minutes):
        for seed in range(config.seeds):
            for entry in config.names:
                cells.append(_cell(contest, entry, seed, minutes))
                _write(contest, out, accuracy, cells)
    print(_table(cells))
    print(f"  {out}")
    return out


def _check(config: Families) -> None:
    constraints.check(config)
    if not config.names or not config.minutes:
        raise UserError("--names and --minutes need at least one value each")
    for name in config.names:
        check_name("entry of --names", name, ENTRIES)
    if len(set(config.names)) < len(config.names) or len(set(config.minutes)) < len(config.minutes):
        raise UserError("--names and --minutes must differ from one another")


def _config_of(config: Families, entry: str, seed: int, root: Path, epochs: float) -> Generate:
    """The resolved config of a training."""
    return resolve(
        Generate(
            data=config.data,
            seed=seed,
            epochs=epochs,
            run_dir=root / f"{entry}-seed-{seed}",
            eval_every=0.0,
            judge=NO_JUDGE,  # all are judged alike, and at the end
            **ENTRIES[entry],
        )
    )


def _is_of(found: Mapping[str, Any], wanted: Mapping[str, Any], options: Generate) -> bool:
    """Whether a cell that was found is the one wanted; a flag added since had its default then."""
    before = {**common.experiment_values(type(options)()), **options.BEFORE}
    kept = found["values"] if isinstance(found.get("values"), dict) else {}  # else a digest
    values = {name: kept.get(name, before[name]) for name in wanted["values"]}
    return {**{name: found.get(name) for name in wanted}, "values": values} == wanted


def _score_epochs(config: Families, options: Generate) -> float | None:
    """Of the CNN of the accuracy score; None for none."""
    if not config.accuracy_score:
        return None
    return options.score_epochs if config.score_epochs is None else config.score_epochs


@dataclasses.dataclass(frozen=True)
class _Contest:
    """What all trainings have in common; `seconds` are those of a step, by entry."""

    config: Families
    session: Session
    root: Path
    dataset: DataSet
    mesh: Mesh
    judge: Judge
    seconds: Mapping[str, float]

    def steps(self, entry: str, minutes: float) -> int:
        """The steps that an entry makes in so many minutes."""
        return budget.steps_in(minutes, self.seconds[entry])


def _cell(contest: _Contest, entry: str, seed: int, minutes: float) -> dict[str, Any]:
    """One training after so many minutes, judged; an earlier cell of the same values is kept."""
    config, dataset, steps = contest.config, contest.dataset, contest.steps(entry, minutes)
    options = _config_of(config, entry, seed, contest.root, 1.0)
    folder = given(options.run_dir)
    path = folder / f"cell-{minutes:g}-minutes.json"
    wanted = {
        "entry": entry,
        "seed": seed,
        "minutes": minutes,
        "step": steps,
        "judge": contest.judge.digest,
        "samples": config.samples or len(dataset.splits["test"]),
        "score_epochs": _score_epochs(config, options),
        "values": json.loads(json.dumps(common.experiment_values(options))),
    }
    kept = read_json(path) if path.exists() else None
    if kept is not None and _is_of(kept, wanted, options):
        return kept
    # The whole training's length is in the run's config, whatever part of it this is.
    train = len(dataset.splits["train"])
    if options.labels_per_class is not None:
        train = options.labels_per_class * dataset.num_classes
    last = contest.steps(entry, max(config.minutes))
    options = dataclasses.replace(options, epochs=last * options.step_images / train)
    built = generate.build(options, dataset, contest.mesh)
    task = dataclasses.replace(built.task, total_steps=steps)
    training.open_run("generate", options, dataset, contest.session, built)
    loop = training.fit_options(options, built.steps_per_epoch)
    # A minute's work is what an interruption may cost.
    loop = dataclasses.replace(loop, save_every=contest.steps(entry, 1))
    result = fit(task, folder, contest.mesh, loop)
    if int(result.state.step) != steps:
        raise UserError(
            f"{folder} holds a training of {int(result.state.step)} steps, and {minutes:g} minutes "
            f"are {steps}: name another --run-dir"
        )
    cell = {
        **wanted,
        "images": steps * options.step_images,
        "train_seconds": round(result.seconds, 1),
        "scores": _scores(contest, options, built, result.state),
        "machine": common.machine(),
    }
    write_json(path, cell)
    return cell


def _scores(
    contest: _Contest, options: Generate, built: Built, state: TrainState
) -> dict[str, float]:
    """All that is measured of a generator, by name."""
    config, dataset, judge = contest.config, contest.dataset, contest.judge
    labels: np.ndarray = dataset.splits["test"].target
    if config.samples is not None:
        labels = scoring.labels_like(labels, config.samples)
    samples = built.samples_like(state, labels)
    looks = Looks(judge, samples, dataset, built.train, options.conditional)
    scores: dict[str, float] = {}
    for name in scoring.names_for(_METRICS, judge, dataset, every=True):
        for score in take([name], looks):
            key = name if name != "memorisation" else score.name.replace(",", "").replace(" ", "_")
            scores[key] = float(score.value)
            if name == "kid" and score.spread is not None:
                scores["kid_standard_error"] = float(score.spread)
    if config.accuracy_score:
        scores["accuracy_score"] = judging.accuracy_score(
            built.samples_like(state, built.train.target),
            dataset,
            contest.mesh,
            given(options.run_dir) / f"accuracy_score-step-{int(state.step)}",
            epochs=given(_score_epochs(config, options)),
            seed=options.seed,
        )
    return common.finite(scores)


def _write(
    contest: _Contest, out: Path, accuracy: float | None, cells: Sequence[Mapping[str, Any]]
) -> None:
    """The file, after every cell, so that what there is can be read."""
    table = {
        f"{entry}, {minutes:g} minutes": spreads([cell["scores"] for cell in of])
        for (entry, minutes), of in _grouped(cells).items()
    }
    content = {
        "data": contest.config.data,
        "judge": {"name": contest.judge.name, "test_accuracy": accuracy},
        "seconds_per_step": dict(contest.seconds),
        "table": table,
        "cells": [{**cell, "values": json_digest(cell["values"])[:12]} for cell in cells],
    }
    write_json(out, content)


def _grouped(cells: Sequence[Mapping[str, Any]]) -> dict[tuple[str, float], list[Any]]:
    groups: dict[tuple[str, float], list[Any]] = {}
    for cell in cells:
        groups.setdefault((cell["entry"], cell["minutes"]), []).append(cell)
    return groups


def _table(cells: Sequence[Mapping[str, Any]]) -> str:
    """The table in Markdown, mean and standard deviation over the seeds."""
    heads = ["GAN", "minutes", "seeds", *_COLUMNS]
    lines = [" | ".join(heads), " | ".join(["---"] * len(heads))]
    for (entry, minutes), of in _grouped(cells).items():
        spread = spreads([cell["scores"] for cell in of])
        row = [entry, f"{minutes:g}", str(len(of))]
        for name, form, factor in _COLUMNS.values():
            parts = ("mean", "std")[: len(of)]  # one seed has no deviation
            numbers = [spread[name][part] * factor for part in parts] if name in spread else []
            row.append(" ± ".join(f"{number:{form}}" for number in numbers))
        lines.append(" | ".join(row))
    return "\n".join(f"| {line} |" for line in lines)
