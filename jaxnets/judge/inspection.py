"""Learning what faultless pictures look like, a threshold from others, and how good both are.

Of a training set only sums, a bank of chosen patches and the embeddings of `_CHUNK_BYTES` are in
memory at once; pictures are read a batch at a time.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxnets import metrics
from jaxnets.data import Split, eval_batches
from jaxnets.judge.sampling import apply
from jaxnets.models.inspectors import Inspector, Padim, PatchCore
from jaxnets.typing import Array, PyTree

__all__ = ["Scored", "bank_size", "learn_padim", "learn_patchcore", "measure", "score", "threshold"]

#: Pictures of one call; embeddings that a coreset is chosen from at a time.
_BATCH, _CHUNK_BYTES = 16, 64 << 20
#: Numbers that patches are compared by while a coreset is chosen.
_PROJECTED = 64
#: Added to a covariance, as a share of its mean variance.
_RIDGE = 0.01


@dataclasses.dataclass(frozen=True)
class Scored:
    """What an inspector says of pictures.

    Attributes:
      scores: [N] float32.
      maps: [N, H, W] float32.
    """

    scores: np.ndarray
    maps: np.ndarray


def score(module: nn.Module, variables: PyTree, split: Split, batch_size: int = _BATCH) -> Scored:
    """Scores and maps of pictures; each depends on its own picture alone."""
    look = jax.jit(partial(apply, module))
    scores, maps = [], []
    for batch in eval_batches(split, batch_size):
        of_all, rest = look(variables, batch["inputs"])
        scores.append(np.asarray(of_all)[batch["mask"]])
        maps.append(np.asarray(rest["map"])[batch["mask"]])
    return Scored(np.concatenate(scores), np.concatenate(maps))


def threshold(scores: np.ndarray, false_alarms: float) -> float:
    """The score above which a picture is faulty, from faultless pictures that were not learnt from.

    The k-th smallest of n scores, k = ceil((n + 1) (1 - false_alarms)): then a further faultless
    picture is above it with at most that probability. It takes `1 / false_alarms - 1` pictures; of
    fewer it is the highest score.
    """
    rank = math.ceil((len(scores) + 1) * (1 - false_alarms))
    return float(np.sort(scores)[min(rank, len(scores)) - 1])


def learnt(variables: PyTree, **memory: Any) -> dict[str, Any]:
    """The variables of an inspector with other values in its method's memory."""
    there = variables["memory"]
    return {**variables, "memory": {**there, "method": {**there["method"], **memory}}}


def with_threshold(variables: PyTree, held_out: Scored, false_alarms: float) -> dict[str, Any]:
    """The variables with the threshold of held-out pictures, and the levels of their maps.

    Levels are the median of all pixels and the threshold of the maps' greatest values.
    """
    high = threshold(held_out.maps.max(axis=(1, 2)), false_alarms)
    values = {
        "threshold": jnp.float32(threshold(held_out.scores, false_alarms)),
        "levels": jnp.array([np.median(held_out.maps), high], jnp.float32),
    }
    return {**variables, "memory": {**variables["memory"], **values}}


def _embedder(module: Inspector, how: str) -> Callable[[PyTree, Any], Array]:
    """(variables, images) -> [B, P, D] of the module's method, compiled."""

    def embed(module: Inspector, images: Array) -> Array:
        return getattr(module.method, how)(images)

    @jax.jit
    def of(variables: PyTree, images: Any) -> Array:
        seen: Any = module.apply(variables, images, method=embed)
        return seen

    return of


