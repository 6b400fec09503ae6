"""Networks at work on whole splits: predictions, samples, and the numbers that judge them."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxnets import distributed
from jaxnets.data import Split, eval_batches, split_validation
from jaxnets.errors import UserError
from jaxnets.metrics.classification import Calibration, Confusion
from jaxnets.metrics.frechet import Moments, frechet_distance
from jaxnets.parallel import on_this_process, spread, whole
from jaxnets.state import TrainState
from jaxnets.typing import Array, PRNGKey, PyTree

__all__ = [
    "VIEWS",
    "Classification",
    "FrechetScores",
    "Predict",
    "Sample",
    "Walk",
    "classification",
    "frechet_scores",
    "make_predict",
    "make_sample",
    "make_walk",
    "slerp",
    "to_look_at",
    "unit_noise",
]

#: (variables, split) -> logits [N, K] and penultimate features [N, F], float32 on the host.
Predict = Callable[[PyTree, Split], tuple[np.ndarray, np.ndarray]]

#: (variables, key, labels [N] or count N[, truncation]) -> images [N, H, W, C] in [-1, 1].
Sample = Callable[..., np.ndarray]

#: (variables, key, labels [K] or count K, points, frames) -> images [points * frames, K, H, W, C].
Walk = Callable[..., np.ndarray]


def _plain(images: np.ndarray) -> list[tuple[float, np.ndarray]]:
    return [(1.0, images)]


def _mirror(images: np.ndarray) -> list[tuple[float, np.ndarray]]:
    return [(0.5, images), (0.5, np.ascontiguousarray(images[:, :, ::-1]))]


def _mirror_and_shift(images: np.ndarray) -> list[tuple[float, np.ndarray]]:
    found = [(0.5 * weight, view) for weight, view in _mirror(images)]
    border = np.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="edge")
    for shifted in (border[:, :-2, :-2], border[:, 2:, 2:]):
        found += [(0.25 * weight, view) for weight, view in _mirror(np.ascontiguousarray(shifted))]
    return found


#: Test-time augmentation: a name -> images [B, H, W, C] to (weight, images) of each view that a
#: classifier's outputs are averaged over. The last is that of airbench (Jordan 2024,
#: arXiv:2404.00498): the image with half the weight, and with the other half shifted by a pixel
#: down and right and up and left; each also mirrored.
VIEWS: dict[str, Callable[[np.ndarray], list[tuple[float, np.ndarray]]]] = {
    "plain": _plain,
    "mirror": _mirror,
    "mirror_and_shift": _mirror_and_shift,
}


def make_predict(
    model: nn.Module, mesh: Mesh, *, batch_size: int = 512, views: str = "plain"
) -> Predict:
    """Compiles a classifier for evaluation, its batches spread over the mesh.

    Of several processes, all must predict the same, at the same time; each gets the whole answer.

    Args:
      model: `(images, train) -> (logits, features)`.
      mesh: the devices.
      batch_size: rounded up to a multiple of the devices; the last batch is padded, never dropped.
      views: of `VIEWS`; logits and features are means over them.

    Returns:
      `(variables, split) -> (logits [N, K], features [N, F])`.

    Raises:
      UserError: for unknown views.
    """
    if views not in VIEWS:
        raise UserError(f"unknown views {views!r}; known are {', '.join(VIEWS)}")
    batch_size = -(-batch_size // mesh.size) * mesh.size
    everywhere = NamedSharding(mesh, PartitionSpec()) if jax.process_count() > 1 else None

    @partial(jax.jit, out_shardings=everywhere)
    def forward(variables: PyTree, images: Array) -> tuple[Array, Array]:
        logits, features = _apply(model, variables, images)
        return logits, features["penultimate"]

    def predict(variables: PyTree, split: Split) -> tuple[np.ndarray, np.ndarray]:
        if not len(split):
            raise UserError("there is nothing to predict: the split holds no examples")
        variables = whole(variables)
        parts = []
        for batch in eval_batches(split, batch_size):
            distributed.pause()
            sums: Any = 0.0, 0.0
            for weight, view in VIEWS[views](batch["image"]):
                outputs = forward(variables, spread(view, mesh))
                sums = [
                    a + np.float32(weight) * np.asarray(b)
                    for a, b in zip(sums, outputs, strict=True)
                ]
            parts.append([mean[batch["mask"]] for mean in sums])
        logits, features = (np.concatenate(part) for part in zip(*parts, strict=True))
        return logits, features

    return predict


def _apply(module: nn.Module, variables: PyTree, *inputs: Any) -> tuple[Array, Any]:
    output: Any = module.apply(variables, *inputs, train=False)
    return output


@dataclasses.dataclass(frozen=True)
class Classification:
    """How a classifier does on a split.

    Attributes:
      metrics: `accuracy`, `balanced_accuracy` (mean recall over the classes), `loss` (mean
        negative log-likelihood) and `calibration_error` (expected, 15 bins).
      confusion: [K, K] counts, true class by predicted class.
    """

    metrics: dict[str, float]
    confusion: np.ndarray


def classification(logits: np.ndarray, labels: np.ndarray) -> Classification:
    """Judges logits [N, K] against labels [N]."""
    confusion = Confusion.of(jnp.asarray(logits), jnp.asarray(labels))
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_likelihood = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    counts = confusion.compute()
    return Classification(
        metrics={
            "accuracy": float(np.trace(counts) / counts.sum()),
            "balanced_accuracy": confusion.balanced_accuracy(),
            "loss": float(-log_likelihood[np.arange(len(labels)), labels].mean()),
            "calibration_error": Calibration.of(jnp.asarray(logits), jnp.asarray(labels)).compute(),
        },
        confusion=counts,
    )


def make_sample(
    generator: nn.Module, *, latent_size: int, conditional: bool, batch_size: int = 256
) -> Sample:
    """Compiles a generator for sampling.

    Args:
      generator: `(latents [B, Z], labels or None, train) -> (images, features)`.
      latent_size: Z.
      conditional: whether it takes labels.
      batch_size: images made at a time; has no influence on what they look like.

    Returns:
      `(variables, key, labels, truncation=None) -> images [N, H, W, C] float32`. Image i depends
      on the key, on i and on label i alone. `labels` is [N] integers, or the number N for a
      generator without classes. With a truncation T in (0, 1], latents are T times a normal
      cut off at two deviations: more typical samples, and less variety.
    """

    @jax.jit
    def make(variables: PyTree, key: PRNGKey, index: Array, labels: Array, truncation: Array):
        def latent(i: Array) -> Array:
            one = jax.random.fold_in(key, i)
            cut = jax.random.truncated_normal(one, -2.0, 2.0, (latent_size,))
            uncut = jax.random.normal(one, (latent_size,))
            return jnp.where(truncation > 0, truncation * cut, uncut)

        latents = jax.vmap(latent)(index)
        return _apply(generator, variables, latents, labels if conditional else None)[0]

    def sample(
        variables: PyTree,
        key: PRNGKey,
        labels: np.ndarray | int,
        truncation: float | None = None,
    ) -> np.ndarray:
        if truncation is not None and not 0 < truncation <= 1:
            raise UserError(f"truncation {truncation} is outside (0, 1]")
        if isinstance(labels, int | np.integer):
            if conditional:
                raise UserError("this generator takes a class label for each image")
            labels = np.zeros(int(labels), np.int32)
        count = len(labels)
        if not count:
            raise UserError("no samples were asked for; the count must be at least 1")
        size = min(batch_size, count)
        variables = on_this_process(whole(variables))  # it takes no other process to sample
        parts = []
        for start in range(0, count, size):
            index = np.arange(start, start + size)
            padded = np.resize(labels[start : start + size], size).astype(np.int32)
            images = make(variables, key, index, padded, np.float32(truncation or 0))
            parts.append(np.asarray(images)[: count - start])
        return np.concatenate(parts)

    return sample


def slerp(a: Array, b: Array, share: Array | float) -> Array:
    """Between two vectors along the arc: as long and as likely on the way as at its ends.

    The straight line between two draws of N(0, I) leads through vectors that are too short for it.

    Args:
      a: [..., Z].
      b: [..., Z]; neither of the two is zero.
      share: [...] in [0, 1]; 0 gives a, 1 gives b.

    Reference:
      White 2016, Sampling Generative Networks, arXiv:1609.04468, section 2.1.
    """
    share = jnp.asarray(share)[..., None]
    sizes = jnp.linalg.norm(a, axis=-1, keepdims=True) * jnp.linalg.norm(b, axis=-1, keepdims=True)
    angle = jnp.arccos(jnp.clip((a * b).sum(axis=-1, keepdims=True) / sizes, -1.0, 1.0))
    sine = jnp.sin(angle)
    flat = sine < 1e-4  # one direction, or the opposite one: there is no arc
    safe = jnp.where(flat, 1.0, sine)
    arc = (jnp.sin((1.0 - share) * angle) * a + jnp.sin(share * angle) * b) / safe
    return jnp.where(flat, (1.0 - share) * a + share * b, arc)


def make_walk(
    generator: nn.Module, *, latent_size: int, conditional: bool, batch_size: int = 256
) -> Walk:
    """Compiles a generator for a walk through its latents, and back to the first.

    Args:
      generator: `(latents [B, Z], labels or None, train) -> (images, features)`.
      latent_size: Z.
      conditional: whether it takes labels.
      batch_size: images made at a time.

    Returns:
      `(variables, key, labels, points, frames) -> images [points * frames, K, H, W, C]` float32:
      `frames` pictures from each of `points` latents towards the next, by `slerp`. `labels` is [K]
      integers, of which all take the same walk, or the number K of walks without classes.
    """

    @partial(jax.jit, static_argnums=(1, 2, 3))
    def path(key: PRNGKey, walks: int, points: int, frames: int) -> Array:
        stops = jax.random.normal(key, (points, walks, latent_size))
        share = jnp.arange(frames)[:, None] / frames
        ways = jax.vmap(lambda a, b: jax.vmap(lambda s: slerp(a, b, s))(share))
        return ways(stops, jnp.roll(stops, -1, axis=0)).reshape(-1, walks, latent_size)

    @jax.jit
    def make(variables: PyTree, latents: Array, labels: Array) -> Array:
        return _apply(generator, variables, latents, labels if conditional else None)[0]

    def walk(
        variables: PyTree, key: PRNGKey, labels: np.ndarray | int, points: int, frames: int
    ) -> np.ndarray:
        for name, number in {"points": points, "frames": frames}.items():
            if number < 1:
                raise UserError(f"a walk of {number} {name}; there must be at least 1")
        count = len(labels) if conditional else int(labels)  # type: ignore[arg-type]
        latents = np.asarray(path(key, 1 if conditional else count, points, frames))
        latents = np.broadcast_to(latents, (len(latents), count, latent_size))
        flat = latents.reshape(-1, latent_size)
        asked = np.tile(
            np.asarray(labels, np.int32) if conditional else np.zeros(count, np.int32), len(latents)
        )
        variables = on_this_process(whole(variables))
        size, parts = min(batch_size, len(flat)), []
        for start in range(0, len(flat), size):
            rows = np.arange(start, start + size) % len(flat)
            images = np.asarray(make(variables, flat[rows], asked[rows]))
            parts.append(images[: len(flat) - start])
        images = np.concatenate(parts)
        return images.reshape(len(latents), count, *images.shape[1:])

    return walk


def to_look_at(state: TrainState) -> TrainState:
    """What pictures are made of, by one of several processes alone; all must call it.

    Returns:
      The state; of several processes, this one's copy of it, without the optimisers' part.
    """
    if jax.process_count() == 1:
        return state
    nets = {name: dataclasses.replace(net, opt_state=None) for name, net in state.nets.items()}
    return on_this_process(whole(dataclasses.replace(state, nets=nets)))


def unit_noise(like: Split, seed: int) -> Split:
    """Images of independent uniform pixels, as many and as large as those of `like`."""
    rng = np.random.default_rng(seed)
    return Split(rng.integers(0, 256, like.images.shape, np.uint8), like.labels)


@dataclasses.dataclass(frozen=True)
class FrechetScores:
    """A Frechet distance between what it would be at best and at worst.

    All three are distances to the same half of the real images from sets of the same size and the
    same share of each class, so they are biased alike. The distance falls as sets grow: one of
    another count does not compare.

    Attributes:
      samples: from the samples.
      floor: from the other half of the real images.
      ceiling: from uniform noise.
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
      samples: generated images with their labels; for each class at least as many as half the
        reference has of it. Those of a generator without classes carry labels of the reference.
      reference: real images.
      seed: of the choice of halves, and of the noise.

    Raises:
      UserError: if there are too few samples of a class.
    """
    other, half = split_validation(reference, 0.5, seed)
    chosen = []
    for label, count in zip(*np.unique(half.labels, return_counts=True), strict=True):
        rows = np.flatnonzero(samples.labels == label)
        if len(rows) < count:
            raise UserError(
                f"there are {len(rows)} samples of class {label}, and half of the real images "
                f"has {count}; make at least as many"
            )
        chosen.append(rows[:count])
    real = Moments.of(features_of(half))

    def distance(split: Split) -> float:
        return frechet_distance(Moments.of(features_of(split)), real)

    return FrechetScores(
        samples=distance(samples.take(np.concatenate(chosen))),
        floor=distance(other),
        ceiling=distance(unit_noise(half, seed)),
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
