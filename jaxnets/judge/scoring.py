"""Generated images as a network sees them: scores with all that it takes to compare them."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from jaxnets import metrics as measures
from jaxnets.data import DataSet, Split, eval_batches
from jaxnets.errors import UserError
from jaxnets.metrics import Judgement, Manifold, Memorisation
from jaxnets.registry import check_name

__all__ = ["METRICS", "Judge", "Looks", "score_samples", "take"]

#: What a network sees in images: logits [N, K], or None where it names no classes, and features
#: [N, F].
Seen = tuple[np.ndarray | None, np.ndarray]

#: The neighbour to which balls of precision, recall, density and coverage reach.
_NEIGHBOUR = 5

_SPLITS = 10


@dataclasses.dataclass(frozen=True)
class Judge:
    """A network as a source of features, and perhaps of classes.

    Attributes:
      look: split -> logits [N, K] or None, and features [N, F].
      extractor: what it is: network and data.
      digest: of its weights (see `jaxnets.judge.evaluate.digest`), or any text that changes with
      them.
      knows_classes: whether its classes are those of the data set that it looks at.
    """

    look: Callable[[Split], Seen]
    extractor: str
    digest: str
    knows_classes: bool = False
    _kept: list[Any] = dataclasses.field(
        default_factory=list, init=False, repr=False, compare=False
    )

    @classmethod
    def of(
        cls,
        function: Callable[[np.ndarray], Any],
        extractor: str,
        digest: str,
        *,
        knows_classes: bool = False,
        batch_size: int = 256,
    ) -> "Judge":
        """Any function of examples, of any library, as a judge.

        Args:
          function: decoded inputs, such as images [B, H, W, C] float32 in [-1, 1] -> features
            [B, F], or a pair of logits [B, K] and features. Each row must depend on its example
            alone. What resizes images is part of it.
          extractor: what it is, printed beside every score.
          digest: of its weights, or its version.
          knows_classes: whether its logits are those of the classes of the data set.
          batch_size: images that it is given at a time; the last ones are fewer.
        """

        def look(split: Split) -> Seen:
            if not len(split):
                raise UserError("there is nothing to look at: the split holds no examples")
            parts = []
            for batch in eval_batches(split, min(batch_size, len(split))):
                inputs = batch["inputs"][batch["mask"]]
                outputs = function(inputs)
                pair = outputs if isinstance(outputs, tuple | list) else (outputs,)
                parts.append([np.asarray(rows) for rows in pair])
                for rows in parts[-1]:
                    if rows.ndim != 2 or len(rows) != len(inputs) or len(pair) > 2:
                        shapes = " and ".join(str(part.shape) for part in parts[-1])
                        raise UserError(
                            f"{extractor} gives {shapes} for {len(inputs)} examples; a judge gives "
                            "features [B, F], or logits [B, K] and features"
                        )
            *logits, features = (np.concatenate(part) for part in zip(*parts, strict=True))
            return (logits[0] if logits else None), features

        return cls(look, extractor, digest, knows_classes)

    @property
    def name(self) -> str:
        """What to print beside its scores."""
        return f"{self.extractor}, weights {self.digest}"

    def features(self, split: Split) -> np.ndarray:
        """Features [N, F] of the images of a split."""
        return self.look(split)[1]

    def need_classes(self, dataset: DataSet) -> None:
        """Fails, in one sentence, for a judge of other classes than the data set's."""
        if not self.knows_classes:
            raise UserError(
                f"`recognised` asks whether {self.extractor} takes samples for the classes of "
                f"{dataset.name}, which are not its own (knows_classes); leave it out"
            )

    def kept(self, split: Split) -> Seen:
        """As `look`, for real images that samples are compared with again: the answer is kept."""
        if not self._kept or self._kept[0] is not split:
            self._kept[:] = [split, self.look(split)]
        return self._kept[1]  # type: ignore[no-any-return]


@dataclasses.dataclass(frozen=True)
class Looks:
    """What a judge sees in samples, in real images, and in the training images if asked.

    Attributes:
      judge: the network.
      samples: generated images, with the labels that were asked for.
      dataset: the real images.
      train: those that the generator was trained on.
      conditional: whether the labels were asked for.
      reference: the split of real images that samples are compared with.
    """

    judge: Judge
    samples: Split
    dataset: DataSet
    train: Split
    conditional: bool
    reference: str = "test"

    @property
    def compared(self) -> Split:
        """The real images that samples are compared with."""
        return self.dataset.splits[self.reference]

    @cached_property
    def made(self) -> Seen:
        """Logits and features of the samples."""
        return self.judge.look(self.samples)

    @cached_property
    def real(self) -> Seen:
        """Logits and features of the real images."""
        return self.judge.kept(self.compared)

    @cached_property
    def trained(self) -> np.ndarray:
        """Features of the training images."""
        return self.judge.features(self.train)

    @cached_property
    def manifold(self) -> Manifold:
        """Precision, recall, density and coverage: of one pass over all pairs."""
        return measures.manifold_scores(self.made[1], self.real[1], k=_NEIGHBOUR)

    @cached_property
    def memorisation(self) -> Memorisation:
        """Distances from the training images, of samples and of real images."""
        return measures.memorisation(self.made[1], self.real[1], self.trained)

    def logits(self, metric: str) -> np.ndarray:
        """Those of the samples.

        Raises:
          UserError: if the judge names no classes.
        """
        if self.made[0] is None:
            raise UserError(
                f"`{metric}` needs a judge with logits, and {self.judge.extractor} has none"
            )
        return self.made[0]

    def score(self, name: str, value: float, **more: Any) -> Judgement:
        """A number with what it was taken of."""
        fixed = {
            "extractor": self.judge.extractor,
            "digest": self.judge.digest,
            "reference": f"{self.dataset.name}, {self.reference}, {self.dataset.fingerprint[:12]}",
            "samples": len(self.samples),
            "real": len(self.compared),
            "resize": "none",
        }
        return Judgement(name, value, **{**fixed, **more})