def _moments(embed: Callable[[Any], Array], train: Split, *, apart: bool) -> tuple[Any, Any]:
    """Means and covariances of embeddings in float64: [P, d] and [P, d, d], or [d] and [d, d].

    Args:
      embed: images -> [B, P, d].
      train: pictures.
      apart: whether each position has its own.
    """
    first: Any = None
    total: Any = 0.0
    products: Any = 0.0
    count = 0

    @jax.jit
    def sums(seen: Array, mask: Array, centre: Array) -> tuple[Array, Array]:
        from_centre = jnp.where(mask[:, None, None], seen - centre, 0)
        if apart:
            return from_centre.sum(axis=0), jnp.einsum("bpd,bpe->pde", from_centre, from_centre)
        rows = from_centre.reshape(-1, seen.shape[-1])
        return rows.sum(axis=0), rows.T @ rows

    for batch in eval_batches(train, _BATCH):
        seen = embed(batch["inputs"])
        if first is None:  # near the mean, so that the difference of squares keeps its digits
            first = seen[batch["mask"]].mean(axis=0 if apart else (0, 1), keepdims=True)
        of_batch = sums(seen, batch["mask"], first)
        total, products = (
            np.asarray(x, np.float64) + y for x, y in zip(of_batch, (total, products), strict=True)
        )
        count += int(batch["mask"].sum()) * (1 if apart else seen.shape[1])
    shift = total / count
    covariance = products / count - shift[..., :, None] * shift[..., None, :]
    centre = np.asarray(first, np.float64).reshape(shift.shape)
    return centre + shift, covariance


def _inverse_root(covariance: np.ndarray) -> np.ndarray:
    """L^-1 of `L L' = C + ridge`: what makes vectors of this covariance white; [..., d, d]."""
    variance = np.trace(covariance, axis1=-2, axis2=-1) / covariance.shape[-1]
    ridge = _RIDGE * np.maximum(variance, 1e-12)[..., None, None] * np.eye(covariance.shape[-1])
    return np.linalg.inv(np.linalg.cholesky(covariance + ridge)).astype(np.float32)


def learn_padim(module: Inspector, variables: PyTree, train: Split, seed: int) -> dict[str, Any]:
    """The variables with the Gaussians of the training pictures.

    Args:
      module: with a `Padim`.
      variables: with the CNN's weights.
      train: faultless pictures.
      seed: chooses the channels.
    """
    method: Any = module.method
    assert isinstance(method, Padim)
    chosen = np.sort(np.random.default_rng(seed).permutation(method.size)[: method.channels])
    variables = learnt(variables, channels=jnp.asarray(chosen, jnp.int32))
    embed = partial(_embedder(module, "embed"), variables)
    mean, covariance = _moments(embed, train, apart=True)
    return learnt(variables, mean=mean.astype(np.float32), root=_inverse_root(covariance))


