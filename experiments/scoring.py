"""Scores of samples in a CNN's features, each with all that it takes to compare it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from experiments.judging import Judge
    from jaxnets.data import DataSet, Split
    from jaxnets.metrics import Judgement, Manifold, Memorisation

#: The neighbour to which balls of precision, recall, density and coverage reach.
_NEIGHBOUR = 5

_SPLITS = 10


@dataclasses.dataclass(frozen=True)
class Looks:
    """What a CNN sees in samples, in the test images, and in the training images if asked.

    Attributes:
      judge: the CNN.
      samples: generated images, with the labels that were asked for.
      dataset: the real images.
      train: those that the generator was trained on.
      conditional: whether the labels were asked for.
    """

    judge: Judge
    samples: Split
    dataset: DataSet
    train: Split
    conditional: bool

    @cached_property
    def made(self) -> tuple[np.ndarray, np.ndarray]:
        """Logits and features of the samples."""
        return self.judge.look(self.samples)

    @cached_property
    def real(self) -> tuple[np.ndarray, np.ndarray]:
        """Logits and features of the test images."""
        return self.judge.real()

    @cached_property
    def trained(self) -> np.ndarray:
        """Features of the training images."""
        return self.judge.features(self.train)

    @cached_property
    def manifold(self) -> Manifold:
        """Precision, recall, density and coverage: of one pass over all pairs."""
        from jaxnets import metrics

        return metrics.manifold_scores(self.made[1], self.real[1], k=_NEIGHBOUR)

    @cached_property
    def memorisation(self) -> Memorisation:
        """Distances from the training images, of samples and of test images."""
        from jaxnets import metrics

        return metrics.memorisation(self.made[1], self.real[1], self.trained)

    def score(self, name: str, value: float, **more: Any) -> Judgement:
        """A number with what it was taken of."""
        from jaxnets.metrics import Judgement

        fixed = {
            "extractor": self.judge.extractor,
            "digest": self.judge.digest,
            "reference": f"{self.dataset.name}, test, {self.dataset.fingerprint[:12]}",
            "samples": len(self.samples),
            "real": len(self.dataset.splits["test"]),
            "resize": "none",
        }
        return Judgement(name, value, **{**fixed, **more})


def _frechet(of: Looks) -> list[Judgement]:
    from jaxnets import metrics

    made, real = (metrics.Moments.of(look[1]) for look in (of.made, of.real))
    note = metrics.estimate_note(min(len(of.made[1]), len(of.real[1])), of.real[1].shape[1])
    return [of.score("frechet", metrics.frechet_distance(made, real), note=note)]


def _kid(of: Looks) -> list[Judgement]:
    from jaxnets import metrics

    found = metrics.kernel_distance(of.made[1], of.real[1])
    return [of.score("kid", found.value, spread=found.standard_error)]


def _of_manifold(name: str) -> Callable[[Looks], list[Judgement]]:
    def take(of: Looks) -> list[Judgement]:
        from jaxnets import metrics

        found = of.manifold
        note = metrics.manifold_note(found.samples, found.reference, found.k)
        return [of.score(f"{name}, k = {found.k}", getattr(found, name), note=note)]

    return take


def _inception(of: Looks) -> list[Judgement]:
    import jax.numpy as jnp

    from jaxnets import metrics

    logits = of.made[0]
    mean, deviation = metrics.InceptionScore.of(jnp.asarray(logits), splits=_SPLITS).compute()
    note = metrics.inception_note(len(logits), _SPLITS, logits.shape[1])
    name = f"inception score, {_SPLITS} splits"
    return [of.score(name, mean, spread=deviation, real=0, note=note)]


def _intra_class(of: Looks) -> list[Judgement]:
    from jaxnets import metrics

    made = metrics.ClassMoments.of(of.made[1], of.samples.labels)
    real = metrics.ClassMoments.of(of.real[1], of.dataset.splits["test"].labels)
    found = metrics.intra_class_frechet(made, real)
    return [of.score("intra-class frechet", found.mean, note=found.note)]


def _recognised(of: Looks) -> list[Judgement]:
    import jax.numpy as jnp

    from jaxnets import metrics
    from jaxnets.errors import UserError

    if not of.judge.knows_classes:
        raise UserError(
            f"`recognised` asks whether {of.judge.extractor} takes samples for the classes of "
            f"{of.dataset.name}, which are not its own; leave it out of --metrics"
        )
    logits = of.made[0]
    labels = metrics.check_classes(of.samples.labels, logits.shape[1])
    counts = metrics.Confusion.of(jnp.asarray(logits), jnp.asarray(labels))
    found = metrics.recognised(counts)
    worst = of.dataset.class_names[found.worst]
    note = f"least of class {worst}: {found.per_class[found.worst]:.2%}"
    return [of.score("recognised", found.share, real=0, note=note)]


def _memorisation(of: Looks) -> list[Judgement]:
    found = of.memorisation
    more = {
        "reference": f"{of.dataset.name}, {len(of.train):,} training images and test, "
        f"{of.dataset.fingerprint[:12]}"
    }
    return [
        of.score("memorisation, share of nearer pairs", found.nearer, **more),
        of.score("memorisation, ratio of median distances", found.median_ratio, **more),
        of.score("memorisation, share of copies", found.copies, **more),
    ]


#: Name, as --metrics has it -> what takes it.
METRICS: dict[str, Callable[[Looks], list[Judgement]]] = {
    "frechet": _frechet,
    "kid": _kid,
    **{name: _of_manifold(name) for name in ("precision", "recall", "density", "coverage")},
    "inception": _inception,
    "intra_class": _intra_class,
    "recognised": _recognised,
    "memorisation": _memorisation,
}

#: Which numbers say that one generator is better than another -> whether more of it is better.
HIGHER_IS_BETTER: dict[str, bool] = {
    "frechet": False,
    "kid": False,
    "intra_class": False,
    **dict.fromkeys(
        ("precision", "recall", "density", "coverage", "inception", "recognised"), True
    ),
}

#: Those that need samples of classes that were asked for.
_OF_CLASSES = ("intra_class", "recognised")


def names_of(text: str, *, conditional: bool) -> list[str]:
    """The metrics that --metrics names: separated by commas, or `all` that the generator allows.

    Raises:
      UserError: for one that there is not, or that asks for classes where there are none.
    """
    from jaxnets.errors import UserError

    if not text:
        return []
    if text == "all":
        return [name for name in METRICS if conditional or name not in _OF_CLASSES]
    names = list(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in METRICS:
            raise UserError(
                f"--metrics {text!r} names the unknown metric {name!r}; known are "
                f"{', '.join(METRICS)}, and `all`"
            )
        if name in _OF_CLASSES and not conditional:
            raise UserError(f"--metrics {name}: the generator makes images without classes")
    return names


def labels_like(labels: np.ndarray, count: int) -> np.ndarray:
    """So many labels, each class with its share of those given."""
    import numpy as np

    return np.sort(labels)[np.arange(count) * len(labels) // count]


def take(names: Sequence[str], looks: Looks) -> list[Judgement]:
    """The scores of samples, in the order of the names."""
    return [score for name in names for score in METRICS[name](looks)]


def number_name(name: str) -> str:
    """What a score is called among the numbers of an evaluation.

    Its Frechet distance is that of `judging.frechet_numbers`; the one that `METRICS` takes, of all
    test images, is apart.
    """
    return name if name == "frechet" else f"samples_{name}"


def numbers(names: Sequence[str], looks: Looks) -> dict[str, float]:
    """The scores as numbers of an evaluation: of a metric of several, the first."""
    found = {}
    for name in names:
        called = "samples_frechet_all" if name == "frechet" else number_name(name)
        found[called] = float(METRICS[name](looks)[0].value)
    return found
