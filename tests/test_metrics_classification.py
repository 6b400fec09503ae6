"""What a classifier gets right, against scikit-learn and a sum over bins."""

import numpy as np
import pytest
import sklearn.metrics
from scipy.special import softmax

from jaxnets.judge.evaluate import classification
from jaxnets.metrics import balanced_accuracy, calibration_error

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 6, 64).astype(np.int32)
LOGITS = (RNG.normal(size=(64, 6)) + 1.2 * np.eye(6)[LABELS]).astype(np.float32)


def ece(logits, labels, bins):
    """Expected calibration error as in the paper, bin by bin."""
    p = softmax(logits.astype(np.float64), axis=1)
    confidence, right = p.max(1), p.argmax(1) == labels
    total = 0.0
    for low in np.arange(bins) / bins:
        inside = (confidence > low) & (confidence <= low + 1 / bins)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


def test_a_classification_is_scikit_learns():
    told, predicted = classification(LOGITS, LABELS), LOGITS.argmax(axis=1)
    p = softmax(LOGITS.astype(np.float64), axis=1)
    expected = sklearn.metrics.confusion_matrix(LABELS, predicted, labels=range(6))
    np.testing.assert_array_equal(told.confusion, expected)
    assert told.metrics == pytest.approx(
        {
            "accuracy": sklearn.metrics.accuracy_score(LABELS, predicted),
            "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(LABELS, predicted),
            "loss": sklearn.metrics.log_loss(LABELS, p),
            "calibration_error": ece(LOGITS, LABELS, 15),
        }
    )


def test_a_class_without_examples_does_not_count():
    told = classification(np.eye(3), np.array([0, 1, 0]))
    np.testing.assert_array_equal(told.confusion, [[1, 0, 1], [0, 1, 0], [0, 0, 0]])
    assert told.metrics["balanced_accuracy"] == 0.75
    assert np.isnan(balanced_accuracy(np.zeros((3, 3))))


@pytest.mark.parametrize("bins", [1, 4])
def test_calibration_is_the_papers_sum(bins):
    got = calibration_error(LOGITS, LABELS, bins=bins)
    np.testing.assert_allclose(got, ece(LOGITS, LABELS, bins))


def test_calibration_of_certainty():
    sure = 100.0 * np.eye(4)
    assert calibration_error(sure, np.arange(4)) == pytest.approx(0.0, abs=1e-6)
    assert calibration_error(sure, np.array([1, 2, 3, 0])) == pytest.approx(1.0)
    assert np.isnan(calibration_error(sure[:0], []))