def _chunks(pictures: int, positions: int, size: int) -> list[int]:
    """How many pictures are in each chunk that a coreset is chosen from."""
    each = max(1, _CHUNK_BYTES // (4 * positions * size))
    count = -(-pictures // each)
    return [len(part) for part in np.array_split(np.arange(pictures), count)]


def bank_size(pictures: int, positions: int, size: int, share: float) -> int:
    """How many patches `learn_patchcore` keeps."""
    chunks = _chunks(pictures, positions, size + 2)
    return sum(max(1, round(share * positions * chunk)) for chunk in chunks)


def learn_patchcore(
    module: Inspector, variables: PyTree, train: Split, seed: int, share: float
) -> dict[str, Any]:
    """The variables with a bank of the training pictures' patches.

    Pictures are dealt out into chunks, each spread over the whole set, and of each a share is kept:
    greedily, always the patch that is farthest from those kept (k-centre), by random projections.

    Args:
      module: with a `PatchCore`, whose `bank` is `bank_size` of all this.
      variables: with the CNN's weights.
      train: faultless pictures.
      seed: of the chunks, the projections and the first patch of each.
      share: of the patches that is kept.
    """
    method: Any = module.method
    assert isinstance(method, PatchCore)
    see = partial(_embedder(module, "see"), variables)
    mean, covariance = _moments(see, train, apart=False)
    variables = learnt(variables, mean=mean.astype(np.float32), root=_inverse_root(covariance))
    embed = partial(_embedder(module, "embed"), variables)
    draws = np.random.default_rng(seed)
    height, width = method.embedding.grid
    projection = draws.normal(size=(method.size + 2, _PROJECTED)).astype(np.float32)
    order, kept, start = draws.permutation(len(train)), [], 0
    for size in _chunks(len(train), height * width, method.size + 2):
        rows = train.take(np.sort(order[start : start + size]))
        start += size
        seen = [np.asarray(embed(b["inputs"]))[b["mask"]] for b in eval_batches(rows, _BATCH)]
        patches = np.concatenate(seen).reshape(-1, method.size + 2)
        count = max(1, round(share * len(patches)))
        kept.append(
            patches[k_centre(patches @ projection, count, int(draws.integers(len(patches))))]
        )
    return learnt(variables, bank=np.concatenate(kept))


def k_centre(points: Any, count: int, first: int) -> np.ndarray:
    """Greedy k-centre: positions [count] of points, each the farthest from those before it.

    The greatest distance of a point from the chosen ones is at most twice the least possible.

    Args:
      points: [N, D].
      count: how many, at most N.
      first: position of the first.

    Reference:
      Gonzalez 1985, Clustering to minimize the maximum intercluster distance.
    """
    return np.asarray(_k_centre(jnp.asarray(points, jnp.float32), count, first))


@partial(jax.jit, static_argnums=1)
def _k_centre(points: Array, count: int, first: Array) -> Array:
    squares = jnp.square(points).sum(axis=1)

    def choose(i: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        distances, chosen, latest = state
        from_latest = squares - 2 * points @ points[latest] + squares[latest]
        distances = jnp.minimum(distances, from_latest).at[latest].set(-jnp.inf)
        return distances, chosen.at[i].set(latest), distances.argmax().astype(jnp.int32)

    far = jnp.full(len(points), jnp.inf)
    state = far, jnp.zeros(count, jnp.int32), jnp.asarray(first, jnp.int32)
    return jax.lax.fori_loop(0, count, choose, state)[1]


def measure(
    scored: Scored,
    labels: np.ndarray,
    names: Sequence[str],
    limit: float,
    masks: tuple[np.ndarray, np.ndarray] | None,
) -> dict[str, Any]:
    """How well faulty pictures and pixels are told from faultless ones.

    Args:
      scored: of the test pictures.
      labels: [N], 0 for faultless.
      names: of the classes.
      limit: the threshold.
      masks: positions [M] of pictures and their masks [M, H, W], see `Inspection.masked`.

    Returns:
      Names -> numbers: `auroc` and `average_precision` of all faults and of each, `false_alarms`
      and `recall` at the threshold, `pixel_auroc` of all faults and of each, and `pixel_pro`;
      those that there is no faulty or no faultless picture for are left out. What is said of one
      fault is measured on its pictures and the faultless ones.
    """
    faulty, numbers = labels > 0, dict[str, Any]()
    said = scored.scores > limit
    if not faulty.all():
        numbers["false_alarms"] = float(said[~faulty].mean())
    if not faulty.any():
        return numbers
    numbers["recall"] = float(said[faulty].mean())
    for label, name in enumerate(names):
        of = faulty if not label else labels == label
        if faulty.all() or not of.any():
            continue
        suffix = f"/{name}" if label else ""
        kept = of | ~faulty
        numbers[f"auroc{suffix}"] = metrics.auroc(scored.scores[kept], of[kept])
        numbers[f"average_precision{suffix}"] = metrics.average_precision(
            scored.scores[kept], of[kept]
        )
        if label:
            numbers[f"recall{suffix}"] = float(said[of].mean())
    if masks is not None and masks[1].any():
        maps = scored.maps[masks[0]]
        of_masked = labels[masks[0]]
        for label, name in enumerate(names):
            kept = slice(None) if not label else (of_masked == label) | (of_masked == 0)
            if masks[1][kept].any() and not masks[1][kept].all():
                suffix = f"/{name}" if label else ""
                numbers[f"pixel_auroc{suffix}"] = metrics.auroc(maps[kept], masks[1][kept])
        numbers["pixel_pro"] = metrics.per_region_overlap(maps, masks[1])
    return numbers
