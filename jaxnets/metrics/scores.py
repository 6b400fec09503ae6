"""What a classifier makes of samples: how sure and how varied, how near per class, how obedient.

All of it is sums: add batch after batch, and no features or logits need be kept.
"""

import dataclasses
from collections.abc import Mapping

import chex
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxnets.devices import axis
from jaxnets.errors import UserError
from jaxnets.metrics.classification import Confusion
from jaxnets.metrics.frechet import Moments, estimate_note, frechet_distance
from jaxnets.metrics.mean import Sums
from jaxnets.typing import Array

__all__ = [
    "ClassMoments",
    "InceptionScore",
    "IntraClassFrechet",
    "Recognised",
    "check_classes",
    "inception_note",
    "intra_class_frechet",
    "recognised",
]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class InceptionScore(Sums):
    """`exp E_x KL(p(y | x) || p(y))` as sums: from 1 (all alike, or all unsure) up to K.

    It is the Inception score where the classifier is Inception. It looks at no real image, and
    compares between samples judged by one classifier only.

    Attributes:
      count: [S] float32, examples in each split.
      probability: [S, K] float32, the sum of `p(y | x)`.
      negentropy: [S] float32, the sum of `sum_y p(y | x) log p(y | x)`.
    """

    count: Array
    probability: Array
    negentropy: Array

    @classmethod
    def of(
        cls, logits: Array, mask: Array | None = None, *, first: int | Array = 0, splits: int = 10
    ) -> "InceptionScore":
        """Sums one batch.

        Of every S examples in a row one goes to each split, in an order drawn anew for them: splits
        are of one size, and labels that come in turn or in sorted order are spread over all.

        Args:
          logits: [B, K].
          mask: [B] bool, False on padding, which may hold anything; None keeps all.
          first: the number of the batch's first example, so that batches join to one sequence.
          splits: S; the score of one split is the least biased.

        Raises:
          UserError: if there is to be no split.
        """
        chex.assert_rank(logits, 2)
        if splits < 1:
            raise UserError(f"{splits} splits; give them at least 1.")
        size, width = logits.shape
        keep = jnp.ones(size, bool) if mask is None else mask.astype(bool)
        chex.assert_shape(keep, (size,))
        # What the mask drops may be NaN, which no product with 0 removes.
        clean = jnp.where(keep[:, None], logits.astype(jnp.float32), 0.0)
        log_p = jax.nn.log_softmax(clean)
        p = jnp.exp(log_p) * keep[:, None]
        # A class of logit -inf has no share in the entropy: 0 log 0 is 0.
        negentropy = jnp.where(p > 0, p * jnp.where(p > 0, log_p, 0.0), 0.0).sum(axis=-1)
        negentropy = jnp.where(jnp.isnan(p).any(axis=-1), jnp.nan, negentropy)
        place = _split_of(axis.example_index(size) + first, splits)
        return cls(
            jax.ops.segment_sum(keep.astype(jnp.float32), place, splits),
            jax.ops.segment_sum(p, place, splits),
            jax.ops.segment_sum(negentropy, place, splits),
        )

    def compute(self) -> tuple[float, float]:
        """Mean and standard deviation of the splits' scores, on the host.

        Raises:
          UserError: if a split is empty, or logits were not finite.
        """
        count, probability, negentropy = (
            np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(self)
        )
        if not count.all():
            raise UserError(
                f"an inception score of {int(count.sum())} samples in {len(count)} splits; make "
                "more samples or fewer splits."
            )
        if not (np.isfinite(probability).all() and np.isfinite(negentropy).all()):
            raise UserError("logits hold NaN; check the images and the classifier.")
        p = probability / count[:, None]
        marginal = np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0).sum(axis=1)
        # Rounding may take the mutual information of what is all alike below 0.
        scores = np.exp(np.maximum(0.0, negentropy / count - marginal))
        return float(scores.mean()), float(scores.std())


