"""Precision, recall, density, coverage: against float64 distances, and on sets that are known."""

import numpy as np
import pytest
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import NearestNeighbors

from jaxnets.errors import UserError
from jaxnets.metrics import manifold_note, manifold_scores, pairs

RNG = np.random.default_rng(0)
REAL = RNG.normal(size=(90, 5))
MADE = 0.7 * RNG.normal(size=(70, 5)) + 0.6


def radii(points, k):
    search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(points)
    return search.kneighbors()[0][:, -1]  # without queries, no point is its own neighbour


def by_loops(made, real, k):
    """The definitions, one image at a time, in float64."""
    real_radii, made_radii = radii(real, k), radii(made, k)
    distances = pairwise_distances(made, real)
    inside = [
        [distances[j, i] <= real_radii[i] for i in range(len(real))] for j in range(len(made))
    ]
    back = [
        any(distances[j, i] <= made_radii[j] for j in range(len(made))) for i in range(len(real))
    ]
    return {
        "precision": np.mean([any(row) for row in inside]),
        "recall": np.mean(back),
        "density": sum(sum(row) for row in inside) / (k * len(made)),
        "coverage": np.mean([min(distances[:, i]) <= real_radii[i] for i in range(len(real))]),
    }


def scores_of(found):
    return {name: getattr(found, name) for name in ("precision", "recall", "density", "coverage")}


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("count", [1 << 22, 13 * 90])
def test_scores_are_those_of_the_definitions(k, count, monkeypatch):
    monkeypatch.setattr(pairs, "_PAIRS", count)
    found = manifold_scores(MADE, REAL, k=k)
    expected = by_loops(MADE, REAL, k)
    assert scores_of(found) == pytest.approx(expected, abs=1e-12)
    assert 0 < expected["recall"] < expected["precision"] < 1  # sets that tell the scores apart


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_a_mean_far_from_zero_changes_nothing(shift):
    wide = RNG.normal(size=(60, 128)), 1.02 * RNG.normal(size=(60, 128))
    expected = by_loops(*wide, 3)
    found = manifold_scores(*(values + shift for values in wide), k=3)
    assert scores_of(found) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("dims", [2, 64, 2048])
@pytest.mark.parametrize("shift", [0.0, 300.0])
def test_a_set_lies_in_its_own_balls(dims, shift):
    same = (RNG.normal(size=(60, dims)) + shift).astype(np.float32)
    found = manifold_scores(same, same, k=3)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    # Each image is in its own ball and in those of its neighbours, on their rims too.
    assert found.density == pytest.approx(4 / 3, abs=1e-6)


def test_duplicates_lie_in_their_own_balls_of_radius_zero():
    same = np.repeat(RNG.normal(size=(12, 300)) + 40.0, 6, axis=0)
    found = manifold_scores(same, same, k=5)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)


def test_a_collapsed_set_is_precise_and_covers_little():
    one = REAL[np.argmin(np.square(REAL).sum(axis=1))]
    collapsed = manifold_scores(one + 0.01 * RNG.normal(size=(90, 5)), REAL, k=5)
    assert collapsed.precision == 1 and collapsed.density > 1
    assert collapsed.recall < 0.05 and collapsed.coverage < 0.3
    # Samples that are all one image, whose balls have no radius at all.
    same = manifold_scores(np.tile(one, (90, 1)), REAL, k=5)
    assert same.precision == 1 and same.recall == pytest.approx(1 / 90)


@pytest.mark.parametrize("dims", [8, 2048])
def test_rounding_bounds_the_error_of_a_distance(dims):
    rng = np.random.default_rng(dims)
    # All of one sign: the errors of a product add up the farthest.
    x = rng.uniform(0.5, 1.5, (64, dims))
    y = np.concatenate([x + 1e-3, rng.uniform(0.5, 1.5, (64, dims))])
    ((_, got, bound),) = pairs.squared_distances(x, y)
    error = np.abs(got - np.square(x[:, None] - y).sum(axis=2))
    assert (error <= bound).all()
    assert error.max() > 0.01 * bound.min()  # and it is no idle bound


def test_notes():
    assert "5 of only 100 images" in (manifold_note(100, 5000, 5) or "")
    assert "use 250 images" in (manifold_note(100, 5000, 5) or "")
    assert "1000 samples against 5000" in (manifold_note(1000, 5000, 5) or "")
    assert manifold_note(1000, 1000, 5) is None and manifold_note(1050, 1000, 5) is None


@pytest.mark.parametrize("k", [0, 70, 71])
def test_k_must_be_a_neighbour_that_both_sets_have(k):
    with pytest.raises(UserError, match=f"the {k}-th nearest neighbour among 70 samples"):
        manifold_scores(MADE, REAL, k=k)


def test_errors():
    with pytest.raises(UserError, match="among 70 reference images"):
        manifold_scores(REAL, MADE, k=80)
    with pytest.raises(UserError, match=r"features of 4 \(the samples\) and of 5"):
        manifold_scores(MADE[:, :4], REAL)
    with pytest.raises(UserError, match="of the reference hold NaN"):
        manifold_scores(MADE, np.where(REAL > 2, np.nan, REAL))
