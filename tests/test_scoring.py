"""Scores of samples with all that it takes to compare them, and the command that takes them."""

import dataclasses
import json
from functools import partial

import numpy as np
import pytest

from command_lines import assert_one_error
from jaxnets import metrics
from jaxnets.commands import pictures, scoring
from jaxnets.data import Split, normalise
from jaxnets.errors import UserError
from jaxnets.judge.scoring import METRICS, Judge, Looks, score_samples, take

CLASSES = {"intra_class", "recognised"}


def looks(judge, digits, images, labels, **changes):
    train = digits.splits["train"]
    first = Split(train.inputs[:700], train.target[:700])
    made = Looks(judge, Split(images, labels), digits, first, conditional=True)
    return dataclasses.replace(made, **changes)


@pytest.fixture
def real(judge, digits):
    """As good as samples get: real images that are neither trained on nor compared with."""
    train = digits.splits["train"]
    return looks(judge, digits, train.inputs[700:], train.target[700:])


def taken(of, text="all"):
    names = scoring.names_of(text, conditional=of.conditional)
    return {score.name.split(",")[0]: score for score in take(names, of)} | {
        score.name: score for score in take(names, of)
    }


def test_real_images_score_as_real_ones(real):
    found = taken(real)
    assert found["frechet"].value < 1.0
    assert abs(found["kid"].value) < 4 * found["kid"].spread
    for name in ("precision", "recall", "coverage", "recognised"):
        assert found[name].value > 0.8, found[name]
    assert 0.4 < found["memorisation, share of nearer pairs"].value < 0.6
    assert found["memorisation, share of copies"].value < 0.05
    unseen = found["memorisation, ratio of unseen nearest images"]
    assert 0.7 < unseen.value < 1.3 and unseen.spread
    assert unseen.note is not None and unseen.note.endswith("33.90% expected")  # of 359 and 700


def test_copies_and_one_image_for_all_are_told(judge, digits, real):
    train = digits.splits["train"]
    copied = taken(looks(judge, digits, train.inputs[:700], train.target[:700]), "memorisation")
    assert copied["memorisation, share of nearer pairs"].value == 1
    assert copied["memorisation, ratio of median distances"].value == 0
    labels = np.repeat(np.arange(10, dtype=np.int32), 30)
    one = np.repeat(train.inputs[:1], len(labels), axis=0)
    same = taken(looks(judge, digits, one, labels))
    assert same["recall"].value < 0.05 and same["coverage"].value < 0.1
    assert same["frechet"].value > 10 * taken(real, "frechet")["frechet"].value
    assert same["recognised"].value == pytest.approx(0.1)  # one of ten classes
    assert "0.00%" in same["recognised"].note
    assert same["inception score"].value == pytest.approx(1.0, abs=1e-4)


def test_numbers_are_those_of_the_metrics(real):
    found, (logits, made), (_, reference) = taken(real), real.made, real.real
    assert found["frechet"].value == metrics.frechet_distance(made, reference)
    kid = metrics.kernel_distance(made, reference)
    assert (found["kid"].value, found["kid"].spread) == (kid.value, kid.standard_error)
    manifold = metrics.manifold_scores(made, reference, k=5)
    for name in ("precision", "recall", "density", "coverage"):
        assert found[name].value == getattr(manifold, name)
        assert found[name].name == f"{name}, k = 5"
    wrong = logits.argmax(axis=1) != real.samples.target
    assert found["recognised"].value == pytest.approx(1 - wrong.mean())


def test_each_says_what_it_was_taken_of(real, digits):
    for score in take(list(METRICS), real):
        record = score.record()
        assert record["extractor"] == "mean images" and record["digest"] == "0123"
        assert digits.fingerprint[:12] in record["reference"]
        assert record["samples"] == len(real.samples)
        blind = score.name.startswith(("inception", "recognised"))
        assert record["real"] == (0 if blind else len(digits.splits["test"]))


def test_few_samples_are_said_to_be_few(judge, digits):
    test = digits.splits["test"]
    found = taken(looks(judge, digits, test.inputs[:40], test.target[:40]), "frechet,recall")
    assert "only 40 samples for 64 features" in found["frechet"].note
    assert "40" in found["recall"].note


def test_names():
    assert scoring.names_of("", conditional=True) == []
    assert scoring.names_of("kid,frechet,kid", conditional=True) == ["kid", "frechet"]
    assert scoring.names_of("all", conditional=True) == list(METRICS)
    assert set(scoring.names_of("all", conditional=False)) == set(METRICS) - CLASSES
    for name in CLASSES:
        with pytest.raises(UserError, match=f"{name}: the generator makes images without classes"):
            scoring.names_of(f"kid,{name}", conditional=False)
    for text in ("fid", "kid,", "kid, frechet", "KID"):
        with pytest.raises(UserError, match="no score for --metrics"):
            scoring.names_of(text, conditional=True)


def test_a_judge_of_other_classes_recognises_none(real):
    strange = dataclasses.replace(real.judge, knows_classes=False)
    with pytest.raises(UserError, match=r"not its own .*; leave it out"):
        taken(dataclasses.replace(real, judge=strange), "recognised")
    every = scoring.names_of("all", conditional=True)
    left = scoring.names_for(every, strange, real.dataset, every=True)
    assert set(every) - set(left) == {"recognised"}
    assert scoring.names_for(every, real.judge, real.dataset) == every