def _split_of(index: Array, splits: int) -> Array:
    """[B] int32: in each run of `splits` examples, a permutation that follows from its number."""
    key = jax.random.key(0)

    def one(i: Array) -> Array:
        order = jax.random.permutation(jax.random.fold_in(key, i // splits), splits)
        return order[i % splits]

    return jax.vmap(one)(index)


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


@dataclasses.dataclass(frozen=True)
class Recognised:
    """How many samples a classifier takes for what was asked for.

    Attributes:
      share: of all samples.
      per_class: class -> share of the samples asked to be it.
      samples: class -> how many those are.
    """

    share: float
    per_class: dict[int, float]
    samples: dict[int, int]

    @property
    def worst(self) -> int:
        """The class recognised least."""
        return min(self.per_class, key=self.per_class.__getitem__)


def recognised(confusion: Confusion) -> Recognised:
    """Class accuracy of conditional samples.

    Args:
      confusion: `Confusion.of(logits, labels, mask)` of samples with the labels that were asked
        for, added up over batches and devices. The labels should have passed `check_classes`.

    Raises:
      UserError: if nothing was counted.
    """
    counts = confusion.compute()
    asked = counts.sum(axis=1)
    if not asked.sum():
        raise UserError("no samples were counted, so none was recognised or not.")
    classes = np.flatnonzero(asked)
    return Recognised(
        share=float(np.trace(counts) / asked.sum()),
        per_class={int(c): float(counts[c, c] / asked[c]) for c in classes},
        samples={int(c): int(asked[c]) for c in classes},
    )


@dataclasses.dataclass(frozen=True)
class ClassMoments:
    """Moments of features for each class that occurs, added to batch by batch.

    Attributes:
      moments: class -> its `Moments`.
    """

    moments: Mapping[int, Moments] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls, features: ArrayLike, labels: ArrayLike, mask: ArrayLike | None = None
    ) -> "ClassMoments":
        """The moments of one batch.

        Args:
          features: [B, F], any float type.
          labels: [B] integers.
          mask: [B] bool, False on padding; None keeps all.

        Raises:
          UserError: if the features that count are not finite.
        """
        values, classes = np.asarray(features), np.asarray(labels)
        if classes.shape != values.shape[:1]:
            raise ValueError(f"{classes.shape} labels for features of shape {values.shape}.")
        keep = np.ones(classes.shape, bool) if mask is None else np.asarray(mask, bool)
        return cls({int(c): Moments.of(values, keep & (classes == c)) for c in set(classes[keep])})

    def merge(self, other: "ClassMoments") -> "ClassMoments":
        """The moments of both sets together."""
        merged = dict(self.moments)
        for label, moments in other.moments.items():
            merged[label] = merged[label] + moments if label in merged else moments
        return ClassMoments(merged)

    __add__ = merge


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


def intra_class_frechet(samples: ClassMoments, reference: ClassMoments) -> IntraClassFrechet:
    """The Frechet distance of samples of each class from real images of that class.

    Args:
      samples: of generated images, by the class that was asked for.
      reference: of real images.

    Raises:
      UserError: if a class of either set has fewer than 2 examples in the other, which it names,
        or their features differ in number.

    Reference:
      Miyato and Koyama 2018, cGANs with Projection Discriminator, arXiv:1802.05637, section 4.
    """
    classes = sorted({*samples.moments, *reference.moments})
    if not classes:
        raise UserError("an intra-class Frechet distance of no classes; give it samples.")
    for name, known in {"samples": samples.moments, "real images": reference.moments}.items():
        bare = [c for c in classes if c not in known or known[c].count < 2]
        if bare:
            raise UserError(
                f"there are fewer than 2 {name} of {_named(bare)}; both sets need all classes."
            )
    distances = {c: frechet_distance(samples.moments[c], reference.moments[c]) for c in classes}
    counts = {c: min(samples.moments[c].count, reference.moments[c].count) for c in classes}
    dims = samples.moments[classes[0]].mean.size
    thin = [c for c in classes if counts[c] <= dims]
    note = estimate_note(min(counts.values()), dims)
    return IntraClassFrechet(
        mean=float(np.mean(list(distances.values()))),
        per_class=distances,
        note=None if note is None else f"in {_named(thin)}, {note}",
    )


def _named(classes: list[int]) -> str:
    """The classes in words, such as "classes 1, 2": ten at most, and how many there are more."""
    shown = ", ".join(map(str, classes[:10]))
    more = f" and {len(classes) - 10} more" if len(classes) > 10 else ""
    return f"class{'es' if len(classes) > 1 else ''} {shown}{more}"
