"""Rare classes: which images stay, how classes are balanced, what a GAN's samples may join."""

import json
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from scipy.special import log_softmax

from command_lines import CLASSIFY, GENERATE, assert_one_error, run, summary
from jaxnets.commands import samples, training
from jaxnets.commands.configs.classify import Classify
from jaxnets.data import Order, Split, joined, make_pipeline, take_per_class
from jaxnets.errors import UserError
from jaxnets.judge.evaluate import classification
from jaxnets.losses import balanced_softmax, cross_entropy, effective_weights, inverse_weights
from jaxnets.run.trained import TrainedClassifier

RNG = np.random.default_rng(0)
COUNTS = [40, 12, 3]
LABELS = RNG.permutation(np.repeat(np.arange(3, dtype=np.int32), COUNTS))
SPLIT = Split(RNG.integers(0, 256, (len(LABELS), 4, 4, 1), np.uint8), LABELS)


def rows(split):
    return {row.tobytes() for row in split.inputs}


def test_rare_images_are_drawn_by_the_seed_and_nested():
    few, more, other = (
        take_per_class(SPLIT, None, seed, rare={1: n}) for n, seed in ((4, 0), (9, 0), (4, 1))
    )
    assert [np.bincount(s.target).tolist() for s in (few, more)] == [[40, 4, 3], [40, 9, 3]]
    assert rows(few) < rows(more) < rows(SPLIT) and rows(few) != rows(other)
    both = take_per_class(SPLIT, 10, 0, rare={2: 2})
    assert np.bincount(both.target).tolist() == [10, 10, 2]
    with pytest.raises(UserError, match="can't take 4 examples of the rare class 2: it has 3"):
        take_per_class(SPLIT, None, 0, rare={2: 4})
    assert len(joined(few, more)) == len(few) + len(more)


@pytest.mark.parametrize(
    "rare,told",
    [
        (("b=3", "c"), {1: 3, 2: None}),
        (("1=3",), {1: 3}),
        (("x=y",), {3: None}),
        (("x=y=2",), {3: 2}),
        (("b=0",), "with N of 1 or more"),
        (("b=-1",), "with N of 1 or more"),
        (("d=3",), "--rare d=3: there is no class 'd'"),
        (("b=3", "1"), "names the class b twice"),
    ],
)
def test_a_rare_class_has_a_name_or_a_number(rare, told):
    from jaxnets.columns import Classes

    columns = {"target": Classes(("a", "b", "c", "x=y"))}
    if isinstance(told, dict):
        assert training.rare_classes(Classify(rare=rare), columns) == told
    else:
        with pytest.raises(UserError, match=told):
            training.rare_classes(Classify(rare=rare), columns)


def test_oversampling_shows_classes_equally_often_in_an_order_of_seed_and_step():
    order = Order(len(LABELS), 5, 7, LABELS)
    for epoch in order.indices(0, 44).reshape(4, 55):
        seen = LABELS[epoch]
        assert sorted(np.bincount(seen)) == [18, 18, 19]
        often = [np.bincount(epoch, minlength=55)[k == LABELS] for k in range(3)]
        assert often[0].max() == 1 and often[2].min() >= 6 and np.ptp(often[2]) <= 1
    again = Order(len(LABELS), 5, 7, LABELS).indices(13, 9)
    np.testing.assert_array_equal(order.indices(0, 44)[13:22], again)
    resident, streamed = (
        make_pipeline(SPLIT, 5, 7, memory_budget_bytes=size, balanced=True) for size in (1 << 20, 0)
    )
    np.testing.assert_array_equal(
        LABELS[resident.feed(13, 9)],  # type: ignore[index]
        streamed.feed(13, 9)["target"],  # type: ignore[index, call-overload]
    )
    streamed.close()


def test_weights_are_those_of_the_papers():
    np.testing.assert_allclose(inverse_weights(COUNTS), 55 / (3 * np.array(COUNTS)), rtol=1e-6)
    assert np.mean(inverse_weights(COUNTS)[LABELS]) == pytest.approx(1.0)
    numbers = (1 - 0.9 ** np.array(COUNTS)) / (1 - 0.9)
    np.testing.assert_allclose(
        effective_weights(COUNTS, 0.9), 3 / numbers / (1 / numbers).sum(), rtol=1e-6
    )
    np.testing.assert_array_equal(effective_weights(COUNTS, 0.0), 1.0)
    scale = inverse_weights(COUNTS) / effective_weights(COUNTS, 1 - 1e-9)
    np.testing.assert_allclose(scale, scale[0], rtol=1e-5)


LOGITS = jnp.asarray(RNG.normal(size=(55, 3)), jnp.float32)


def test_a_weight_is_that_of_the_example_with_smoothing_too():
    weights = inverse_weights(COUNTS)
    plain = cross_entropy(LOGITS, jnp.asarray(LABELS), label_smoothing=0.3)
    told = cross_entropy(LOGITS, jnp.asarray(LABELS), label_smoothing=0.3, class_weights=weights)
    np.testing.assert_allclose(told, plain * weights[LABELS], rtol=1e-5)


def test_balanced_softmax_is_its_formula_in_float64():
    prior = np.array(COUNTS) / 55
    shares = prior * np.exp(np.asarray(LOGITS, np.float64))
    expected = -np.log(shares / shares.sum(axis=1, keepdims=True))[np.arange(55), LABELS]
    told = jax.jit(balanced_softmax(cross_entropy, COUNTS))(LOGITS, jnp.asarray(LABELS))
    np.testing.assert_allclose(told, expected, rtol=1e-5)


