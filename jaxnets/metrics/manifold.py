"""How much of the real images samples cover, and how many samples are like real images.

A set of features stands for the union of balls around its points, each of which reaches to the
point's k-th nearest neighbour in its own set.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from numpy.typing import ArrayLike

from jaxnets.devices import axis
from jaxnets.errors import UserError
from jaxnets.metrics.blocks import (
    BLOCK,
    Points,
    blocks,
    centred,
    checked,
    on_mesh,
    padded,
    row_block,
    squared_distances,
)
from jaxnets.metrics.neighbours import nearest
from jaxnets.typing import Array

__all__ = ["Manifold", "manifold_note", "manifold_scores"]

#: The squared radius of padding, which no ball has.
_PADDING = -1.0


@dataclasses.dataclass(frozen=True)
class Manifold:
    """Fidelity and variety of samples; each is a share of 1, but for the density.

    Attributes:
      precision: the share of samples that lie in some ball around a real image.
      recall: the share of real images that lie in some ball around a sample.
      density: in how many balls around real images a sample lies, over k; unlike precision it is
        not won by one outlier's large ball. It may exceed 1: that is its mean for samples that are
        independent and distributed as the real images are. A set against itself has
        (k + 1) / k, for each image is in its own ball.
      coverage: the share of real images with a sample in their own ball; unlike recall it does not
        grow with the balls of outliers among the samples. Samples distributed as the real images
        reach `1 - (N - 1)...(N - k) / (2 N - 1)...(2 N - k)`, 0.97 for k = 5, and not 1.
      k: the neighbour to which a ball reaches.
      samples: how many there were.
      reference: how many real images.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    k: int
    samples: int
    reference: int


@functools.cache
def _membership(mesh: Mesh | None) -> Callable[..., Any]:
    """Compiled: which samples (rows) lie in which balls around real images (columns), and back."""

    def step(
        rows: Array,
        row_squares: Array,
        row_radii: Array,
        columns: Array,
        column_squares: Array,
        column_radii: Array,
    ) -> tuple[Array, Array]:
        squares, error = squared_distances(rows, row_squares, columns, column_squares)
        pairs = (row_radii >= 0)[:, None] & (column_radii >= 0)[None, :]
        # Balls are closed, so what could be on the rim by rounding is inside. A set then lies in
        # its own balls, whatever its duplicates.
        near = squares - error
        in_real = pairs & (near <= column_radii[None, :])
        in_sample = pairs & (near <= row_radii[:, None])
        reached = jnp.stack([in_real.sum(axis=0), in_sample.sum(axis=0)])
        return in_real.sum(axis=1), axis.psum(reached) > 0

    return on_mesh(step, mesh, "rrrwww", "rw")


def _squared_radii(points: Points, k: int, mesh: Mesh | None, block: int) -> np.ndarray:
    """[N] float32: to the k-th neighbour in the same set."""
    neighbours = nearest(points, points, k, within=True, mesh=mesh, block=block)
    return np.square(neighbours.distance[:, -1]).astype(np.float32)


def manifold_scores(
    samples: ArrayLike,
    reference: ArrayLike,
    *,
    k: int = 5,
    mesh: Mesh | None = None,
    block: int = BLOCK,
) -> Manifold:
    """Improved precision and recall, density and coverage, of one pass over all pairs.

    Each depends on both counts and on k: numbers of other counts don't compare. Kynkaanniemi et
    al. take k = 3, Naeem et al. k = 5. Radii are exact in float64; whether a point is in a ball is
    decided in float32, and within its rounding (see `jaxnets.metrics.blocks.rounding`) it is.

    Args:
      samples: [N, F] features of generated images.
      reference: [M, F] features of real images, of the same extractor.
      k: to which neighbour a ball reaches.
      mesh: devices of this process over which rows are spread; by default one device.
      block: rows and columns of the distance matrix that are in memory at a time.

    Raises:
      UserError: if `k` is below 1 or not below N and M, or features are not finite or do not
        compare.

    Reference:
      Kynkaanniemi et al. 2019, Improved Precision and Recall Metric for Assessing Generative
      Models, arXiv:1904.06991, eq. 1-2; Naeem et al. 2020, Reliable Fidelity and Diversity Metrics
      for Generative Models, arXiv:2002.09797, eq. 3-4.
    """
    real = checked(reference, "the reference")
    made = checked(samples, "the samples", real.shape[1])
    for name, values in {"samples": made, "reference images": real}.items():
        if not 1 <= k < len(values):
            raise UserError(
                f"the {k}-th nearest neighbour among {len(values)} {name}; k must be at least 1 "
                "and below the number of images in either set."
            )
    centre = real.mean(axis=0, dtype=np.float64)
    rows, columns = centred(made, centre), centred(real, centre)
    row_radii = _squared_radii(rows, k, mesh, block)
    column_radii = _squared_radii(columns, k, mesh, block)
    size, width = row_block(len(rows), block, mesh), row_block(len(columns), block, None)
    look = _membership(mesh)
    balls = np.zeros(len(rows), np.int64)
    reached = np.zeros((2, len(columns)), bool)
    for there in blocks(len(columns), width):
        column = (
            padded(columns.values[there], width),
            padded(columns.squares[there], width),
            padded(column_radii[there], width, _PADDING),
        )
        for here in blocks(len(rows), size):
            counts, inside = look(
                padded(rows.values[here], size),
                padded(rows.squares[here], size),
                padded(row_radii[here], size, _PADDING),
                *column,
            )
            balls[here] += np.asarray(counts)[: here.stop - here.start]
            reached[:, there] |= np.asarray(inside)[:, : there.stop - there.start]
    return Manifold(
        precision=float((balls > 0).mean()),
        recall=float(reached[1].mean()),
        density=float(balls.mean()) / k,
        coverage=float(reached[0].mean()),
        k=k,
        samples=len(rows),
        reference=len(columns),
    )


def manifold_note(samples: int, reference: int, k: int) -> str | None:
    """A sentence to print beside a `Manifold` whose counts make it worth little, or None."""
    fewer = min(samples, reference)
    if k > 0.02 * fewer:
        return (
            f"balls that hold {k} of only {fewer} images are too wide to tell sets apart, so use "
            f"{50 * k} images or more, or a smaller k."
        )
    if max(samples, reference) > 1.1 * fewer:
        return (
            f"{samples} samples against {reference} real images: the larger set covers more for "
            "its size alone, so compare only with scores of the same counts."
        )
    return None
