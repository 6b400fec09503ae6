"""Classification metrics against scikit-learn, merged, masked, and over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from scipy.special import softmax

from jaxnets.devices import axis
from jaxnets.metrics import Calibration, Confusion, accuracy
from jaxnets.typing import DATA_AXIS

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 6, 64).astype(np.int32)
LOGITS = (RNG.normal(size=(64, 6)) + 1.2 * np.eye(6)[LABELS]).astype(np.float32)
MASK = np.arange(64) % 7 != 3
KEPT_LABELS, KEPT_LOGITS = LABELS[MASK], LOGITS[MASK]
PREDICTED = KEPT_LOGITS.argmax(1)
X, Y, M = jnp.asarray(LOGITS), jnp.asarray(LABELS), jnp.asarray(MASK)
METRICS = {
    "accuracy": accuracy,
    "confusion": Confusion.of,
    "calibration": Calibration.of,
}


def ece(logits, labels, bins):
    """Expected calibration error as in the paper, bin by bin, in float64."""
    p = softmax(logits.astype(np.float64), axis=1)
    confidence, right = p.max(1), p.argmax(1) == labels
    total = 0.0
    for low in np.arange(bins) / bins:
        inside = (confidence > low) & (confidence <= low + 1 / bins)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


def test_accuracy_is_scikit_learns():
    got = accuracy(X, Y, M).compute()
    np.testing.assert_allclose(got, sklearn.metrics.accuracy_score(KEPT_LABELS, PREDICTED))


def test_confusion_and_what_follows_from_it_are_scikit_learns():
    confusion = Confusion.of(X, Y, M)
    expected = sklearn.metrics.confusion_matrix(KEPT_LABELS, PREDICTED, labels=range(6))
    np.testing.assert_array_equal(confusion.compute(), expected)
    scores = sklearn.metrics.precision_recall_fscore_support(KEPT_LABELS, PREDICTED)
    np.testing.assert_allclose(confusion.precision(), scores[0])
    np.testing.assert_allclose(confusion.recall(), scores[1])
    np.testing.assert_allclose(
        confusion.balanced_accuracy(),
        sklearn.metrics.balanced_accuracy_score(KEPT_LABELS, PREDICTED),
    )


def test_a_class_without_examples_has_no_recall_and_does_not_count():
    confusion = Confusion.of(jnp.eye(3), jnp.array([0, 1, 0]))
    np.testing.assert_array_equal(confusion.recall(), [0.5, 1.0, np.nan])
    assert confusion.balanced_accuracy() == 0.75
    assert np.isnan(Confusion(jnp.zeros((3, 3))).balanced_accuracy())


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_calibration_is_the_papers_sum(bins):
    got = Calibration.of(X, Y, M, bins=bins).compute()
    np.testing.assert_allclose(got, ece(KEPT_LOGITS, KEPT_LABELS, bins), rtol=1e-5)


def test_calibration_of_certainty():
    sure = 100.0 * jnp.eye(4)
    assert Calibration.of(sure, jnp.arange(4)).compute() == pytest.approx(0.0, abs=1e-6)
    assert Calibration.of(sure, jnp.array([1, 2, 3, 0])).compute() == pytest.approx(1.0)
    assert np.isnan(Calibration.of(sure, jnp.arange(4), jnp.zeros(4, bool)).compute())


@pytest.mark.parametrize("name", METRICS)
def test_batches_and_devices_merge_to_the_whole(name):
    metric = METRICS[name]
    whole = np.asarray(jax.jit(metric)(X, Y, M).compute())
    compiled = jax.jit(metric)
    a, b, c = (compiled(X[i], Y[i], M[i]) for i in (slice(5), slice(5, 10), slice(10, 64)))
    np.testing.assert_allclose((a + b + c).compute(), whole, rtol=1e-5)
    split = [a.reshape(8, 8, *a.shape[1:]) for a in (LOGITS, LABELS, MASK)]
    devices = jax.pmap(lambda *a: axis.psum(metric(*a)), axis_name=DATA_AXIS)(*split)
    first = jax.tree.map(lambda leaf: leaf.addressable_shards[0].data[0], devices)
    np.testing.assert_allclose(first.compute(), whole, rtol=1e-5)


@pytest.mark.parametrize("name", METRICS)
def test_padding_may_be_nan_and_labels_may_be_probabilities(name):
    dirty = np.where(MASK[:, None], LOGITS, np.nan)
    expected = METRICS[name](X, Y, M).compute()
    got = METRICS[name](jnp.asarray(dirty), jax.nn.one_hot(LABELS, 6), jnp.asarray(MASK))
    np.testing.assert_allclose(got.compute(), expected, rtol=1e-6)


def test_labels_of_another_number_are_refused():
    with pytest.raises(AssertionError):
        accuracy(X, Y[:5])
