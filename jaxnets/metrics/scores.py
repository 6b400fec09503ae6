"""What a classifier makes of samples: how sure and how varied, how near per class, how obedient."""

import dataclasses
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike

from jaxnets.errors import UserError
from jaxnets.metrics.frechet import estimate_note, frechet_distance

__all__ = [
    "IntraClassFrechet",
    "Recognised",
    "check_classes",
    "inception_note",
    "inception_score",
    "intra_class_frechet",
    "recognised",
]


def inception_score(logits: ArrayLike, *, splits: int = 10) -> tuple[float, float]:
    """`exp E_x KL(p(y | x) || p(y))`: from 1 (all alike, or all unsure) up to K.

    It is the Inception score where the classifier is Inception. It looks at no real image, and
    compares between samples judged by one classifier only.

    Args:
      logits: [N, K].
      splits: S; the score of one split is the least biased. Out of every S examples in a row one
        goes to each split, in an order drawn anew for them: splits are of one size, and labels
        that come in turn or in sorted order are spread over all.

    Returns:
      Mean and standard deviation of the splits' scores, in float64.

    Raises:
      UserError: without splits, if a split is empty, or if logits hold NaN or infinity.
    """
    values = np.asarray(logits, np.float64)
    if splits < 1:
        raise UserError(f"{splits} splits; give them at least 1.")
    if len(values) < splits:
        raise UserError(
            f"an inception score of {len(values)} samples in {splits} splits; make more samples or "
            "fewer splits."
        )
    if not np.isfinite(values.max(axis=1)).all():
        raise UserError("logits hold NaN; check the images and the classifier.")
    p = scipy.special.softmax(values, axis=1)
    # A class of logit -inf has no share in the entropy: 0 log 0 is 0.
    negentropy = scipy.special.xlogy(p, p).sum(axis=1)
    runs = np.tile(np.arange(splits), (-(-len(values) // splits), 1))
    place = np.random.default_rng(0).permuted(runs, axis=1).reshape(-1)[: len(values)]
    scores = []
    for split in range(splits):
        marginal = p[place == split].mean(axis=0)
        information = (
            negentropy[place == split].mean() - scipy.special.xlogy(marginal, marginal).sum()
        )
        # Rounding may take the mutual information of what is all alike below 0.
        scores.append(np.exp(max(0.0, information)))
    return float(np.mean(scores)), float(np.std(scores))


def inception_note(samples: int, splits: int, classes: int) -> str | None:
    """A sentence to print beside an inception score of too few samples, or None."""
    bias = (classes - 1) * splits / (2.0 * samples)
    if bias <= 0.01:
        return None
    return (
        f"only {samples} samples in {splits} splits for {classes} classes: the score is too low "
        f"by up to {min(bias, 1.0):.0%}, so use {50 * (classes - 1) * splits} or more, or fewer "
        "splits."
    )


def check_classes(labels: ArrayLike, classes: int) -> np.ndarray:
    """Labels [N], as int32 on the host, of which a classifier of K classes knows all.

    Raises:
      UserError: if a label is outside 0..K-1; it names the first one.
    """
    integers = np.asarray(labels)
    outside = integers[(integers < 0) | (integers >= classes)]
    if outside.size:
        raise UserError(
            f"samples are of class {outside[0]}, and the classifier knows {classes} classes "
            f"(0..{classes - 1}); choose one that was trained on the same labels."
        )
    return integers.astype(np.int32)


class Recognised(NamedTuple):
    """How many samples a classifier takes for what was asked for.

    Attributes:
      share: of all samples.
      per_class: class -> share of the samples asked to be it.
    """

    share: float
    per_class: dict[int, float]

    @property
    def worst(self) -> int:
        """The class recognised least."""
        return min(self.per_class, key=self.per_class.__getitem__)


def recognised(predicted: ArrayLike, asked: ArrayLike) -> Recognised:
    """Class accuracy of conditional samples.

    Args:
      predicted: [N] integers, the classes that a classifier takes samples for.
      asked: [N] integers, those that were asked for.

    Raises:
      UserError: without samples.

    Reference:
      Odena et al. 2017, Conditional Image Synthesis with Auxiliary Classifier GANs,
      arXiv:1610.09585, section 4.1.
    """
    classes = np.asarray(asked)
    if not classes.size:
        raise UserError("there are no samples, so none was recognised or not.")
    hits = np.asarray(predicted) == classes
    per_class = {int(c): float(hits[classes == c].mean()) for c in np.unique(classes)}
    return Recognised(float(hits.mean()), per_class)


@dataclasses.dataclass(frozen=True)
class IntraClassFrechet:
    """Frechet distance within each class: a mean that a generator which mixes classes up can't win.

    Attributes:
      mean: over the classes of the reference, each with the same weight.
      per_class: class -> distance.
      note: which classes have too few samples for their distance to be worth much, or None.
    """

    mean: float
    per_class: dict[int, float]
    note: str | None


def intra_class_frechet(
    samples: ArrayLike, sample_labels: ArrayLike, real: ArrayLike, real_labels: ArrayLike
) -> IntraClassFrechet:
    """The Frechet distance of samples of each class from real images of that class.

    Args:
      samples: [N, F] features of generated images.
      sample_labels: [N] integers, the classes that were asked for.
      real: [M, F] features of real images.
      real_labels: [M] integers.

    Raises:
      UserError: if a class of either set has fewer than 2 examples in the other, which it names,
        features are not finite, or differ in number.

    Reference:
      Miyato and Koyama 2018, cGANs with Projection Discriminator, arXiv:1802.05637, section 4.
    """
    made, reference = _by_class(samples, sample_labels), _by_class(real, real_labels)
    classes = sorted({*made, *reference})
    if not classes:
        raise UserError("an intra-class Frechet distance of no classes; give it samples.")
    for name, known in {"samples": made, "real images": reference}.items():
        bare = [c for c in classes if c not in known or len(known[c]) < 2]
        if bare:
            raise UserError(
                f"there are fewer than 2 {name} of {_named(bare)}; both sets need all classes."
            )
    distances = {c: frechet_distance(made[c], reference[c]) for c in classes}
    counts = {c: min(len(made[c]), len(reference[c])) for c in classes}
    dims = made[classes[0]].shape[1]
    thin = [c for c in classes if counts[c] <= dims]
    note = estimate_note(min(counts.values()), dims)
    return IntraClassFrechet(
        mean=float(np.mean(list(distances.values()))),
        per_class=distances,
        note=None if note is None else f"in {_named(thin)}, {note}",
    )


def _by_class(features: ArrayLike, labels: ArrayLike) -> dict[int, np.ndarray]:
    values, classes = np.asarray(features), np.asarray(labels)
    if classes.shape != values.shape[:1]:
        raise ValueError(f"{classes.shape} labels for features of shape {values.shape}.")
    return {int(c): values[classes == c] for c in np.unique(classes)}


def _named(classes: list[int]) -> str:
    """The classes in words, such as "classes 1, 2": ten at most, and how many there are more."""
    shown = ", ".join(map(str, classes[:10]))
    more = f" and {len(classes) - 10} more" if len(classes) > 10 else ""
    return f"class{'es' if len(classes) > 1 else ''} {shown}{more}"
