"""Every experiment through its command, at the smallest size that still goes all the way."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from command_lines import CLASSIFY, GENERATE, TINY, assert_one_error, run, summary
from jaxnets.commands import common, judging, scoring
from jaxnets.commands.configs.generate import Generate
from jaxnets.run.log import read_records

pytestmark = pytest.mark.usefixtures("workplace")


@pytest.mark.slow
def test_quickstart_shows_what_the_networks_do_for_each_other(workplace, capsys, cli):
    line = "quickstart --cnn-steps 4 --gan-steps 4 --devices 2 --run-dir q"
    run(line)
    first = summary(workplace / "q")
    shares = (
        "test_accuracy",
        "samples_recognised",
        "classification_accuracy_score",
        "few_labels_accuracy",
        "few_labels_and_samples_accuracy",
    )
    assert all(0 <= first[name] <= 1 for name in shares)
    assert 0 < first["frechet_floor"] < first["frechet_ceiling"]
    assert first["frechet_samples"] == 719
    page = (workplace / "q" / "report.html").read_text()
    assert page.count("<svg") == 3
    assert "data:image/png" in page
    assert "Confusion matrix" in page
    assert "trained on samples only" in capsys.readouterr().out
    run(line)  # finished: it only evaluates again
    assert {k: v for k, v in summary(workplace / "q").items() if k != "seconds"} == {
        k: v for k, v in first.items() if k != "seconds"
    }
    run("list --runs .")
    assert f"q  quickstart, test_accuracy {first['test_accuracy']:.4g}" in capsys.readouterr().out
    # Its networks are runs as any, but for those of images that are no data set's.
    run("sample q/gan --class-label 3 --count 4 --out made")
    assert len(np.load(workplace / "made.npz")["images"]) == 4
    capsys.readouterr()
    run("evaluate q/cnn")
    assert json.loads(capsys.readouterr().out)["test_accuracy"] == first["test_accuracy"]
    run("evaluate q/gan --judge q/cnn --metrics recognised --samples 20")
    found = json.loads(capsys.readouterr().out)
    assert found["frechet_judge"].rpartition(" ")[2] == first["frechet_judge"].rpartition(" ")[2]
    assert_one_error(cli("sample", "q/gan-few-labels"), "it has no config.json")


@pytest.mark.slow
def test_a_gan_is_judged_by_a_cnn_and_teaches_one(workplace):
    run(CLASSIFY, "--run-dir cnn")
    run(
        "generate",
        TINY,
        "--width 0.1 --labels-per-class 4 --epochs 0.5 --score-epochs 1 --judge cnn --run-dir gan",
    )
    found = summary(workplace / "gan")
    assert 0 <= found["classification_accuracy_score"] <= 1
    assert 0 < found["frechet_floor"] < found["frechet"]
    assert found["frechet_judge"].startswith("lenet5 trained on digits, weights ")
    assert found["frechet_reference"].startswith("digits, test, ")
    assert (workplace / "gan" / "samples" / "report-samples.png").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        "--no-conditional --loss wasserstein --penalty wgan_gp --penalty-every 3 "
        "--discriminator-steps 2",
        "--discriminator lenet5 --loss relativistic --penalty r2 --augment translation,cutout",
    ],
)
def test_choices_of_a_gan(flags, workplace):
    run(GENERATE, f"--epochs 0.03 {flags} --run-dir gan")
    run("sample gan --count 3 --truncation 0.5")
    with np.load(workplace / "gan" / "samples" / "sample-all-seed-0.npz") as arrays:
        assert arrays["images"].shape == (3, 8, 8, 1)
        assert ("labels" in arrays) == ("--no-conditional" not in flags)


def test_a_generator_meets_the_discriminator_of_its_family():
    from jaxnets.commands import generate
    from jaxnets.models import GENERATORS

    for family in GENERATORS:
        for asked, expected in ((None, family), ("lenet5", "lenet5")):
            config = generate.Generate(data="digits", generator=family, discriminator=asked)
            assert generate.resolve(config).discriminator == expected


@pytest.mark.slow
@pytest.mark.parametrize("family", ["r3gan", "sngan", "stylegan2"])
def test_a_family_through_the_commands(family, workplace):
    flags = f"--generator {family} --loss relativistic --penalty r1 --width 0.05 --run-dir gan"
    run(GENERATE, "--epochs 0.03", flags)
    run("sample gan --count 3")
    with np.load(workplace / "gan" / "samples" / "sample-all-seed-0.npz") as arrays:
        assert arrays["images"].shape == (3, 8, 8, 1)
    config = json.loads((workplace / "gan" / "config.json").read_text())["config"]
    assert config["discriminator"] == family


def test_choices_of_a_classifier(workplace):
    run(
        "classify",
        TINY,
        "--network lenet5 --optimizer adam --schedule cosine --warmup 0.1 "
        "--loss focal --balance weights --crop-padding 1 --cutout 3 --mixup 0.4 --dropout 0.2 "
        "--micro-batches 2 --dtype bfloat16 --validation-fraction 0.2 --patience 1 "
        "--eval-every 0.02 --memory-budget-mb 0 --run-dir cnn",
    )
    found = summary(workplace / "cnn")
    assert {"test_accuracy", "validation_accuracy", "validation_loss"} <= set(found)
    assert json.loads((workplace / "cnn" / "config.json").read_text())["config"]["width"] == 1.0


def test_pmap_through_the_command(workplace):
    flags = "--network lenet5 --width 0.5 --mode pmap --devices 4"
    run(f"classify --data digits --batch-size 16 --epochs 0.05 {flags} --run-dir cnn")
    assert summary(workplace / "cnn")["step"] == 4


def test_reproduce_gives_mean_and_spread(workplace, monkeypatch):
    from experiments import reproduce
    from jaxnets.commands import classify

    base = classify.Classify(
        data="digits", devices=1, network="lenet5", width=0.5, epochs=0.05, batch_size=16
    )
    monkeypatch.setitem(reproduce.RESULTS, "tiny", (base, classify.run))
    for _ in range(2):
        run("reproduce tiny --seeds 2 --out tiny.json")
        found = json.loads((workplace / "tiny.json").read_text())
        accuracies = [one["test_accuracy"] for one in found["runs"]]
        assert len(accuracies) == 2
        assert found["numbers"]["test_accuracy"]["mean"] == pytest.approx(np.mean(accuracies))
        assert found["numbers"]["test_accuracy"]["std"] == pytest.approx(np.std(accuracies, ddof=1))
    assert (workplace / "runs" / "reproduce-tiny" / "seed-1" / "report.html").exists()


def test_a_run_names_the_images_that_have_changed(cli, workplace):
    images = workplace / "images"
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (images / name).mkdir(parents=True)
        for i in range(5):
            pixels = rng.integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(pixels).save(images / name / f"{i}.png")
    line = [*CLASSIFY, "--data", f"folder:{images}", "--batch-size", 8, "--run-dir", "cnn"]
    assert cli(*line)[0] == 0
    for path in images.rglob("*.png"):
        os.utime(path, (1, 1))
    assert cli(*line)[0] == 0  # a new date is no change
    code, _, err = cli("evaluate", "cnn")
    assert code == 0 and "warning" not in err
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(images / "cat" / "3.png")
    (images / "dog" / "1.png").rename(images / "dog" / "7.png")
    changed = "3 files differ (cat/3.png changed, dog/1.png removed, dog/7.png added)"
    assert_one_error(cli(*line), f"the images of folder:{images}", "that cnn began with", changed)
    code, _, err = cli("evaluate", "cnn")
    assert (
        code == 0
        and f"warning: these are not the images that cnn was trained with: {changed}" in err
    )
    # Other images on purpose are another matter, and so is a run whose listing is lost.
    other = cli(*line, "--channels", 3)
    assert_one_error(other, "another configuration", "channels (there None, asked 3)")
    (workplace / "cnn" / "data_files.json.gz").unlink()
    assert_one_error(cli(*line), f"the images of folder:{images}", "their fingerprint was ")


@pytest.mark.parametrize(
    "best_by,best", [("frechet", 4), pytest.param("recall", 6, marks=pytest.mark.slow)]
)
def test_the_best_gan_is_that_of_the_least_distance_or_the_greatest_recall(
    best_by, best, cli, runs, workplace, monkeypatch
):
    values = iter([3.0, 1.0, float("nan"), 2.0, 2.0, 7.0, 8.0])
    if best_by == "recall":
        values = iter([0.3, float("nan"), 0.5, 0.1, 0.2, 0.2, 0.2])
    rest = {"frechet_floor": 0.0, "frechet_ceiling": 9.0, "frechet_samples": 180}
    number = scoring.number_name(best_by)

    def found(*_):
        return {"frechet": 1.0, number: next(values), **rest}

    monkeypatch.setattr(judging, "frechet_numbers", found)
    monkeypatch.setattr(scoring, "numbers", lambda *_: {})
    run(
        [*GENERATE, "--judge", str(runs["classify"]), "--run-dir", "gan"],
        "--epochs 0.1 --eval-every 0.02 --save-every 0 --keep 1 --keep-best 1",
        f"--metrics recall --best-by {best_by}",
    )
    records = read_records(workplace / "gan" / "metrics.jsonl")
    judged = [r[number] for r in records if r["split"] == "eval"]
    if best_by == "frechet":
        assert judged == [3.0, 1.0, None, 2.0, 2.0]
        assert summary(workplace / "gan")["frechet"] == 7.0  # of the last state
    code, out, err = cli("evaluate", "gan", "--no-accuracy-score")
    assert code == 0 and json.loads(out)["step"] == best, err
    for name in ("best", "last"):
        run(f"sample gan --count 2 --out {name}")
        shutil.rmtree(workplace / "gan" / "checkpoints" / str(best), ignore_errors=True)
    with np.load("best.npz") as best, np.load("last.npz") as last:
        assert not np.array_equal(best["images"], last["images"])


def test_what_a_judge_cannot_rank_by_is_said_before_training(cli, runs, workplace, monkeypatch):
    load = judging.load_judge
    strange = lambda *args: dataclasses.replace(load(*args), knows_classes=False)  # noqa: E731
    monkeypatch.setattr(judging, "load_judge", strange)
    line = [*GENERATE, "--judge", str(runs["classify"]), "--run-dir", "gan", "--metrics", "all"]
    assert_one_error(cli(*line, "--best-by", "recognised", "--keep-best", 1), "not its own")
    assert not (workplace / "gan").exists()


def test_a_class_without_training_images_is_named(cli, workplace, monkeypatch):
    whole = common.load_data(Generate(), "digits")
    train = whole.splits["train"]
    splits = {**whole.splits, "train": train.take(np.flatnonzero(train.target != 7))}
    partly = dataclasses.replace(whole, splits=splits)
    monkeypatch.setattr(common, "load_data", lambda *_, **__: partly)
    assert_one_error(cli(*GENERATE, "--run-dir", "gan"), "no training image of 7,")
    assert not (workplace / "gan").exists()
    run(GENERATE, "--no-conditional --run-dir gan")


def test_what_a_cnn_says_of_a_gans_variety_is_kept(runs, workplace):
    run([*GENERATE, "--judge", str(runs["classify"]), "--run-dir", "gan"])
    names = {"samples_recognised", "samples_least_class_share", "samples_spread"}
    (judged,) = [
        r for r in read_records(workplace / "gan" / "metrics.jsonl") if r["split"] == "eval"
    ]
    found = summary(workplace / "gan")
    for name in names:
        assert judged[name] == pytest.approx(found[name]) and found[name] >= 0
    page = (workplace / "gan" / "report.html").read_text()
    assert "how far samples of a class lie apart" in page and "scarcest class" in page
    alone = summary(runs["generate"])
    assert alone["samples_pixel_spread"] >= 0 and not names & set(alone)
