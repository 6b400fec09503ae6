"""Frechet distance against scipy's matrix root and closed forms; moments against numpy."""

import numpy as np
import pytest
import scipy.linalg

from jaxnets.errors import UserError
from jaxnets.metrics import Moments, estimate_note, frechet_distance

RNG = np.random.default_rng(0)
A = RNG.normal(size=(200, 5)) @ RNG.normal(size=(5, 5)) + 3.0
B = RNG.normal(size=(150, 5)) @ RNG.normal(size=(5, 5))


def moments_of(mean, covariance):
    return Moments(11, np.asarray(mean, float), np.asarray(covariance, float))


def by_sqrtm(a, b):
    root = np.real(np.asarray(scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T))))
    shift = np.square(a.mean(0) - b.mean(0)).sum()
    return shift + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)


@pytest.mark.parametrize("shift,rtol", [(0, 1e-10), (1e7, 1e-6)])
def test_moments_are_numpys(shift, rtol):
    moments = Moments.of(A + shift)
    assert moments.count == 200
    np.testing.assert_allclose(moments.mean, A.mean(0) + shift, rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(A.T), rtol=rtol)


def test_distance_is_that_of_scipys_matrix_root():
    got = frechet_distance(Moments.of(A), Moments.of(B))
    np.testing.assert_allclose(got, by_sqrtm(A, B), rtol=1e-9)
    np.testing.assert_allclose(frechet_distance(Moments.of(B), Moments.of(A)), got, rtol=1e-10)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_distance_to_itself_is_zero_whatever_the_scale(scale):
    a = Moments.of(scale * A)
    assert 0.0 <= frechet_distance(a, a) < 1e-12 * np.trace(a.covariance)


def test_singular_covariances():
    flat = moments_of([0, 0, 0], np.diag([1, 0, 0]))
    other = moments_of([0, 0, 0], np.diag([0, 0, 4]))
    point = moments_of([3, 0, 0], np.zeros((3, 3)))
    assert frechet_distance(flat, other) == pytest.approx(5)
    assert frechet_distance(flat, point) == pytest.approx(10)
    assert frechet_distance(point, point) == 0


def test_fewer_samples_than_features():
    # Features in a 3-dimensional subspace of 40: the distance is the one inside it.
    basis = np.linalg.qr(RNG.normal(size=(40, 3)))[0]
    a, b = RNG.normal(size=(10, 3)), 2.0 * RNG.normal(size=(12, 3)) + 1.0
    got = frechet_distance(Moments.of(a @ basis.T), Moments.of(b @ basis.T))
    np.testing.assert_allclose(got, by_sqrtm(a, b), rtol=1e-9)


def test_what_rounding_leaves_of_a_covariance_does_not_reach_the_distance():
    # Subspaces at right angles share nothing: no cross term, though each has noise in the other.
    basis = np.linalg.qr(RNG.normal(size=(40, 6)))[0]
    a = Moments.of(RNG.normal(size=(10, 3)) @ basis[:, :3].T)
    b = Moments.of(RNG.normal(size=(12, 3)) @ basis[:, 3:].T)
    apart = np.square(a.mean - b.mean).sum() + np.trace(a.covariance + b.covariance)
    np.testing.assert_allclose(frechet_distance(a, b), apart, rtol=1e-12)


def test_the_note_appears_where_the_covariance_is_singular():
    assert "only 64 samples for 64 features" in (estimate_note(64, 64) or "")
    assert estimate_note(65, 64) is None


def test_errors():
    with pytest.raises(UserError, match="NaN"):
        Moments.of(np.array([[1.0, np.nan]]))
    with pytest.raises(UserError, match="of 5 and of 3"):
        frechet_distance(Moments.of(A), Moments.of(B[:, :3]))
    with pytest.raises(UserError, match="of 1 examples"):
        frechet_distance(Moments.of(A), Moments.of(B[:1]))
    with pytest.raises(ValueError, match=r"\[N, F\]"):
        Moments.of(A[0])
