"""Write the report of a run anew, of what its folder holds and, where they are there, its data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jaxnets.commands import common, findings, judging, pictures, populations, provenance, training
from jaxnets.commands.configs import classify, generate, sweeps
from jaxnets.commands.configs.options import RunOptions
from jaxnets.commands.configs.reading import config_of_run, need_kind
from jaxnets.commands.configs.use import Report
from jaxnets.commands.history import History
from jaxnets.commands.session import Session
from jaxnets.data import DataSet, Split
from jaxnets.devices import parallel
from jaxnets.errors import UserError
from jaxnets.files import check_writable
from jaxnets.judge import evaluate
from jaxnets.judge.scoring import Looks
from jaxnets.run.load import load_run
from jaxnets.run.runs import read_run


def run(config: Report, session: Session) -> None:
    """The command."""
    record = read_run(config.run)
    need_kind(config.run, record, "report")
    check_writable(config.run / "report.html", "the report")
    if record["experiment"] == "classify":
        options: Any = config_of_run(config.run, record, classify.Classify, classify.resolve)
    else:
        options = config_of_run(config.run, record, generate.Generate, generate.read_again)
    history = History(config.run, options)
    if not history.records:
        raise UserError(
            f"{config.run} has no numbers yet, so there is nothing to report: they come every "
            f"{options.log_every} steps, and after each evaluation"
        )
    missing: list[str] = []
    dataset = _data(config.run, record["config"], options, missing)
    if record["experiment"] == "classify":
        seen = None if dataset is None else _classifier(history, dataset, missing)
        findings.write(history, seen, _told(missing, "classes, mistakes and doubtful cases"))
    else:
        gan = _gan(history, dataset, missing)
        pictures.write(history, gan, _told(missing, "what is shown beside or of them"))


def _told(missing: list[str], what: str) -> str:
    """What a report leaves out, and why."""
    return f"Left out, {what}: {'; '.join(missing)}." if missing else ""


def _data(
    folder: Path, values: dict[str, Any], options: RunOptions, missing: list[str]
) -> DataSet | None:
    """The data of a run; None where they are gone or others, and `missing` says why."""
    try:
        dataset = common.load_data(options, options.data)
    except UserError as error:
        missing.append(f"the data can't be read ({error})")
        return None
    why = provenance.changes(folder, values, dataset)
    if why is not None:
        missing.append(f"the data are not those that the run was trained with ({why})")
        return None
    return dataset


def _trained(history: History, member: int, missing: list[str]) -> Any:
    """A network of the run as it was last; None where there is none, and `missing` says why."""
    early = getattr(history.config, "patience", None) is not None
    try:
        return load_run(history.folder, member=member, best=early)
    except UserError as error:
        missing.append(str(error))
        return None


def _classifier(history: History, dataset: DataSet, missing: list[str]) -> findings.Seen | None:
    """What the networks of a run of `classify` show on the test data."""
    mesh, test, judged, first = parallel.make_mesh(None), dataset.splits["test"], [], None
    for member in range(populations.size(history.config)):
        trained = _trained(history, member, missing)
        if trained is None:
            return None
        predict = evaluate.make_predict(trained.module, mesh, views=trained.views)
        logits, _ = predict(trained.variables, test)
        if np.isfinite(logits).all():  # one that has diverged is left out
            first = first or trained
            judged.append(evaluate.classification(logits, test.target))
    return None if first is None else findings.Seen(dataset, first, judged)


def _gan(history: History, dataset: DataSet | None, missing: list[str]) -> pictures.Seen:
    """What the generator of a run of `generate` makes, and what its CNN sees in that."""
    config = history.config
    member, why = sweeps.best_member(config, populations.names(config), history.numbers)
    trained, looks = _trained(history, member, missing), None
    if trained is not None and dataset is not None and config.cnn is not None:
        try:
            judge = judging.load_judge(config.cnn, dataset, parallel.make_mesh(None))
        except UserError as error:
            missing.append(f"the CNN can't be used ({error})")
        else:
            labels = dataset.splits["test"].target
            samples = Split(trained.sample(len(labels), labels, seed=1), labels)
            seed = populations.seeds(config)[member]
            train = training.labelled(config, dataset.splits["train"], seed)
            looks = Looks(judge, samples, dataset, train, config.conditional)
    return pictures.Seen(trained, why, dataset, looks)
