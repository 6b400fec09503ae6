"""Every experiment through its command, at the smallest size that still goes all the way."""

import json

import numpy as np
import pytest

from command_lines import CLASSIFY, GENERATE, TINY, assert_one_error, run, summary

pytestmark = pytest.mark.usefixtures("workplace")


@pytest.mark.slow
def test_quickstart_shows_what_the_networks_do_for_each_other(workplace, capsys):
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
    assert page.count("<svg") == 4
    assert "data:image/png" in page
    assert "Confusion matrix" in page
    assert "trained on samples only" in capsys.readouterr().out
    run(line)  # finished: it only evaluates again
    assert {k: v for k, v in summary(workplace / "q").items() if k != "seconds"} == {
        k: v for k, v in first.items() if k != "seconds"
    }


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
    assert (workplace / "gan" / "samples" / "beside-real.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "flags",
    [
        "--no-conditional --loss wasserstein --penalty wgan_gp --penalty-every 3 "
        "--discriminator-steps 2",
        pytest.param(
            "--discriminator lenet5 --loss relativistic --penalty r2 --augment translation,cutout",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_choices_of_a_gan(flags, workplace):
    run(GENERATE, f"--epochs 0.03 {flags} --run-dir gan")
    run("sample gan --count 3 --truncation 0.5")
    with np.load(workplace / "gan" / "samples" / "sample-all-seed-0.npz") as arrays:
        assert arrays["images"].shape == (3, 8, 8, 1)
        assert ("labels" in arrays) == ("--no-conditional" not in flags)


def test_a_generator_meets_the_discriminator_of_its_family():
    from experiments import generate
    from jaxnets.models import GENERATORS

    for family in GENERATORS:
        for asked, expected in ((None, family), ("lenet5", "lenet5")):
            config = generate.Generate(data="digits", generator=family, discriminator=asked)
            assert generate.resolve(config).discriminator == expected


@pytest.mark.slow
@pytest.mark.parametrize("family", ["r3gan", "sngan"])
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
        "--loss focal --balance-classes --crop-padding 1 --cutout 3 --mixup 0.4 --dropout 0.2 "
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
    from experiments import classify, reproduce

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


def test_a_run_does_not_go_on_with_other_images(cli, workplace):
    run(CLASSIFY, "--run-dir cnn")
    path = workplace / "cnn" / "config.json"
    text = json.loads(path.read_text())
    text["config"]["data_fingerprint"] = "0" * 16
    path.write_text(json.dumps(text))
    again = cli(*CLASSIFY, "--run-dir", "cnn")
    assert_one_error(again, "data_fingerprint (there '0000000000000000'")
