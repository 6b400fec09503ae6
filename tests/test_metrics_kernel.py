"""Kernel distance: against scikit-learn's kernel in float64, and its error against many draws."""

import itertools

import numpy as np
import pytest
from sklearn.metrics.pairwise import polynomial_kernel

from jaxnets.errors import UserError
from jaxnets.metrics import kernel_distance, pairs

RNG = np.random.default_rng(0)
X = RNG.normal(size=(37, 6)) + 0.4
Y = 1.3 * RNG.normal(size=(50, 6))


def kernels(x, y):
    """The three matrices in float64; scikit-learn's default gamma is 1 / F."""
    return [polynomial_kernel(a, b, degree=3, coef0=1) for a, b in ((x, x), (y, y), (x, y))]


def unbiased(x, y):
    within = [k[~np.eye(len(k), dtype=bool)].mean() for k in kernels(x, y)[:2]]
    return sum(within) - 2 * kernels(x, y)[2].mean()


def variance_by_tuples(x, y):
    """Every expectation as a mean over tuples of distinct examples, written out one by one."""
    kxx, kyy, kxy = kernels(x, y)

    def own(k):
        def over(count, value):
            return np.mean([value(*i) for i in itertools.permutations(range(len(k)), count)])

        share = over(3, lambda a, b, c: k[a, b] * k[a, c])
        apart = over(4, lambda a, b, c, d: k[a, b] * k[c, d])
        return share, apart, over(2, lambda a, b: k[a, b] ** 2) - 2 * share + apart

    def cross(k):
        n, m = k.shape
        rows = list(itertools.permutations(range(n), 2))
        columns = list(itertools.permutations(range(m), 2))
        by_x = np.mean([k[i, a] * k[i, b] for i in range(n) for a, b in columns])
        by_y = np.mean([k[i, a] * k[j, a] for i, j in rows for a in range(m)])
        apart = np.mean([k[i, a] * k[j, b] for i, j in rows for a, b in columns])
        return by_x, by_y, apart, np.mean(k**2) - by_x - by_y + apart

    def witness(k, kc, share, apart, by, apart_cross):
        n, m = kc.shape
        mixed = np.mean(
            [k[i, j] * kc[i, a] for i, j in itertools.permutations(range(n), 2) for a in range(m)]
        )
        product = np.mean(
            [
                k[i, j] * kc[h, a]
                for i, j, h in itertools.permutations(range(n), 3)
                for a in range(m)
            ]
        )
        return share - 2 * mixed + by - (apart - 2 * product + apart_cross)

    n, m = kxy.shape
    (sx, ax, vx), (sy, ay, vy), (bx, by, ac, vc) = own(kxx), own(kyy), cross(kxy)
    first = 4 / n * witness(kxx, kxy, sx, ax, bx, ac) + 4 / m * witness(kyy, kxy.T, sy, ay, by, ac)
    second = 2 * vx / (n * (n - 1)) + 2 * vy / (m * (m - 1)) + 4 * vc / (n * m)
    return max(first, 0) + max(second, 0)


@pytest.mark.parametrize("count", [1 << 22, 7 * 50, 1])
def test_distance_is_that_of_scikit_learns_kernel_whatever_the_blocks(count, monkeypatch):
    whole = kernel_distance(X, Y)
    monkeypatch.setattr(pairs, "_PAIRS", count)
    found = kernel_distance(X, Y)
    np.testing.assert_allclose(found.value, unbiased(X, Y), rtol=1e-10)
    np.testing.assert_allclose(found.standard_error, whole.standard_error, 1e-8)


@pytest.mark.parametrize("sizes", [(5, 6), (7, 4)])
def test_variance_is_the_mean_over_all_tuples(sizes):
    x, y = X[: sizes[0]], 1.5 * Y[: sizes[1]] + 1.0
    found = kernel_distance(x, y).standard_error
    np.testing.assert_allclose(found, np.sqrt(variance_by_tuples(x, y)), rtol=1e-8)


@pytest.mark.parametrize("scale,shift", [(1e-3, 0.0), (30.0, 0.0), (1.0, 50.0), (1e8, 0.0)])
def test_precision_at_other_scales(scale, shift):
    x, y = scale * X + shift, scale * Y + shift
    found = kernel_distance(x, y)
    typical = kernels(x, y)[2].mean()
    assert abs(found.value - unbiased(x, y)) < 1e-10 * abs(typical)
    assert np.isfinite(found.standard_error) and found.standard_error >= 0


def test_two_standard_errors_hold_the_truth_in_nineteen_of_twenty_draws():
    """Here of one distribution, whose distance to itself is 0."""
    rng = np.random.default_rng(1)
    draws = [(rng.normal(size=(60, 8)), rng.normal(size=(90, 8))) for _ in range(400)]
    found = [kernel_distance(*draw) for draw in draws]
    values = np.array([one.value for one in found])
    errors = np.array([one.standard_error for one in found])
    assert abs(values.mean()) < 3.5 * values.std() / np.sqrt(len(draws))  # without bias
    # The error is the deviation over draws: neither that times the square root of 2, nor half.
    assert 0.9 < np.sqrt(np.square(errors).mean()) / values.std() < 1.3
    assert (np.abs(values) < 1.96 * errors).mean() > 0.94


def test_errors():
    with pytest.raises(UserError, match="of 3 samples"):
        kernel_distance(X[:3], Y)
    with pytest.raises(UserError, match="of 3 reference images"):
        kernel_distance(X, Y[:3])
    with pytest.raises(UserError, match=r"features of 5 \(the samples\) and of 6"):
        kernel_distance(X[:, :5], Y)
    for bad in (np.nan, np.inf, 1e20):
        with pytest.raises(UserError, match="of the samples hold NaN or numbers beyond"):
            kernel_distance(np.where(X > 1, bad, X), Y)
    with pytest.raises(ValueError, match=r"\[N, F\]"):
        kernel_distance(X[0], Y)
