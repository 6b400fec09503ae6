"""Write the report of a run anew, of what its folder holds and, where they are there, its data."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnets.commands import common, findings, judging, pictures, populations, provenance, training
from jaxnets.commands.configs import classify, generate, sweeps
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
            f"{config.run} has no numbers yet, so there is nothing to report: the first come after "
            "some steps of training (--log-every), or an evaluation"
        )
    if record["experiment"] == "classify":
        _classifier(history, record["config"])
    else:
        _gan(history, record["config"])


def _data(history: History, values: dict[str, Any]) -> DataSet:
    """The data of a run whose `config.json` has these values.

    Raises:
      UserError: if they are not there, or are not those that it was trained with.
    """
    dataset = common.load_data(history.config, history.config.data)
    why = provenance.changes(history.folder, values, dataset)
    if why is not None:
        raise UserError(f"the data are not those that it was trained with: {why}")
    return dataset


def _classifier(history: History, values: dict[str, Any]) -> None:
    """Writes the report of a run of `classify`."""
    config, judged, shown = history.config, [], []
    try:
        dataset = _data(history, values)
        mesh, test = parallel.make_mesh(None), dataset.splits["test"]
        for member in populations.looked_at(config, history.numbers):
            trained = load_run(history.folder, member=member, best=config.patience is not None)
            predict = evaluate.make_predict(trained.module, mesh, views=trained.views)
            logits, _ = predict(trained.variables, test)
            if np.isfinite(logits).all():  # one that has diverged is left out
                shown.append(trained)
                judged.append(evaluate.classification(logits, test.target))
        if not shown:
            raise UserError("every network has diverged")
    except UserError as error:
        absent = f"Classes, confusion matrix and mistakes are left out: {error}."
        findings.write(history, [], [absent])
    else:
        findings.write(history, findings.of_data(history, dataset, shown[0], judged))


def _gan(history: History, values: dict[str, Any]) -> None:
    """Writes the report of a run of `generate`."""
    config, absent = history.config, []
    member, _ = sweeps.best_member(config, populations.names(config), history.numbers)
    dataset = trained = looks = None
    try:
        dataset = _data(history, values)
    except UserError as error:
        absent.append(f"Real images are left out: {error}.")
    try:
        trained = load_run(history.folder, member=member, best=False)
        if dataset is not None and config.cnn is not None:
            judge = judging.load_judge(config.cnn, dataset, parallel.make_mesh(None))
            labels = dataset.splits["test"].target
            samples = Split(trained.sample(len(labels), labels, seed=1), labels)
            seed = populations.seeds(config)[member]
            train = training.labelled(config, dataset.splits["train"], seed)
            looks = Looks(judge, samples, dataset, train, config.conditional)
    except UserError as error:
        what = "Samples" if trained is None else "The training images nearest to samples"
        absent.append(f"{what} are left out: {error}.")
    pictures.write(history, trained, dataset, looks, absent)
