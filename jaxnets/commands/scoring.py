"""Which scores of samples a command takes, and what its numbers are called."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np

from jaxnets.data import DataSet
from jaxnets.errors import UserError
from jaxnets.judge.scoring import METRICS, OF_CLASSES, Judge, Looks, take
from jaxnets.metrics.judgement import Judgement
from jaxnets.processes import distributed
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


def numbers(names: Sequence[str], looks: Looks, said: set[str]) -> dict[str, float]:
    """The scores as numbers of an evaluation: of a metric of several, the first.

    NaN where the images do not allow one, see `possible`.
    """
    values = {}
    for name in names:
        called = "samples_frechet_all" if name == "frechet" else number_name(name)
        scores = possible(name, partial(take, [name], looks), said)
        values[called] = float(scores[0].value) if scores else math.nan
    return values


def taken(names: Sequence[str], looks: Looks, said: set[str]) -> list[Judgement]:
    """The scores of those names that the images allow, see `possible`."""
    each = [possible(name, partial(take, [name], looks), said) for name in names]
    return [score for scores in each for score in scores or ()]


def possible(what: str, take: Callable[[], T], said: set[str]) -> T | None:
    """A score, or None where there are too few images for it.

    It costs neither the run nor the other scores.

    Args:
      what: it is called.
      take: takes it.
      said: of which scores the reason was printed already; gets this one.
    """
    try:
        return take()
    except UserError as error:
        if what not in said and distributed.writes():
            print(f"warning: {what} is not available: {error}", file=sys.stderr, flush=True)
        said.add(what)
        return None
