"""Scores that a classifier gives samples: against scipy and scikit-learn in float64."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy
from sklearn.metrics import recall_score

from jaxnets.errors import UserError
from jaxnets.metrics import (
    check_classes,
    frechet_distance,
    inception_note,
    inception_score,
    intra_class_frechet,
    recognised,
)

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 5, 96).astype(np.int32)
LOGITS = (2 * RNG.normal(size=(96, 5)) + 2.0 * np.eye(5)[LABELS]).astype(np.float32)
MASK = np.arange(96) % 7 != 3
FEATURES = (RNG.normal(size=(96, 4)) + LABELS[:, None]).astype(np.float32)


def score(logits):
    """exp of the mean Kullback-Leibler divergence from the marginal, by scipy in float64."""
    p = softmax(logits.astype(np.float64), axis=1)
    return np.exp(np.mean([entropy(row, p.mean(axis=0)) for row in p]))


def test_scores_of_even_splits_are_scipys():
    assert inception_score(LOGITS, splits=1) == pytest.approx((score(LOGITS), 0), rel=1e-9)
    # Each three in a row are divided among the splits, in an order of their own.
    place = np.random.default_rng(0).permuted(np.tile(np.arange(3), (32, 1)), axis=1).reshape(-1)
    parts = [score(LOGITS[place == split]) for split in range(3)]
    found = inception_score(LOGITS, splits=3)
    assert found == pytest.approx((np.mean(parts), np.std(parts)), rel=1e-9)
    assert 1.5 < found[0] < 4 and found[1] > 0.001


@pytest.mark.parametrize("order", ["in turn", "sorted"])
def test_labels_in_order_are_spread_over_the_splits(order):
    labels = np.arange(1000) % 10 if order == "in turn" else np.arange(1000) // 100
    mean, spread = inception_score(30.0 * np.eye(10)[labels])
    # In splits of one class each, which a plain division makes of either, it would be 1.
    assert mean > 9 and spread < 0.5


def test_extremes():
    sure = 100.0 * np.eye(4)[np.arange(40) % 4]
    assert inception_score(sure, splits=1) == pytest.approx((4, 0), abs=1e-4)
    assert inception_score(np.tile(sure[:1], (40, 1))) == pytest.approx((1, 0), abs=1e-6)
    assert inception_score(np.zeros((40, 4))) == pytest.approx((1, 0), abs=1e-6)
    impossible = np.where(sure > 0, 0.0, -np.inf)
    assert inception_score(impossible, splits=1)[0] == pytest.approx(4, abs=1e-4)


def test_what_is_wrong_with_a_score_is_said():
    for count in (0, 4):
        with pytest.raises(UserError, match=f"of {count} samples in 10 splits"):
            inception_score(LOGITS[:count])
    with pytest.raises(UserError, match="0 splits"):
        inception_score(LOGITS, splits=0)
    for bad in (np.nan, np.inf):
        with pytest.raises(UserError, match="logits hold NaN"):
            inception_score(np.where(LOGITS > 4, bad, LOGITS))


def test_the_note_says_how_far_too_low_a_score_is():
    # Samples that are certainly of one of 10 classes, drawn evenly: the score is to be 10.
    rng = np.random.default_rng(0)
    logits = 90.0 * np.eye(10)[rng.integers(0, 10, (50, 100))]
    scores = [inception_score(one, splits=1)[0] for one in logits]
    assert np.mean(scores) == pytest.approx(10 * (1 - 9 / 200), abs=0.08)
    assert "too low by up to 3%" in (inception_note(150, 1, 10) or "")
    assert "use 4500 or more" in (inception_note(1000, 10, 10) or "")
    assert inception_note(4500, 10, 10) is None


def test_recognised_is_scikit_learns_recall():
    predicted = LOGITS.argmax(axis=1)
    found = recognised(predicted, LABELS)
    expected = recall_score(LABELS, predicted, average=None)
    assert found.share == pytest.approx((predicted == LABELS).mean())
    assert list(found.per_class.values()) == pytest.approx(list(expected))
    assert found.worst == np.argmin(expected)


def test_classes_that_were_not_asked_for_do_not_count():
    found = recognised([0, 2, 1], [0, 2, 2])
    assert found.per_class == {0: 1.0, 2: 0.5}
    assert found.share == pytest.approx(2 / 3) and found.worst == 2
    with pytest.raises(UserError, match="no samples"):
        recognised([], [])


def test_labels_that_the_classifier_has_not_are_named():
    np.testing.assert_array_equal(check_classes([0, 9, 3], 10), [0, 9, 3])
    for label in (12, -1):
        with pytest.raises(UserError, match=rf"class {label}, .* 10 classes \(0\.\.9\)"):
            check_classes(np.array([3, label, 2]), 10)


def test_intra_class_distance_is_that_of_each_class():
    other = (1.5 * RNG.normal(size=(96, 4)) + LABELS[:, None]).astype(np.float32)
    found = intra_class_frechet(FEATURES[MASK], LABELS[MASK], other, LABELS)
    for c in range(5):
        a, b = FEATURES[MASK & (c == LABELS)], other[c == LABELS]
        expected = frechet_distance(a, b)
        assert found.per_class[c] == pytest.approx(expected, rel=1e-9)
    assert found.mean == pytest.approx(np.mean(list(found.per_class.values())))
    assert found.note is None


def test_thin_and_missing_classes_are_named():
    thin = RNG.normal(size=(47, 4)), np.repeat([0, 1, 2], [40, 4, 3])
    whole = FEATURES, LABELS
    note = intra_class_frechet(*thin, *thin).note or ""
    assert note.startswith("in classes 1, 2, only 3 samples for 4 features")
    single = np.concatenate([FEATURES, FEATURES[:1]]), np.append(LABELS, 7)
    for sets, words in (
        ((thin, whole), "fewer than 2 samples of classes 3, 4; both"),
        ((whole, thin), "fewer than 2 real images of classes 3, 4; both"),
        ((single, single), "fewer than 2 samples of class 7;"),
        (((FEATURES[:0], LABELS[:0]),) * 2, "no classes"),
    ):
        with pytest.raises(UserError, match=words):
            intra_class_frechet(*sets[0], *sets[1])
    many = RNG.normal(size=(60, 2)), np.repeat(np.arange(30), 2)
    note = intra_class_frechet(*many, *many).note or ""
    assert note.startswith("in classes 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 20 more, only 2 samples")
    with pytest.raises(ValueError, match=r"\(95,\) labels"):
        intra_class_frechet(FEATURES, LABELS[:-1], *whole)