@pytest.mark.parametrize("count", [1, 10, 95, 250])
def test_each_class_has_its_share_of_labels(count):
    labels = np.repeat(np.arange(5, dtype=np.int32), (10, 20, 30, 20, 20))
    found = scoring.labels_like(np.random.default_rng(0).permutation(labels), count)
    expected = count * np.bincount(labels) / len(labels)
    assert len(found) == count
    assert np.abs(np.bincount(found, minlength=5) - expected).max() <= 1


def test_the_picture_shows_copies_beside_their_originals(judge, digits, tmp_path, monkeypatch):
    from jaxnets.media import report

    shown = {}
    draw = report.grid_png

    def noted(*args, **more):
        shown.update(more, args=args)
        return draw(*args, **more)

    monkeypatch.setattr(report, "grid_png", noted)
    train = digits.splits["train"]
    of = looks(judge, digits, 255 - train.inputs[:700], train.target[:700])
    of.samples.inputs[50:60] = train.inputs[50:60]  # ten copies among strange images
    pictures.nearest(of, tmp_path / "nearest.png")
    rows = shown["args"][0].reshape(-1, 5, 8, 8, 1)
    copied = set(train.target[50:60])
    assert len(rows) == len(shown["row_labels"]) == 10 and shown["column_labels"][0] == "sample"
    for label, (sample, first, *_) in zip(range(10), rows, strict=True):
        assert (label in copied) == np.array_equal(sample, first)


def test_the_command_takes_all(cli, copies, runs):
    gan = copies["generate"]
    command = ["evaluate", gan, "--judge", runs["classify"], "--no-accuracy-score"]
    code, out, err = cli(*command, "--metrics", "all", "--samples", "60")
    assert code == 0, err
    content = json.loads(out)
    assert json.loads((gan / "evaluation.json").read_text()) == content
    names = [score["name"].split(",")[0] for score in content["scores"]]
    assert names[:6] == ["frechet", "kid", "precision", "recall", "density", "coverage"]
    assert (
        names[6:] == ["inception score", "intra-class frechet", "recognised"] + ["memorisation"] * 4
    )
    assert {score["samples"] for score in content["scores"]} == {60}
    assert err.count("weights ") >= len(names) and (gan / "samples" / "nearest.png").exists()
    again = json.loads(cli(*command, "--metrics", "kid", "--samples", "60")[1])["scores"]
    assert again == [score for score in content["scores"] if score["name"] == "kid"]
    few = cli(*command, "--metrics", "kid", "--samples", "3")
    assert_one_error(few, "a kernel distance of 3 samples")
    # Among others it costs them nothing.
    code, out, err = cli(*command, "--metrics", "kid,memorisation", "--samples", "3")
    assert code == 0 and "kid is not available: a kernel distance of 3 samples" in err
    names = {score["name"].split(",")[0] for score in json.loads(out)["scores"]}
    assert names == {"memorisation"}


def test_any_function_judges(digits):
    def features(images):
        assert images.dtype == np.float32 and images.min() >= -1 and images.max() <= 1
        return images.reshape(len(images), -1)[:, 8:40]

    judge = Judge.of(features, "some pixels", "v1", batch_size=100)
    train, test = digits.splits["train"], digits.splits["test"]
    seen = judge.look(test)
    assert seen[0] is None
    np.testing.assert_array_equal(seen[1], features(normalise(test.inputs)))
    names = ("frechet", "kid", "coverage", "memorisation")
    found = score_samples(judge, train, digits, names)
    assert [score.name.split(",")[0] for score in found] == [*names, *names[-1:] * 3]
    of = Looks(judge, train, digits, train, conditional=False)
    assert [score.value for score in found] == [score.value for score in take(names, of)]
    assert f"({len(train):,} samples against {len(test)} of digits, test" in str(found[0])
    assert "some pixels, weights v1" in str(found[0])
    (itself,) = score_samples(judge, train, digits, ["frechet"], reference="train")
    assert itself.value == pytest.approx(0, abs=1e-6) and "digits, train" in itself.reference

    def classes(images):
        return 50 * np.eye(10)[np.arange(len(images)) % 10], features(images)

    (score,) = score_samples(Judge.of(classes, "x", "1"), test, digits, ["inception"])
    assert score.name.startswith("inception score") and score.value > 5


def test_what_a_judge_cannot_do_is_said(digits):
    test = digits.splits["test"]
    pixels = Judge.of(lambda images: images.reshape(len(images), -1), "pixels", "1")
    scores = partial(score_samples, pixels, test, digits)
    for names, words in {
        ("fid",): 'no metric "fid"; choose from frechet',
        ("recognised",): "classes were asked for",
        ("inception",): "needs a judge with logits, and pixels has none",
    }.items():
        with pytest.raises(UserError, match=words):
            scores(names)
    with pytest.raises(UserError, match="not its own"):
        scores(["recognised"], conditional=True)
    with pytest.raises(UserError, match="has no split 'val'; it has "):
        scores(reference="val")
    flat = lambda images: images.reshape(len(images), -1)  # noqa: E731
    for function, words in {
        (lambda images: images): r"gives \(256, 8, 8, 1\) for 256 examples",
        (lambda images: images[:1, 0, 0]): r"gives \(1, 1\) for 256 examples",
        (lambda images: [flat(images)[:1], flat(images)]): r"gives \(1, 64\) and \(256, 64\)",
        (lambda images: [flat(images)] * 3): r"gives \(256, 64\) and \(256, 64\) and ",
    }.items():
        with pytest.raises(UserError, match=words):
            Judge.of(function, "odd", "1").look(test)
    with pytest.raises(UserError, match="holds no examples"):
        pixels.look(test.take(np.arange(0)))
