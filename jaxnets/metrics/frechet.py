"""Frechet distance between the features of two sets of images, fitted with Gaussians.

It is the FID when the features are those of Inception. A score names its extractor, reference and
sample count, or it means nothing; this module only computes. All in float64 on the host.
"""

import numpy as np
from numpy.typing import ArrayLike

from jaxnets.errors import UserError
from jaxnets.metrics.pairs import checked

__all__ = ["estimate_note", "frechet_distance"]


def frechet_distance(a: ArrayLike, b: ArrayLike) -> float:
    """`|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))` of means and covariances, at least 0.

    With `C = A A^T`, the trace of that root is the sum of the singular values of `A_a^T A_b`, for
    which no matrix root is needed: it stays exact, and real, where covariances are singular.

    Args:
      a: [N, F] features of one set, any float type, 2 or more.
      b: [M, F] those of the other.

    Returns:
      The squared 2-Wasserstein distance of the Gaussians, the same in either order.

    Raises:
      UserError: if features are not finite or do not compare, or a set has fewer than 2 examples.

    Reference:
      Heusel et al. 2017, GANs Trained by a Two Time-Scale Update Rule, arXiv:1706.08500, eq. 6.
    """
    sets = checked(("one set", a), ("the other", b))
    if (fewest := min(map(len, sets))) < 2:
        raise UserError(f"a covariance of {fewest} examples; give it at least 2.")
    means = [values.mean(axis=0) for values in sets]
    covariances = [np.atleast_2d(np.cov(values, rowvar=False)) for values in sets]
    roots = [_factor(covariance) for covariance in covariances]
    cross = np.linalg.svd(roots[0].T @ roots[1], compute_uv=False).sum()
    traces = sum(np.trace(covariance) for covariance in covariances)
    return float(max(0.0, np.square(means[0] - means[1]).sum() + traces - 2.0 * cross))


def _factor(covariance: np.ndarray) -> np.ndarray:
    """[F, r] with `A A^T = covariance`, r its numerical rank."""
    values, vectors = np.linalg.eigh(covariance)
    # What rounding leaves of a zero eigenvalue, 1e-16, would come back as 1e-8 from the root.
    real = values > values[-1] * len(values) * np.finfo(np.float64).eps
    return vectors[:, real] * np.sqrt(values[real])


def estimate_note(count: int, dims: int) -> str | None:
    """A sentence to print beside a distance of `dims` features and too few samples, or None."""
    if count > dims:
        return None
    return (
        f"only {count} samples for {dims} features: the covariance is singular and the distance "
        f"biased upwards, so use more than {dims}."
    )
