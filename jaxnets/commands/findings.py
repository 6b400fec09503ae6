"""The report of a classifier: its numbers, its curves, its classes, its mistakes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import scipy

from jaxnets.commands import common, populations, training
from jaxnets.commands.configs.classify import Classify
from jaxnets.commands.configs.options import given
from jaxnets.commands.history import History
from jaxnets.data import DataSet
from jaxnets.data.listing import some_of
from jaxnets.errors import UserError
from jaxnets.judge.evaluate import Classification
from jaxnets.judge.grad_cam import grad_cam
from jaxnets.media import report
from jaxnets.media.heat import painted
from jaxnets.run.guard import LearningWatch
from jaxnets.run.trained import TrainedClassifier
from jaxnets.typing import PyTree

__all__ = [
    "augmented",
    "by_class",
    "class_numbers",
    "next_steps",
    "of_data",
    "told_cases",
    "watch",
    "write",
]

#: Cases of a kind that are drawn, and classes of so few training examples that are named.
_CASES, _SCARCE = 6, 20


def augmented(config: Classify) -> str:
    """What is done to training images, in words that follow "training images are"."""
    crop = config.resized_crop
    changes = [
        f"cut out of their files ({crop:g} of the area or more)" if crop is not None else "",
        f"changed by RandAugment ({config.rand_augment})" if config.rand_augment else "",
        f"shifted by up to {config.crop_padding} pixels" if config.crop_padding else "",
        "mirrored, half of them" if config.flip else "",
        f"degraded with probability {config.degrade:g}" if config.degrade else "",
        f"blanked in a square of {config.cutout} pixels" if config.cutout else "",
        "blended in pairs (mixup)" if config.mixup else "",
    ]
    return ", ".join(filter(None, changes)) or "as they are"


def watch(config: Classify, dataset: DataSet) -> LearningWatch:
    """Says where the network learns nothing, or its training images by heart."""
    target, epochs = dataset.splits["test"].target, given(config.epochs)
    guessing = float(np.bincount(target).max() / len(target))
    return LearningWatch(guessing, len(target), max(1.0, 0.5 * epochs), epochs)


#: Rows of the report: name of a number -> (what it is, its format).
_ROWS = {
    "test_accuracy": ("test accuracy", ".2%"),
    "test_balanced_accuracy": ("mean recall of the classes", ".2%"),
    "test_loss": ("test loss (mean negative log-likelihood)", ".4f"),
    "test_calibration_error": ("expected calibration error", ".4f"),
    "test_rare_recall": ("recall of the rare classes", ".2%"),
    "test_rare_average_precision": ("average precision of the rare classes", ".2%"),
    "test_others_accuracy": ("accuracy on the other classes", ".2%"),
    "linear_test_accuracy": ("test accuracy of {linear_model}", ".2%"),
}


def write(history: History, parts: Sequence[report.Section], absent: Sequence[str] = ()) -> None:
    """Writes the report of a run, with the parts that `of_data` gave, and prints its table.

    `absent` says what is left out where the data are not there.
    """
    numbers = history.numbers
    rows = [
        (what.format(**numbers), populations.shown(numbers, name, form))
        for name, (what, form) in _ROWS.items()
        # A mean over the values of a sweep would say nothing.
        if name in numbers and not (history.config.sweep and f"{name}_std" in numbers)
    ]
    rows += history.rows()
    curves = [
        *history.curve({"accuracy": "training", "test_accuracy": "test"}, "accuracy"),
        *history.curve({"loss": "training", "test_loss": "test"}, "loss"),
    ]
    told = "Those of training are of augmented examples, as they are trained on."
    drawn = [report.Figure(curves, told, "Curves")] if curves else []
    history.write(rows, [*history.opening(rows, absent), *drawn, *parts], absent)


def of_data(
    history: History,
    dataset: DataSet,
    trained: TrainedClassifier,
    judged: Sequence[Classification],
) -> list[report.Section]:
    """The part of a report that the data are needed for.

    It shows the network that is given; `judged` says how each does on the test data.
    """
    column, test = dataset.columns["inputs"], dataset.splits["test"]
    confusion = np.sum([one.confusion for one in judged], axis=0)
    seen = training.labelled(history.config, dataset.splits["train"], history.config.seed)
    dataset = dataclasses.replace(dataset, splits={**dataset.splits, "train": seen})
    values = {**history.numbers, "epoch": math.inf if history.summary else history.epoch}
    last = [r["accuracy"] for r in history.records if r.get("accuracy") is not None][-1:]
    values["accuracy"] = last[0] if last else math.nan
    parts: list[report.Section] = [
        next_steps(watch(history.config, dataset)(values), dataset),
        by_class(judged, dataset),
        report.Figure(
            report.confusion_svg(confusion, dataset.class_names),
            "How many test examples of each class are taken for which.",
            "Confusion matrix",
        ),
    ]
    if column.kind != "image":
        first = [int(np.flatnonzero(test.target == k)[0]) for k in np.unique(test.target)[:10]]
        names = [dataset.class_names[label] for label in test.target[first]]
        examples: Any = column.show(test.inputs[first], names)
        parts.append(dataclasses.replace(examples, heading="Examples"))
    elif history.config.pictures:
        parts += told_cases(trained.module, trained.variables, judged[0].logits, dataset)
    return parts


def class_numbers(
    judged: Sequence[Classification], names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Recall and average precision of each class, by its name: means over what was judged."""
    numbers = {
        "recall": np.mean([one.recall for one in judged], axis=0),
        "average_precision": np.mean([one.average_precision for one in judged], axis=0),
    }
    return {
        name: common.finite({what: float(of[k]) for what, of in numbers.items()})
        for k, name in enumerate(names)
    }