def _frechet(of: Looks) -> list[Judgement]:
    made, real = of.made[1], of.real[1]
    note = measures.estimate_note(min(len(made), len(real)), real.shape[1])
    return [of.score("frechet", measures.frechet_distance(made, real), note=note)]


def _kid(of: Looks) -> list[Judgement]:
    kernel = measures.kernel_distance(of.made[1], of.real[1])
    return [of.score("kid", kernel.value, spread=kernel.standard_error)]


def _of_manifold(name: str) -> Callable[[Looks], list[Judgement]]:
    def take(of: Looks) -> list[Judgement]:
        note = measures.manifold_note(len(of.samples), len(of.compared), _NEIGHBOUR)
        return [of.score(f"{name}, k = {_NEIGHBOUR}", getattr(of.manifold, name), note=note)]

    return take


def _inception(of: Looks) -> list[Judgement]:
    logits = of.logits("inception")
    mean, deviation = measures.inception_score(logits, splits=_SPLITS)
    note = measures.inception_note(len(logits), _SPLITS, logits.shape[1])
    name = f"inception score, {_SPLITS} splits"
    return [of.score(name, mean, spread=deviation, real=0, note=note)]


def _intra_class(of: Looks) -> list[Judgement]:
    made, real = (of.made[1], of.samples.target), (of.real[1], of.compared.target)
    distances = measures.intra_class_frechet(*made, *real)
    return [of.score("intra-class frechet", distances.mean, note=distances.note)]


def _recognised(of: Looks) -> list[Judgement]:
    of.judge.need_classes(of.dataset)
    logits = of.logits("recognised")
    labels = measures.check_classes(of.samples.target, logits.shape[1])
    recognition = measures.recognised(logits.argmax(axis=1), labels)
    worst = of.dataset.class_names[recognition.worst]
    note = f"least of class {worst}: {recognition.per_class[recognition.worst]:.2%}"
    return [of.score("recognised", recognition.share, real=0, note=note)]


def _memorisation(of: Looks) -> list[Judgement]:
    copying = of.memorisation
    more = {
        "reference": f"{of.dataset.name}, {len(of.train):,} training images and {of.reference}, "
        f"{of.dataset.fingerprint[:12]}"
    }
    return [
        of.score("memorisation, share of nearer pairs", copying.nearer, **more),
        of.score("memorisation, ratio of median distances", copying.median_ratio, **more),
        of.score("memorisation, share of copies", copying.copies, **more),
        of.score(
            "memorisation, ratio of unseen nearest images",
            copying.unseen_ratio,
            spread=copying.unseen_deviation / copying.unseen_expected,
            note=f"{copying.unseen:.2%} of the samples; {copying.unseen_expected:.2%} expected",
            **more,
        ),
    ]


#: name -> what takes it.
METRICS: dict[str, Callable[[Looks], list[Judgement]]] = {
    "frechet": _frechet,
    "kid": _kid,
    **{name: _of_manifold(name) for name in ("precision", "recall", "density", "coverage")},
    "inception": _inception,
    "intra_class": _intra_class,
    "recognised": _recognised,
    "memorisation": _memorisation,
}

#: Those that need samples of classes that were asked for.
OF_CLASSES = ("intra_class", "recognised")


def take(names: Sequence[str], looks: Looks) -> list[Judgement]:
    """The scores of samples, in the order of the names."""
    return [score for name in names for score in METRICS[name](looks)]


def score_samples(
    judge: Judge,
    samples: Split,
    dataset: DataSet,
    metrics: Sequence[str] = ("frechet", "kid", "precision", "recall", "density", "coverage"),
    *,
    conditional: bool = False,
    train: Split | None = None,
    reference: str = "test",
) -> list[Judgement]:
    """Scores of generated images, each with the judge, the real images and the counts.

    Args:
      judge: see `Judge.of` for any function, and `make_predict` for a network of jaxnets.
      samples: generated images, uint8, with the labels that were asked for (or any).
      dataset: the real images.
      metrics: names of `METRICS`.
      conditional: whether the samples' labels were asked for.
      train: images that the generator was trained on, for `memorisation`; by default the training
        split.
      reference: the split that samples are compared with.

    Returns:
      A `Judgement` for each metric, and four of `memorisation`; printed, each is a line.

    Raises:
      UserError: for a metric that there is not, that needs classes where there are none, or that
        these images are too few for; or a split that there is not.
    """
    for name in metrics:
        check_name("metric", name, METRICS)
        if name in OF_CLASSES and not conditional:
            raise UserError(f"{name} needs samples whose classes were asked for (conditional)")
    if reference not in dataset.splits:
        known = ", ".join(dataset.splits)
        raise UserError(f"{dataset.name} has no split {reference!r}; it has {known}")
    train = dataset.splits["train"] if train is None else train
    return take(metrics, Looks(judge, samples, dataset, train, conditional, reference))
