"""How much of the real images samples cover, and how many samples are like real images.

A set of features stands for the union of balls around its points, each of which reaches to the
point's k-th nearest neighbour in its own set.
"""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from jaxnets.errors import UserError
from jaxnets.metrics.neighbours import nearest
from jaxnets.metrics.pairs import centred, squared_distances

__all__ = ["Manifold", "manifold_note", "manifold_scores"]


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
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifold_scores(samples: ArrayLike, reference: ArrayLike, *, k: int = 5) -> Manifold:
    """Improved precision and recall, density and coverage, of one pass over all pairs.

    Each depends on both counts and on k: numbers of other counts don't compare. Kynkaanniemi et
    al. take k = 3, Naeem et al. k = 5. Balls are closed: what could be on the rim by rounding is
    inside, so that a set lies in its own balls, whatever its duplicates.

    Args:
      samples: [N, F] features of generated images.
      reference: [M, F] features of real images, of the same extractor.
      k: to which neighbour a ball reaches.

    Raises:
      UserError: if `k` is below 1 or not below N and M, or features are not finite or do not
        compare.

    Reference:
      Kynkaanniemi et al. 2019, Improved Precision and Recall Metric for Assessing Generative
      Models, arXiv:1904.06991, eq. 1-2; Naeem et al. 2020, Reliable Fidelity and Diversity Metrics
      for Generative Models, arXiv:2002.09797, eq. 3-4.
    """
    real, made = centred(("the reference", reference), ("the samples", samples))
    for name, values in {"samples": made, "reference images": real}.items():
        if not 1 <= k < len(values):
            raise UserError(
                f"the {k}-th nearest neighbour among {len(values)} {name}; k must be at least 1 "
                "and below the number of images in either set."
            )
    made_radii, real_radii = (
        np.square(nearest(None, values, k).distance[:, -1]) for values in (made, real)
    )
    balls = np.zeros(len(made), np.int64)  # in how many balls of real images each sample lies
    covered, recalled = np.zeros((2, len(real)), bool)
    for rows, squares, error in squared_distances(made, real):
        near = squares - error
        in_real = near <= real_radii
        balls[rows] = in_real.sum(axis=1)
        covered |= in_real.any(axis=0)
        recalled |= (near <= made_radii[rows, None]).any(axis=0)
    return Manifold(
        precision=float((balls > 0).mean()),
        recall=float(recalled.mean()),
        density=float(balls.mean()) / k,
        coverage=float(covered.mean()),
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
