"""Scores that a classifier gives samples: against float64, in batches, masked, over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy
from sklearn.metrics import recall_score

from jaxnets.devices import axis
from jaxnets.errors import UserError
from jaxnets.metrics import (
    ClassMoments,
    Confusion,
    InceptionScore,
    Moments,
    check_classes,
    frechet_distance,
    inception_note,
    intra_class_frechet,
    recognised,
)
from jaxnets.typing import DATA_AXIS

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 5, 96).astype(np.int32)
LOGITS = (2 * RNG.normal(size=(96, 5)) + 2.0 * np.eye(5)[LABELS]).astype(np.float32)
MASK = np.arange(96) % 7 != 3
FEATURES = (RNG.normal(size=(96, 4)) + LABELS[:, None]).astype(np.float32)


def score(logits):
    """exp of the mean Kullback-Leibler divergence from the marginal, by scipy in float64."""
    p = softmax(logits.astype(np.float64), axis=1)
    return np.exp(np.mean([entropy(row, p.mean(axis=0)) for row in p]))


def in_one_split(sums):
    """The score of all that was summed, whatever its splits."""
    totals = (np.asarray(leaf).sum(axis=0, keepdims=True) for leaf in jax.tree.leaves(sums))
    return InceptionScore(*totals).compute()[0]


def test_the_whole_score_is_scipys():
    got = InceptionScore.of(jnp.asarray(LOGITS), jnp.asarray(MASK))
    np.testing.assert_allclose(in_one_split(got), score(LOGITS[MASK]), rtol=1e-5)
    assert 1.5 < in_one_split(got) < 4


def test_splits_are_even_and_their_scores_are_scipys():
    splits = 3
    found = InceptionScore.of(jnp.asarray(LOGITS), splits=splits)
    np.testing.assert_array_equal(found.count, 32)
    # Which example is in which split shows in the score of each example alone.
    one = jax.jit(lambda i: InceptionScore.of(jnp.zeros((1, 5)), first=i, splits=splits).count)
    alone = [np.argmax(one(i)) for i in range(len(LOGITS))]
    parts = [score(LOGITS[np.array(alone) == s]) for s in range(splits)]
    mean, spread = found.compute()
    np.testing.assert_allclose(mean, np.mean(parts), rtol=1e-5)
    np.testing.assert_allclose(spread, np.std(parts), rtol=1e-3)
    assert spread > 0.001


@pytest.mark.parametrize("order", ["in turn", "sorted"])
def test_labels_in_order_are_spread_over_the_splits(order):
    labels = np.arange(1000) % 10 if order == "in turn" else np.arange(1000) // 100
    mean, spread = InceptionScore.of(jnp.asarray(30.0 * np.eye(10)[labels])).compute()
    # In splits of one class each, which a plain division makes of either, it would be 1.
    assert mean > 9 and spread < 0.5


def test_extremes():
    sure = jnp.asarray(100.0 * np.eye(4)[np.arange(40) % 4])
    assert InceptionScore.of(sure, splits=1).compute() == pytest.approx((4, 0), abs=1e-4)
    collapsed = jnp.tile(sure[:1], (40, 1))
    assert InceptionScore.of(collapsed).compute() == pytest.approx((1, 0), abs=1e-6)
    unsure = jnp.zeros((40, 4))
    assert InceptionScore.of(unsure).compute() == pytest.approx((1, 0), abs=1e-6)
    impossible = jnp.where(sure > 0, 0.0, -jnp.inf)
    assert in_one_split(InceptionScore.of(impossible, splits=1)) == pytest.approx(4, abs=1e-4)


def test_padding_may_be_nan_and_batches_and_devices_merge_to_the_whole():
    dirty = jnp.asarray(np.where(MASK[:, None], LOGITS, np.nan))
    whole = InceptionScore.of(dirty, jnp.asarray(MASK), splits=4)
    np.testing.assert_allclose(in_one_split(whole), score(LOGITS[MASK]), rtol=1e-5)
    compiled = jax.jit(lambda x, m, first: InceptionScore.of(x, m, first=first, splits=4))
    cuts = (slice(0, 10), slice(10, 40), slice(40, 96))
    parts = [compiled(dirty[cut], jnp.asarray(MASK[cut]), cut.start) for cut in cuts]
    np.testing.assert_allclose(
        (parts[0] + parts[1] + parts[2]).compute(), whole.compute(), rtol=1e-5
    )
    spread = jax.pmap(
        lambda x, m: axis.psum(InceptionScore.of(x, m, splits=4)), axis_name=DATA_AXIS
    )(np.asarray(dirty).reshape(8, 12, 5), MASK.reshape(8, 12))
    first = jax.tree.map(lambda leaf: leaf.addressable_shards[0].data[0], spread)
    np.testing.assert_allclose(first.compute(), whole.compute(), rtol=1e-5)


def test_what_is_wrong_with_a_score_is_said():
    with pytest.raises(UserError, match="of 4 samples in 10 splits"):
        InceptionScore.of(jnp.asarray(LOGITS[:4])).compute()
    nothing = InceptionScore.of(jnp.asarray(LOGITS), jnp.zeros(96, bool))
    with pytest.raises(UserError, match="of 0 samples"):
        in_one_split(nothing)
    with pytest.raises(UserError, match="0 splits"):
        InceptionScore.of(jnp.asarray(LOGITS), splits=0)
    for bad in (np.nan, np.inf):
        dirty = jnp.asarray(np.where(LOGITS > 4, bad, LOGITS))
        with pytest.raises(UserError, match="logits hold NaN"):
            InceptionScore.of(dirty).compute()
        with pytest.raises(UserError, match="logits hold NaN"):
            in_one_split(InceptionScore.of(dirty))


def test_the_note_says_how_far_too_low_a_score_is():
    # Samples that are certainly of one of 10 classes, drawn evenly: the score is to be 10.
    rng = np.random.default_rng(0)
    compiled = jax.jit(lambda x: InceptionScore.of(x, splits=1))
    scores = [
        compiled(90.0 * np.eye(10)[rng.integers(0, 10, 100)].astype(np.float32)).compute()[0]
        for _ in range(50)
    ]
    assert np.mean(scores) == pytest.approx(10 * (1 - 9 / 200), abs=0.08)
    assert "too low by up to 3%" in (inception_note(150, 1, 10) or "")
    assert "use 4500 or more" in (inception_note(1000, 10, 10) or "")
    assert inception_note(4500, 10, 10) is None


def test_recognised_is_scikit_learns_recall():
    kept = LABELS[MASK], LOGITS[MASK].argmax(axis=1)
    found = recognised(Confusion.of(*map(jnp.asarray, (LOGITS, LABELS, MASK))))
    assert found.share == pytest.approx((kept[0] == kept[1]).mean())
    expected = recall_score(*kept, average=None)
    assert list(found.per_class.values()) == pytest.approx(list(expected))
    assert found.samples == {c: (kept[0] == c).sum() for c in range(5)}
    assert found.worst == np.argmin(expected)


def test_classes_that_were_not_asked_for_do_not_count():
    found = recognised(Confusion.of(jnp.eye(4)[jnp.array([0, 2, 1])], jnp.array([0, 2, 2])))
    assert found.per_class == {0: 1.0, 2: 0.5}
    assert found.share == pytest.approx(2 / 3) and found.worst == 2
    with pytest.raises(UserError, match="no samples"):
        recognised(Confusion(jnp.zeros((3, 3))))


def test_labels_that_the_classifier_has_not_are_named():
    np.testing.assert_array_equal(check_classes([0, 9, 3], 10), [0, 9, 3])
    for label in (12, -1):
        with pytest.raises(UserError, match=rf"class {label}, .* 10 classes \(0\.\.9\)"):
            check_classes(np.array([3, label, 2]), 10)


def test_intra_class_distance_is_that_of_each_class():
    other = (1.5 * RNG.normal(size=(96, 4)) + LABELS[:, None]).astype(np.float32)
    samples, reference = ClassMoments(), ClassMoments.of(other, LABELS)
    dirty = np.where(MASK[:, None], FEATURES, np.nan)
    for cut in (slice(0, 7), slice(7, 50), slice(50, 96)):
        samples += ClassMoments.of(dirty[cut], LABELS[cut], MASK[cut])
    found = intra_class_frechet(samples, reference)
    for c in range(5):
        rows = c == LABELS
        a, b = FEATURES[MASK & rows], other[rows]
        expected = frechet_distance(Moments.of(a), Moments.of(b))
        assert found.per_class[c] == pytest.approx(expected, rel=1e-9)
    assert found.mean == pytest.approx(np.mean(list(found.per_class.values())))
    assert found.note is None


def test_thin_and_missing_classes_are_named():
    labels = np.repeat([0, 1, 2], [40, 4, 3])
    thin = ClassMoments.of(RNG.normal(size=(47, 4)), labels)
    note = intra_class_frechet(thin, thin).note or ""
    assert note.startswith("in classes 1, 2, only 3 samples for 4 features")
    whole = ClassMoments.of(FEATURES, LABELS)
    with pytest.raises(UserError, match=r"fewer than 2 samples of classes 3, 4; both"):
        intra_class_frechet(thin, whole)
    with pytest.raises(UserError, match=r"fewer than 2 real images of classes 3, 4; both"):
        intra_class_frechet(whole, thin)
    single = ClassMoments.of(FEATURES[:1], [7]) + whole
    with pytest.raises(UserError, match="fewer than 2 samples of class 7;"):
        intra_class_frechet(single, single)
    many = ClassMoments.of(RNG.normal(size=(60, 2)), np.repeat(np.arange(30), 2))
    note = intra_class_frechet(many, many).note or ""
    assert note.startswith("in classes 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 20 more, only 2 samples")
    with pytest.raises(UserError, match="no classes"):
        intra_class_frechet(ClassMoments(), ClassMoments())


def test_labels_must_be_one_for_each_row():
    with pytest.raises(ValueError, match=r"\(95,\) labels"):
        ClassMoments.of(FEATURES, LABELS[:-1])