def by_class(judged: Sequence[Classification], dataset: DataSet) -> report.Table:
    """Recall, precision and average precision of each class, the worst recall first."""
    confusion = np.sum([one.confusion for one in judged], axis=0)
    right, there, said = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    trained = np.bincount(dataset.splits["train"].target, minlength=dataset.num_classes)
    recall = right / np.maximum(there, 1)
    ranked = np.mean([one.average_precision for one in judged], axis=0)

    def share(of: Any, total: Any) -> str:
        return f"{of / total:.1%}" if total else "none"

    rows = [
        (
            dataset.class_names[k],
            int(trained[k]),
            int(there[k]),
            share(right[k], there[k]),
            share(right[k], said[k]),
            "none" if math.isnan(ranked[k]) else f"{ranked[k]:.1%}",
        )
        for k in np.argsort(recall, kind="stable")
    ]
    header = (
        "class",
        "for training",
        "for testing",
        "recall",
        "precision",
        "average precision",
    )
    note = (
        "Recall: share of the class that is recognised. Precision: share of what is taken for the "
        "class that is of it; average precision: its mean over all thresholds of the class's "
        "probability."
    )
    return report.Table(rows, header=header, note=note, heading="Classes")


def told_cases(
    model: nn.Module, variables: PyTree, logits: np.ndarray, dataset: DataSet
) -> list[report.Section]:
    """The test images that are mistaken with the most certainty, and the most doubtful ones.

    Beside each is where the network looked (Grad-CAM of the class that it said).
    """
    test, names = dataset.splits["test"], dataset.class_names
    shares = scipy.special.softmax(logits.astype(np.float64), axis=1)
    said, sure = shares.argmax(axis=1), shares.max(axis=1)
    wrong = np.flatnonzero(said != test.target)
    mistakes = wrong[np.argsort(-sure[wrong], kind="stable")][:_CASES]
    doubtful = np.argsort(sure, kind="stable")[:_CASES]
    looks = jax.jit(partial(grad_cam, model))

    def figure(rows: np.ndarray, heading: str, caption: str) -> report.Section:
        images = test.inputs[rows]
        # One size of batch, one compilation.
        padded = np.resize(rows, _CASES)
        inputs = test.columns["inputs"].decode(test.inputs[padded])
        try:
            maps = np.asarray(looks(variables, inputs, said[padded]))[: len(rows)]
        except UserError:  # no layer has places: the images alone
            maps = None
        if images.shape[-1] not in (1, 3):
            images = images.mean(axis=-1, keepdims=True)
        shown = np.broadcast_to(images, (*images.shape[:3], 3)).astype(np.uint8)
        cells = [shown] if maps is None else [shown, painted(shown, maps)]
        labels = [
            f"{names[test.target[r]]}: taken for {names[said[r]]} ({sure[r]:.0%})"
            if said[r] != test.target[r]
            else f"{names[said[r]]}, rightly ({sure[r]:.0%})"
            for r in rows
        ]
        grid = np.stack(cells, axis=1).reshape(-1, *shown.shape[1:])
        picture = report.grid_png(grid, len(cells), row_labels=labels)
        return report.Figure(picture, caption, heading)

    sections = []
    where = "On the right, red is where the network looked."
    if len(mistakes):
        sections.append(figure(mistakes, "Mistakes, the most certain first", where))
    sections.append(figure(doubtful, "Cases that it was least certain of", where))
    return sections


def next_steps(warnings: Mapping[str, str], dataset: DataSet) -> report.Text:
    """What to try next, in words."""
    counts = np.bincount(dataset.splits["train"].target, minlength=dataset.num_classes)
    scarce = [name for name, n in zip(dataset.class_names, counts, strict=True) if n < _SCARCE]
    said: Sequence[Any] = [f"{text[0].upper()}{text[1:]}." for text in warnings.values()]
    if scarce:
        said = [
            *said,
            f"Fewer than {_SCARCE} training examples: {some_of(scarce)}. More of them help most; "
            "--balance oversample shows them more often.",
        ]
    if not said:
        said = ["Nothing stands out. --seeds 3 says how far the numbers vary by chance."]
    return report.Text("\n\n".join(said), heading="What to try next")