def test_numbers_of_rare_classes_are_scikit_learns():
    told = classification(np.asarray(LOGITS), LABELS, [1, 2])
    shares, said = np.exp(log_softmax(LOGITS, axis=1)), np.asarray(LOGITS).argmax(axis=1)
    of_two = [sklearn.metrics.average_precision_score(k == LABELS, shares[:, k]) for k in (1, 2)]
    recalls = sklearn.metrics.recall_score(LABELS, said, average=None)
    assert told.metrics["rare_average_precision"] == pytest.approx(np.mean(of_two))
    assert told.metrics["rare_recall"] == pytest.approx(np.mean(recalls[1:]))
    assert told.metrics["others_accuracy"] == pytest.approx(recalls[0])
    assert np.isnan(classification(np.eye(2), np.zeros(2, int)).average_precision).all()


class Shade(nn.Module):
    """Two classes by the mean shade, which is the only feature."""

    def __call__(self, images, train):
        shade = images.mean(axis=(1, 2, 3))
        return jnp.stack([-shade, shade], axis=-1), {"penultimate": shade[:, None]}


def shades(values, label):
    images = np.broadcast_to(
        np.array(values, np.uint8)[:, None, None, None], (len(values), 4, 4, 1)
    )
    return Split(images.copy(), np.full(len(values), label, np.int32))


def test_a_sample_is_kept_if_it_is_taken_for_its_class_and_near():
    train = joined(shades([0, 10, 20, 30], 0), shades([200, 210, 220], 1))
    cnn = TrainedClassifier(Shade(), {}, train.columns, ("0", "1"), {}, 0, {}, {})
    keeps = samples._filter(cnn, train, np.array([3, 3]))
    made = joined(shades([5, 39, 60, 205, 0], 0), shades([205, 232, 5], 1))
    assert keeps(made).tolist() == [True, True, False, False, True, True, False, False]


def test_a_gans_samples_join_the_training_images(cli, workplace):
    rare = ["--rare", "3=10"]
    run(GENERATE, rare, "--balance oversample --run-dir gan")
    run(CLASSIFY, rare, "--balance softmax --loss focal --mixup 0.3 --run-dir cnn")
    command = [*CLASSIFY, *rare, "--add-samples", "gan", "--per-class", "150", "--run-dir", "added"]
    run(command)
    config = json.loads((workplace / "added" / "config.json").read_text())["config"]
    weights = config["samples_fingerprint"].partition("made by ")[2]
    with np.load(workplace / "added" / "added_samples.npz") as kept:
        counts, about = np.bincount(kept["labels"]), json.loads(str(kept["about"]))
    assert counts[3] == 140 and about["synthetic"] and about["weights"] == weights
    rows = json.loads((workplace / "added" / "about.json").read_text())["rows"]
    assert f"{counts.sum():,} of them synthetic" in rows["trained on"]
    told = summary(workplace / "added")
    assert {"test_rare_recall", "test_rare_average_precision", "test_others_accuracy"} <= set(told)
    assert told["classes"]["3"]["recall"] == told["test_rare_recall"]

    error = cli(*CLASSIFY, *rare, "--add-samples", "gan", "--keep-by", "cnn")
    assert_one_error(error, "--keep-by cnn keeps no sample of", "leave --keep-by out")
    code, _, err = cli(*CLASSIFY, "--add-samples", "gan", "--seed", "1", "--per-class", "148")
    assert code == 0 and "--rare was ['3=10'], and is None here" in err

    shutil.rmtree(workplace / "gan")  # a run that goes on has its samples
    shutil.rmtree(workplace / "added" / "checkpoints")
    (workplace / "added" / "checkpoints.json").unlink()
    before = summary(workplace / "added")["test_loss"]
    (workplace / "added" / "summary.json").unlink()
    run(command)
    assert summary(workplace / "added")["test_loss"] == before
    (workplace / "added" / "added_samples.npz").write_bytes(b"x")
    assert_one_error(cli(*command), "added_samples.npz cannot be read", "delete it")


def test_samples_that_cannot_join_are_refused(cli, workplace):
    run(GENERATE, "--no-conditional --run-dir without")
    run(GENERATE, "--rare 3=10 --run-dir gan")
    run(CLASSIFY, "--run-dir cnn")
    for name, change in {
        "large": lambda told: told["columns"]["inputs"].update(shape=[16, 16, 1]),
        "colour": lambda told: told["columns"]["inputs"].update(shape=[8, 8, 3]),
        "others": lambda told: told["columns"]["target"]["names"].__setitem__(3, "three"),
    }.items():
        shutil.copytree(workplace / "gan", workplace / name)
        path = workplace / name / "network.json"
        told = json.loads(path.read_text())
        change(told)
        path.write_text(json.dumps(told))
    add = [*CLASSIFY, "--rare", "3=10", "--run-dir", "never", "--add-samples"]
    for words, told in {
        "without": "trained without classes",
        "cnn": "is a run of `classify`; it must be one of `generate`",
        "large": "is for images of 16x16x1, and those of digits are images of 8x8x1",
        "colour": "is for images of 8x8x3",
        "others": "they differ: 3, three",
        "nowhere": "no run folder nowhere",
        "gan --keep-by gan": "--keep-by: gan is a run of `generate`",
        "gan --per-class 5": "nothing to add",
        "gan --seeds 2": "--seeds 1",
    }.items():
        assert_one_error(cli(*add, *words.split()), told)
    for words, told in {
        "--rare 3=1000": "it has 146",
        "--rare x=1": "--rare x=1: there is no class 'x'",
        "--keep-by cnn": "--keep-by needs samples to add",
        "--balance-beta 0.5": "--balance-beta needs --balance effective",
    }.items():
        assert_one_error(cli(*CLASSIFY, "--run-dir", "never", *words.split()), told)
    assert not (workplace / "never").exists()
