"""Shares of classes and spreads within them, against sums over all pairs."""

import itertools

import numpy as np
import pytest

from jaxnets.metrics import (
    least_class_share,
    mean_squared_distance,
    relative_spread,
)
from jaxnets.metrics.collapse import ENOUGH

RNG = np.random.default_rng(0)


def over_pairs(points):
    pairs = itertools.permutations(points.astype(np.float64), 2)
    return np.mean([np.square(a - b).sum() for a, b in pairs])


def classes(*counts):
    return np.repeat(np.arange(len(counts)), counts)


@pytest.mark.parametrize("kind", [np.float32, np.uint8])
def test_the_mean_distance_is_that_over_all_pairs(kind):
    points = (100 * RNG.uniform(size=(30, 4)) + 50).astype(kind)
    assert mean_squared_distance(points) == pytest.approx(over_pairs(points), rel=1e-6)


def test_a_large_mean_does_not_cost_the_distance_its_digits():
    points = RNG.normal(size=(50, 3))
    assert mean_squared_distance(points + 1e6) == pytest.approx(mean_squared_distance(points))


def test_distances_that_there_are_none_of():
    assert mean_squared_distance(np.ones((5, 2))) == 0
    for count in (0, 1):
        assert np.isnan(mean_squared_distance(np.ones((count, 2))))
    assert np.isnan(relative_spread(np.ones((1, 2)), [0], RNG.normal(size=(20, 2)), classes(20)))
    assert np.isnan(relative_spread(np.ones((20, 2)), classes(20), np.ones((20, 2)), classes(20)))


def test_the_spread_is_a_mean_over_classes():
    labels, real_labels = classes(12, 20), classes(15, 11)
    samples = RNG.normal(size=(32, 3)) * np.where(labels, 2.0, 0.5)[:, None] + 7 * labels[:, None]
    real = RNG.normal(size=(26, 3)) - 5 * real_labels[:, None]
    expected = [
        np.sqrt(over_pairs(samples[labels == c]) / over_pairs(real[real_labels == c]))
        for c in (0, 1)
    ]
    assert relative_spread(samples, labels, real, real_labels) == pytest.approx(np.mean(expected))


def test_classes_too_small_to_tell_are_left_out():
    few = ENOUGH - 1
    labels, real_labels = classes(few, 30, 30), classes(30, 30, few)
    samples = np.where(labels == 1, 1.0, 0.0)[:, None] * RNG.normal(size=(len(labels), 2))
    real = RNG.normal(size=(len(real_labels), 2))
    expected = np.sqrt(over_pairs(samples[labels == 1]) / over_pairs(real[real_labels == 1]))
    assert relative_spread(samples, labels, real, real_labels) == pytest.approx(expected)
    # Where all are, samples are compared as one class with real images as one.
    labels = classes(*[few] * 3)
    samples, real = RNG.normal(size=(2, len(labels), 2)) + labels[:, None]
    expected = np.sqrt(over_pairs(samples) / over_pairs(real))
    assert relative_spread(samples, labels, real, labels) == pytest.approx(expected)


def test_the_least_share_of_a_class():
    real = classes(50, 30, 20)
    assert least_class_share(real, real) == pytest.approx(1.0)
    assert least_class_share(classes(100, 70, 30), real) == pytest.approx(0.75)  # 0.15 of 0.2
    assert least_class_share(classes(60, 40), real) == 0  # the third is missing
    assert least_class_share(np.full(100, 7), real) == 0  # a class that there is not
    assert least_class_share(classes(50, 40, 10), real) == pytest.approx(0.5)
    assert least_class_share(classes(50, 40, 10), real[real < 2]) == pytest.approx(0.8)


def test_classes_too_rare_to_tell_have_no_share():
    real = classes(98, 2)
    assert least_class_share(np.zeros(100, int), real) == pytest.approx(100 / 98)
    count = ENOUGH * 50
    assert least_class_share(np.zeros(count, int), real) == 0
    assert np.isnan(least_class_share(classes(5, 4), classes(5, 4)))
    assert np.isnan(least_class_share([], [])) and np.isnan(least_class_share([], real))
