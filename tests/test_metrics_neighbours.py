"""Nearest neighbours against scikit-learn's, and what they say of copied images."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu
from sklearn.neighbors import NearestNeighbors

from jaxnets.errors import UserError
from jaxnets.metrics import memorisation, nearest_neighbours

RNG = np.random.default_rng(0)
TRAIN = RNG.normal(size=(120, 9))
QUERIES = RNG.normal(size=(50, 9))


@pytest.mark.parametrize("k", [1, 4])
def test_neighbours_are_a_trees(k):
    found = nearest_neighbours(QUERIES, TRAIN, k=k)
    search = NearestNeighbors(n_neighbors=k, algorithm="kd_tree").fit(TRAIN)
    distance, index = search.kneighbors(QUERIES)
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_allclose(found.distance, distance, rtol=1e-6)


def test_as_many_neighbours_as_points():
    found = nearest_neighbours(QUERIES, TRAIN[:3], k=3)
    np.testing.assert_array_equal(np.sort(found.index, axis=1), np.tile(np.arange(3), (50, 1)))
    assert (np.diff(found.distance, axis=1) >= 0).all()


def test_a_copy_has_distance_zero_and_a_near_copy_its_own():
    # |x|^2 + |y|^2 - 2 x.y would leave noise of these distances.
    train = RNG.normal(size=(200, 300)) + 100.0 * np.repeat([[-1.0], [1.0]], 100, axis=0)
    train = train.astype(np.float32)
    copies = nearest_neighbours(train[::-1], train)
    np.testing.assert_array_equal(copies.index[:, 0], np.arange(200)[::-1])
    assert not copies.distance.any()
    near = train[:40].copy()
    near[:, 0] += 0.25
    found = nearest_neighbours(near, train)
    np.testing.assert_array_equal(found.index[:, 0], np.arange(40))
    np.testing.assert_allclose(found.distance, 0.25, rtol=1e-3)


def test_samples_as_near_to_unseen_images_as_to_training_images_are_no_copies():
    rng = np.random.default_rng(4)
    samples, real = 0.3 * rng.normal(size=(300, 6)), rng.normal(size=(600, 6))
    found = []
    for _ in range(40):
        train, held_out = np.split(rng.permutation(real), [400])
        found.append(memorisation(samples, held_out, train))
        assert found[-1].median_ratio < 0.8 and found[-1].nearer > 0.6  # nearer than real images
    unseen = np.array([one.unseen for one in found])
    deviation = np.mean([one.unseen_deviation for one in found])
    assert unseen.mean() == pytest.approx(1 / 3, abs=3 * deviation / np.sqrt(40))
    assert unseen.std() == pytest.approx(deviation, rel=0.3)
    assert deviation > 2 * np.sqrt(2 / 9 / 300)  # some images are the nearest of many samples
    copies = memorisation(train[:200] + 0.01, held_out, train)
    assert (copies.unseen, copies.unseen_ratio) == (0, 0)
    found = memorisation(QUERIES[:20], QUERIES[20:], TRAIN)
    everything = np.concatenate([TRAIN, QUERIES[20:]])
    index = NearestNeighbors(n_neighbors=1).fit(everything).kneighbors(QUERIES[:20])[1]
    assert found.unseen == (index >= 120).mean() and found.unseen_expected == 30 / 150
    between = memorisation(np.zeros((4, 1)), [[-1.0], [-3.0]], [[1.0], [3.0]])
    assert between.unseen == 0.5


def test_copies_are_seen():
    noisy = TRAIN + 0.01 * RNG.normal(size=TRAIN.shape)
    found = memorisation(noisy, QUERIES, TRAIN)
    assert found.nearer == 1 and found.copies == 1 and found.median_ratio < 0.05
    np.testing.assert_array_equal(found.samples.index[:, 0], np.arange(120))
    half = memorisation(np.concatenate([noisy[:50], QUERIES]), QUERIES, TRAIN)
    assert half.nearer == pytest.approx(0.75)
    assert half.copies == pytest.approx(0.51)  # all noisy ones, and the nearest held-out image
    far = memorisation(QUERIES + 20, QUERIES, TRAIN)
    assert far.nearer == 0 and far.median_ratio > 5 and far.copies == 0


def test_nearer_is_the_share_of_pairs_and_ties_count_half():
    samples = np.concatenate([0.8 * RNG.normal(size=(30, 9)), QUERIES[:20], TRAIN[:4]])
    held_out = np.concatenate([QUERIES, TRAIN[:2]])
    found = memorisation(samples, held_out, TRAIN)
    ours, theirs = found.samples.distance[:, 0], found.held_out.distance[:, 0]
    expected = mannwhitneyu(theirs, ours).statistic / (len(ours) * len(theirs))
    assert found.nearer == pytest.approx(expected)
    assert found.median_ratio == pytest.approx(np.median(ours) / np.median(theirs))


def test_errors():
    with pytest.raises(UserError, match="121 neighbours among 120 points"):
        nearest_neighbours(QUERIES, TRAIN, k=121)
    with pytest.raises(UserError, match="0 neighbours"):
        nearest_neighbours(QUERIES, TRAIN, k=0)
    with pytest.raises(UserError, match="no queries"):
        nearest_neighbours(QUERIES[:0], TRAIN)
    with pytest.raises(UserError, match=r"features of 8 \(the queries\) and of 9"):
        nearest_neighbours(QUERIES[:, :8], TRAIN)
    with pytest.raises(UserError, match="held-out images are training images too"):
        memorisation(QUERIES, TRAIN[:30], TRAIN)
    for sets in ((QUERIES[:0], QUERIES, TRAIN), (QUERIES, QUERIES[:0], TRAIN)):
        with pytest.raises(UserError, match="are none"):
            memorisation(*sets)
    with pytest.raises(UserError, match="the training images are none"):
        memorisation(QUERIES, QUERIES, TRAIN[:0])
