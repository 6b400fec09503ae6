"""Which scores of samples a command takes, and what its numbers are called."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import TypeVar

import numpy as np

from jaxnets.data import DataSet
from jaxnets.errors import UserError
from jaxnets.judge.scoring import METRICS, OF_CLASSES, Judge, Looks, take
from jaxnets.registry import check_name

T = TypeVar("T")

#: Which numbers say that one generator is better than another -> whether more of it is better.
HIGHER_IS_BETTER: dict[str, bool] = {
    "frechet": False,
    "kid": False,
    "intra_class": False,
    **dict.fromkeys(
        ("precision", "recall", "density", "coverage", "inception", "recognised"), True
    ),
}


def names_of(text: str, *, conditional: bool) -> list[str]:
    """The metrics that --metrics names: separated by commas, or `all` that the generator allows.

    Raises:
      UserError: for one that there is not, or that asks for classes where there are none.
    """
    if not text:
        return []
    if text == "all":
        return [name for name in METRICS if conditional or name not in OF_CLASSES]
    names = list(dict.fromkeys(text.split(",")))
    for name in names:
        check_name("score for --metrics", name, [*METRICS, "all"])
        if name in OF_CLASSES and not conditional:
            raise UserError(f"--metrics {name}: the generator makes images without classes")
    return names


def names_for(
    names: Sequence[str], judge: Judge, dataset: DataSet, *, every: bool = False
) -> list[str]:
    """Those of the metrics that a CNN can take of images of a data set.

    Args:
      names: of `names_of`.
      judge: the CNN.
      dataset: the real images.
      every: leave out what it can't take, as nobody asked for it by name.

    Raises:
      UserError: for one that it can't take.
    """
    if judge.knows_classes or "recognised" not in names:
        return list(names)
    if not every:
        judge.need_classes(dataset)
    return [name for name in names if name != "recognised"]


def labels_like(labels: np.ndarray, count: int) -> np.ndarray:
    """So many labels, each class with its share of those given."""
    return np.sort(labels)[np.arange(count) * len(labels) // count]


def number_name(name: str) -> str:
    """What a score is called among the numbers of an evaluation.

    Its Frechet distance is that of `judging.frechet_numbers`; the one of all test images, which
    `jaxnets.judge.scoring` takes, is apart.
    """
    return name if name == "frechet" else f"samples_{name}"


def numbers(names: Sequence[str], looks: Looks) -> dict[str, float]:
    """The scores as numbers of an evaluation: of a metric of several, the first."""
    values = {}
    for name in names:
        called = "samples_frechet_all" if name == "frechet" else number_name(name)
        if scores := possible(name, partial(take, [name], looks)):
            values[called] = float(scores[0].value)
    return values


def possible(what: str, take: Callable[[], T]) -> T | None:
    """A score, or None where the images do not allow it, which is said once with the reason.

    It costs neither the run nor the other scores.
    """
    try:
        return take()
    except UserError as error:
        _say(f"{what} is not available: {error}")
        return None


@cache
def _say(sentence: str) -> None:
    print(f"warning: {sentence}", file=sys.stderr, flush=True)
