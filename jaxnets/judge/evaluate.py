"""Networks at work on whole splits: predictions, samples, and the numbers that judge them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from scipy.special import log_softmax

from jaxnets.data import Split, eval_batches
from jaxnets.data.dividing import stratified_indices
from jaxnets.devices.parallel import gathered, own_copy, spread
from jaxnets.errors import UserError
from jaxnets.judge.sampling import apply
from jaxnets.metrics.classification import balanced_accuracy, calibration_error
from jaxnets.metrics.frechet import frechet_distance
from jaxnets.metrics.ranking import average_precision
from jaxnets.processes import distributed
from jaxnets.registry import Registry
from jaxnets.train.state import TrainState
from jaxnets.typing import Array, PyTree

__all__ = [
    "VIEWS",
    "Classification",
    "FrechetScores",
    "Predict",
    "classification",
    "frechet_scores",
    "make_predict",
    "to_look_at",
]

#: (variables, split) -> logits [N, K] and penultimate features [N, F], float32 on the host.
Predict = Callable[[PyTree, Split], tuple[np.ndarray, np.ndarray]]


def _plain(images: np.ndarray) -> list[tuple[float, np.ndarray]]:
    return [(1.0, images)]


def _mirror(images: np.ndarray) -> list[tuple[float, np.ndarray]]:
    return [(0.5, images), (0.5, np.ascontiguousarray(images[:, :, ::-1]))]


def _mirror_and_shift(images: np.ndarray) -> list[tuple[float, np.ndarray]]:
    views = [(0.5 * weight, view) for weight, view in _mirror(images)]
    border = np.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="edge")
    for shifted in (border[:, :-2, :-2], border[:, 2:, 2:]):
        views += [(0.25 * weight, view) for weight, view in _mirror(np.ascontiguousarray(shifted))]
    return views


#: Test-time augmentation of images: name -> function of images [B, H, W, C] that gives the (weight,
#: images) of each view that a classifier's outputs are averaged over. The last is that of airbench
#: (Jordan 2024, arXiv:2404.00498): the image with half the weight, and with the other half shifted
#: by a pixel down and right and up and left; each also mirrored.
VIEWS: Registry[Callable[[np.ndarray], list[tuple[float, np.ndarray]]]] = Registry(
    "way to view test images",
    {
        "plain": _plain,
        "mirror": _mirror,
        "mirror_and_shift": _mirror_and_shift,
    },
)


def make_predict(
    model: nn.Module, mesh: Mesh, *, batch_size: int = 512, views: str = "plain"
) -> Predict:
    """Compiles a classifier for evaluation, its batches spread over the mesh.

    With several processes, all must predict the same, at the same time; each gets all answers.

    Args:
      model: `(inputs, train) -> (logits, features)`.
      mesh: the devices.
      batch_size: rounded up to a multiple of the devices; the last batch is padded, never dropped.
      views: of `VIEWS`; logits and features are means over them.

    Returns:
      `(variables, split) -> (logits [N, K], features [N, F])`.

    Raises:
      UserError: for unknown views.
    """
    views_of = VIEWS[views]
    batch_size = -(-batch_size // mesh.size) * mesh.size
    everywhere = NamedSharding(mesh, PartitionSpec()) if jax.process_count() > 1 else None

    @partial(jax.jit, out_shardings=everywhere)
    def forward(variables: PyTree, inputs: Array) -> tuple[Array, Array]:
        logits, features = apply(model, variables, inputs)
        return logits, features["penultimate"]

    def predict(variables: PyTree, split: Split) -> tuple[np.ndarray, np.ndarray]:
        if not len(split):
            raise UserError("there is nothing to predict: the split holds no examples")
        if views != "plain" and split.columns["inputs"].kind != "image":
            raise UserError(f"the views {views!r} are of images; choose plain")
        variables = gathered(variables)
        parts = []
        for batch in eval_batches(split, batch_size):
            distributed.pause()
            sums: Any = 0.0, 0.0
            for weight, view in views_of(batch["inputs"]):
                outputs = forward(variables, spread(view, mesh))
                sums = [
                    a + np.float32(weight) * np.asarray(b)
                    for a, b in zip(sums, outputs, strict=True)
                ]
            parts.append([mean[batch["mask"]] for mean in sums])
        logits, features = (np.concatenate(part) for part in zip(*parts, strict=True))
        return logits, features

    return predict


@dataclasses.dataclass(frozen=True)
class Classification:
    """How a classifier does on a split.

    Attributes:
      metrics: `accuracy`, `balanced_accuracy` (mean recall over the classes), `loss` (mean
        negative log-likelihood) and `calibration_error` (expected, 15 bins); of rare classes
        `rare_recall` and `rare_average_precision`, means over them, and `others_accuracy`.
      confusion: [K, K] counts, true class by predicted class.
      logits: [N, K], of which this was said.
      labels: [N], the true classes.
    """

    metrics: dict[str, float]
    confusion: np.ndarray
    logits: np.ndarray
    labels: np.ndarray

    @property
    def recall(self) -> np.ndarray:
        """[K] share of each class that is recognised; NaN where it does not occur."""
        there = self.confusion.sum(axis=1)
        return np.where(there, np.diag(self.confusion) / np.maximum(there, 1), np.nan)

    @cached_property
    def average_precision(self) -> np.ndarray:
        """[K] of each class, by the probability that it is given; NaN where there is no other."""
        shares = log_softmax(self.logits.astype(np.float64), axis=1)
        areas = np.full(shares.shape[1], np.nan)
        for label in np.unique(self.labels):
            if not (of_class := self.labels == label).all():
                areas[label] = average_precision(shares[:, label], of_class)
        return areas


def classification(
    logits: np.ndarray, labels: np.ndarray, rare: Sequence[int] = ()
) -> Classification:
    """Judges logits [N, K] against labels [N], rare classes apart from the others."""
    from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(labels, logits.argmax(axis=1), labels=range(logits.shape[1]))
    log_likelihood = log_softmax(logits.astype(np.float64), axis=1)
    told = Classification(
        metrics={
            "accuracy": float(np.trace(counts) / counts.sum()),
            "balanced_accuracy": balanced_accuracy(counts),
            "loss": float(-log_likelihood[np.arange(len(labels)), labels].mean()),
            "calibration_error": calibration_error(logits, labels),
        },
        confusion=counts,
        logits=logits,
        labels=labels,
    )
    if rare:
        others = ~np.isin(labels, rare)
        right = logits.argmax(axis=1)[others] == labels[others]
        told.metrics.update(
            rare_recall=float(told.recall[[*rare]].mean()),
            rare_average_precision=float(told.average_precision[[*rare]].mean()),
            others_accuracy=float(right.mean()) if others.any() else float("nan"),
        )
    return told


def to_look_at(state: TrainState) -> TrainState:
    """What pictures are made of, by one of several processes alone; all must call it.

    Returns:
      The state; with several processes, this one's copy of it, without the optimisers' part.
    """
    if jax.process_count() == 1:
        return state
    nets = {name: dataclasses.replace(net, opt_state=None) for name, net in state.nets.items()}
    return own_copy(dataclasses.replace(state, nets=nets))


@dataclasses.dataclass(frozen=True)
class FrechetScores:
    """A Frechet distance between what it would be at best and at worst.

    All three are distances to the same half of the real images from sets of the same size and the
    same share of each class, so they are biased alike. The distance falls as sets grow: one of
    another count does not compare.

    Attributes:
      samples: from the samples.
      floor: from the other half of the real images.
      ceiling: from noise (see `Column.noise`).
      count: examples in each set.
    """

    samples: float
    floor: float
    ceiling: float
    count: int


def frechet_scores(
    features_of: Callable[[Split], np.ndarray], samples: Split, reference: Split, *, seed: int = 0
) -> FrechetScores:
    """Frechet distances in the space of `features_of`.

    Args:
      features_of: split -> features [N, F].
      samples: what a generator made, with labels; for each class at least as many as half the
        reference has of it. Those of a generator without classes carry labels of the reference.
      reference: real examples.
      seed: of the choice of halves, and of the noise.

    Raises:
      UserError: if there are too few samples of a class.
    """
    # Copies may be on both sides: the halves are compared, and nothing learns from one.
    other, half = map(reference.take, stratified_indices(reference.target, 0.5, seed))
    if len(half) < 2 or len(other) < 2:
        raise UserError(
            f"{len(reference)} real images are too few: each half needs two, and every class lies "
            "in both alike"
        )
    chosen: list[np.ndarray] = []
    target: Any = half.columns["target"]
    for label, count in zip(*np.unique(half.target, return_counts=True), strict=True):
        rows = np.flatnonzero(samples.target == label)
        if len(rows) < count:
            raise UserError(
                f"there are {len(rows)} samples of class {target.name(label)}, and half of the "
                f"real images has {count}; make at least as many"
            )
        chosen.append(rows[:count])
    real = features_of(half)

    def distance(split: Split) -> float:
        return frechet_distance(features_of(split), real)

    noise = half.columns["inputs"].noise(len(half), seed)
    return FrechetScores(
        samples=distance(samples.take(np.concatenate(chosen))),
        floor=distance(other),
        ceiling=distance(half.replace(inputs=noise)),
        count=len(half),
    )


def digest(variables: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that name these very weights, to go with every score."""
    import hashlib

    state = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        value = np.asarray(leaf)
        state.update(f"{jax.tree_util.keystr(path)}{value.dtype}{value.shape}".encode())
        state.update(np.ascontiguousarray(value).tobytes())
    return state.hexdigest()[:12]
