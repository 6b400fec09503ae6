"""Frechet distance against scipy's matrix root and closed forms."""

import numpy as np
import pytest
import scipy.linalg

from jaxnets.errors import UserError
from jaxnets.metrics import estimate_note, frechet_distance

RNG = np.random.default_rng(0)
A = RNG.normal(size=(200, 5)) @ RNG.normal(size=(5, 5)) + 3.0
B = RNG.normal(size=(150, 5)) @ RNG.normal(size=(5, 5))


def by_sqrtm(a, b):
    root = np.real(np.asarray(scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T))))
    shift = np.square(a.mean(0) - b.mean(0)).sum()
    return shift + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)


def test_distance_is_that_of_scipys_matrix_root():
    got = frechet_distance(A, B)
    np.testing.assert_allclose(got, by_sqrtm(A, B), rtol=1e-9)
    np.testing.assert_allclose(frechet_distance(B, A), got, rtol=1e-10)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_distance_to_itself_is_zero_whatever_the_scale(scale):
    a = scale * A
    assert 0.0 <= frechet_distance(a, a) < 1e-12 * np.trace(np.cov(a.T))


def test_singular_covariances():
    flat, other = np.zeros((2, 2, 3))  # variances of 1 along one axis, and of 4 along another
    flat[:, 0], other[:, 2] = (0.5**0.5, -(0.5**0.5)), (2**0.5, -(2**0.5))
    point = np.tile([3.0, 0, 0], (2, 1))
    assert frechet_distance(flat, other) == pytest.approx(5)
    assert frechet_distance(flat, point) == pytest.approx(10)
    assert frechet_distance(point, point) == 0


def test_fewer_samples_than_features():
    # Features in a 3-dimensional subspace of 40: the distance is the one inside it.
    basis = np.linalg.qr(RNG.normal(size=(40, 3)))[0]
    a, b = RNG.normal(size=(10, 3)), 2.0 * RNG.normal(size=(12, 3)) + 1.0
    got = frechet_distance(a @ basis.T, b @ basis.T)
    np.testing.assert_allclose(got, by_sqrtm(a, b), rtol=1e-9)


def test_what_rounding_leaves_of_a_covariance_does_not_reach_the_distance():
    # Subspaces at right angles share nothing: no cross term, though each has noise in the other.
    basis = np.linalg.qr(RNG.normal(size=(40, 6)))[0]
    a = RNG.normal(size=(10, 3)) @ basis[:, :3].T
    b = RNG.normal(size=(12, 3)) @ basis[:, 3:].T
    apart = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(np.cov(a.T) + np.cov(b.T))
    np.testing.assert_allclose(frechet_distance(a, b), apart, rtol=1e-12)


def test_the_note_appears_where_the_covariance_is_singular():
    assert "only 64 samples for 64 features" in (estimate_note(64, 64) or "")
    assert estimate_note(65, 64) is None


def test_errors():
    with pytest.raises(UserError, match="NaN"):
        frechet_distance(A, np.where(B > 1, np.nan, B))
    with pytest.raises(UserError, match=r"features of 3 \(the other\) and of 5"):
        frechet_distance(A, B[:, :3])
    with pytest.raises(UserError, match="of 1 examples"):
        frechet_distance(A, B[:1])
    with pytest.raises(ValueError, match=r"\[N, F\]"):
        frechet_distance(A[0], B)
