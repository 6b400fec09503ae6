"""Frechet distance between the features of two sets of images, fitted with Gaussians.

It is the FID when the features are those of Inception. A score names its extractor, reference and
sample count, or it means nothing; this module only computes. All in float64 on the host.
"""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from jaxnets.errors import UserError

__all__ = ["Moments", "estimate_note", "frechet_distance"]


@dataclasses.dataclass(frozen=True)
class Moments:
    """Count, mean and covariance of features.

    Attributes:
      count: examples.
      mean: [F] float64.
      covariance: [F, F] float64, divided by `count - 1`; of fewer than 2 examples 0.
    """

    count: int
    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, features: ArrayLike) -> "Moments":
        """The moments of features [N, F], of any float type.

        Raises:
          UserError: if they are not finite.
        """
        values = np.asarray(features).astype(np.float64)
        if values.ndim != 2:
            raise ValueError(f"features have shape {values.shape}; they must be [N, F].")
        if not np.isfinite(values).all():
            raise UserError("features hold NaN or infinity; check the images and the extractor.")
        mean = values.mean(axis=0) if len(values) else np.zeros(values.shape[1])
        centred = values - mean
        return cls(len(values), mean, centred.T @ centred / max(1, len(values) - 1))


def _factor(covariance: np.ndarray) -> np.ndarray:
    """[F, r] with `A A^T = covariance`, r its numerical rank."""
    values, vectors = np.linalg.eigh(covariance)
    # What rounding leaves of a zero eigenvalue, 1e-16, would come back as 1e-8 from the root.
    real = values > values[-1] * len(values) * np.finfo(np.float64).eps
    return vectors[:, real] * np.sqrt(values[real])


def frechet_distance(a: Moments, b: Moments) -> float:
    """`|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))`, at least 0.

    With `C = A A^T`, the trace of that root is the sum of the singular values of `A_a^T A_b`, for
    which no matrix root is needed: it stays exact, and real, where covariances are singular.

    Args:
      a: moments of one set, 2 examples or more.
      b: moments of the other.

    Returns:
      The squared 2-Wasserstein distance of the Gaussians, the same in either order.

    Raises:
      UserError: if the dimensions differ, or a set has fewer than 2 examples.

    Reference:
      Heusel et al. 2017, GANs Trained by a Two Time-Scale Update Rule, arXiv:1706.08500, eq. 6.
    """
    if a.mean.shape != b.mean.shape:
        raise UserError(
            f"features of {a.mean.size} and of {b.mean.size} dimensions do not compare; "
            "use one extractor for both sets."
        )
    if (fewest := min(a.count, b.count)) < 2:
        raise UserError(f"a covariance of {fewest} examples; give it at least 2.")
    cov_a, cov_b = a.covariance, b.covariance
    cross = np.linalg.svd(_factor(cov_a).T @ _factor(cov_b), compute_uv=False).sum()
    shift = np.square(a.mean - b.mean).sum()
    return float(max(0.0, shift + np.trace(cov_a) + np.trace(cov_b) - 2.0 * cross))


def estimate_note(count: int, dims: int) -> str | None:
    """A sentence to print beside a distance of `dims` features and too few samples, or None."""
    if count > dims:
        return None
    return (
        f"only {count} samples for {dims} features: the covariance is singular and the distance "
        f"biased upwards, so use more than {dims}."
    )
