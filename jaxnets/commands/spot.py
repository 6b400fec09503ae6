"""Train a detector of generated pictures, and test it on others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import scipy
from jax.sharding import Mesh

from jaxnets.columns import Image
from jaxnets.commands import checks, classify, common, findings, spotting, training
from jaxnets.commands.configs import constraints
from jaxnets.commands.configs.options import ImageOptions
from jaxnets.commands.configs.spot import Detector, SpotTest, SpotTrain, resolve
from jaxnets.commands.history import History
from jaxnets.commands.session import Session
from jaxnets.data import DataSet, Split
from jaxnets.devices.parallel import make_mesh
from jaxnets.errors import UserError
from jaxnets.files import write_json
from jaxnets.judge import evaluate
from jaxnets.media import report
from jaxnets.metrics.ranking import auroc, average_precision
from jaxnets.metrics.threshold import best_threshold
from jaxnets.processes import distributed
from jaxnets.run.load import keep_description, load_run, read_description
from jaxnets.run.trained import TrainedClassifier

__all__ = ["measured", "run", "tested"]

_NOTE = (
    "Estimates, not statements: what a generator says of its own pictures is read by `marks`. "
    "Pictures of other generators, or ones that were compressed or resized since, are harder: "
    "`spot test` measures it."
)


def run(config: SpotTrain | SpotTest, session: Session) -> Path | None:
    """The command; gives the folder of a training."""
    if isinstance(config, SpotTest):
        return _test(config)
    done = training.train(
        "spot", resolve(config), _build, session, _suited(config), load=spotting.load
    )
    built, dataset, state = done.built, done.dataset, evaluate.to_look_at(done.result.state)
    if not distributed.writes():
        return done.folder
    judged = {split: built.judge(state, dataset.splits[split]) for split in ("validation", "test")}
    held_out = dataset.splits["validation"].target > 0
    scores = {split: _probabilities(one.logits) for split, one in judged.items()}
    threshold = best_threshold(scores["validation"], held_out, done.config.false_alarms)
    description = dataclasses.replace(built.description, threshold=threshold)
    keep_description(done.folder, description, anew=True)
    numbers = measured(scores["test"], dataset.splits["test"], threshold)
    common.write_summary(done.folder, {**done.result.metrics, **numbers}, done.result)
    history = History(done.folder, done.config)
    variables = state.nets["classifier"].averaged
    trained = description.trained(built.model, variables, int(state.step))
    table = report.Table(_rows(numbers), note=_NOTE, heading="Real or generated")
    parts = findings.of_data(history, dataset, trained, [judged["test"]])
    findings.write(history, [table, *parts])
    common.print_table("real or generated, estimates on test pictures", _rows(numbers))
    return done.folder


def _build(config: Detector, dataset: DataSet, mesh: Mesh) -> classify.Built:
    """An ordinary classifier; its threshold is one half until it is trained."""
    built = classify.build(config, dataset, mesh)
    return dataclasses.replace(
        built, description=dataclasses.replace(built.description, threshold=0.5)
    )


def _suited(asked: SpotTrain) -> Any:
    def suited(config: Detector, dataset: DataSet) -> Any:
        told = dataclasses.replace(
            config, batch_size=asked.batch_size, learning_rate=asked.learning_rate
        )
        return classify.suited(told, config, dataset)

    return suited


def _probabilities(logits: np.ndarray) -> np.ndarray:
    """[N]: how probable it is that a picture is generated."""
    return scipy.special.softmax(logits.astype(np.float64), axis=1)[:, 1]


def measured(scores: np.ndarray, split: Split, threshold: float) -> dict[str, float]:
    """How a detector does on pictures of both sides.

    Args:
      scores: [N] probabilities that a picture is generated.
      split: the pictures, as `jaxnets.commands.spotting` makes them.
      threshold: from which probability on a picture counts as generated.

    Returns:
      `threshold`, `detector_accuracy` (at the threshold), `false_alarms` (share of the real
      pictures), `average_precision`, `auroc`, and for each generator `found/NAME`.
    """
    said, truth = scores >= threshold, split.target > 0
    source: Any = split.columns["source"]
    found = {
        f"found/{name}": float(said[split.arrays["source"] == number].mean())
        for number, name in enumerate(source.names)
        if number
    }
    return {
        "threshold": threshold,
        "detector_accuracy": float((said == truth).mean()),
        "false_alarms": float(said[~truth].mean()),
        "average_precision": average_precision(scores, truth),
        "auroc": auroc(scores, truth),
        **found,
    }


#: Rows of a table: name of a number -> (what it is, its format).
_TOLD = {
    "threshold": ("threshold on the probability of being generated", ".4f"),
    "detector_accuracy": ("accuracy at the threshold", ".2%"),
    "false_alarms": ("real pictures taken for generated", ".2%"),
    "average_precision": ("average precision", ".4f"),
    "auroc": ("area under the ROC curve", ".4f"),
}


def _rows(numbers: Mapping[str, float]) -> list[tuple[str, str]]:
    rows = [(what, f"{numbers[name]:{form}}") for name, (what, form) in _TOLD.items()]
    of_each = {name: value for name, value in numbers.items() if name.startswith("found/")}
    return [*rows, *((f"spotted of {k[6:]}", f"{v:.2%}") for k, v in of_each.items())]


def _test(config: SpotTest) -> None:
    """Measures a trained detector on other pictures."""
    constraints.check(config)
    checks.json_file(config)
    told = read_description(config.run)
    if told.threshold is None:
        raise UserError(f"{config.run} is no detector; name the folder of a `spot train` run")
    options, column = ImageOptions(skip_bad=config.skip_bad), cast(Image, told.inputs)
    drawn = spotting.draw(config, options, column, ("test",))
    dataset = spotting.make_alike(drawn, column)
    common.print_notes(dataset)
    numbers = tested(load_run(config.run), dataset.splits["test"])
    common.print_table(f"{config.run}, estimates on test pictures", _rows(numbers))
    if config.json is not None:
        write_json(config.json, numbers)


def tested(trained: TrainedClassifier, split: Split) -> dict[str, float]:
    """`measured` of a detector that is read from its run."""
    assert trained.threshold is not None
    predict = evaluate.make_predict(trained.module, make_mesh(1), views=trained.views)
    logits, _ = predict(trained.variables, split)
    return measured(_probabilities(logits), split, trained.threshold)
