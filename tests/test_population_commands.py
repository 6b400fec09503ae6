"""`--seeds`: several networks in one program, each as its own run would train it."""

import json

import jax
import numpy as np
import pytest

from command_lines import CLASSIFY, GENERATE, TINY, assert_one_error, run, summary
from jaxnets import data
from jaxnets.commands import classify, populations
from jaxnets.commands.configs.classify import Classify, resolve
from jaxnets.commands.configs.constraints import Swept, constraints
from jaxnets.devices import parallel
from jaxnets.run.log import read_records

pytestmark = pytest.mark.usefixtures("workplace")

FEW = [*CLASSIFY, "--labels-per-class", "20"]


def test_a_member_is_the_run_with_its_seed(workplace, capsys):
    longer = [*FEW, "--epochs", "0.4"]  # of 200 images: 5 steps
    run(longer, "--seed 3 --seeds 2 --run-dir both")
    shown = capsys.readouterr()
    assert "lenet5 on digits, 2 seeds" in shown.out and " +- " in shown.out
    run(longer, "--seed 4 --run-dir one")
    both, one = summary(workplace / "both"), summary(workplace / "one")
    assert both["test_loss/seed-4"] == pytest.approx(one["test_loss"], rel=1e-4)
    values = [both["test_loss/seed-3"], both["test_loss/seed-4"]]
    assert abs(values[0] - values[1]) > 1e-3
    assert both["test_loss"] == pytest.approx(np.mean(values))
    assert both["test_loss_std"] == pytest.approx(np.std(values, ddof=1))
    ends = [read_records(workplace / name / "metrics.jsonl")[-2] for name in ("both", "one")]
    assert ends[0]["split"] == "train" and ends[0]["step"] == ends[1]["step"] == both["step"]
    assert ends[0]["loss/seed-4"] == pytest.approx(ends[1]["loss"], rel=1e-4)
    assert ends[0]["epoch"] == ends[1]["epoch"]
    capsys.readouterr()
    run("evaluate both")
    again = json.loads(capsys.readouterr().out)
    assert again["test_loss/seed-3"] == pytest.approx(both["test_loss/seed-3"])


@pytest.mark.slow
def test_a_population_of_gans(cli, workplace):
    run(GENERATE, "--penalty none --seeds 2 --run-dir gans")
    pictures = workplace / "gans" / "samples"
    names = ("seed-0", "seed-1")
    previews = [(pictures / name / "step-0000004.png").read_bytes() for name in names]
    assert previews[0] != previews[1]
    for member in (0, 1):
        run(f"sample gans --count 2 --member {member} --out member-{member}")
    with np.load("member-0.npz") as first, np.load("member-1.npz") as second:
        assert not np.array_equal(first["images"], second["images"])
    wrong = cli("sample", "gans", "--member", 2)
    assert_one_error(wrong, "no member 'seed-2'; it has seed-0, seed-1")


@pytest.mark.slow
def test_a_sweep_shows_its_best_member_and_each_can_be_sampled(cli, workplace, runs):
    run(GENERATE, "--sweep gamma=100,0.1 --run-dir gans", ["--judge", str(runs["classify"])])
    found = summary(workplace / "gans")
    names = ("penalty_weight=100", "penalty_weight=0.1")
    best = min(names, key=lambda name: found[f"frechet/{name}"])
    page = (workplace / "gans" / "report.html").read_text()
    assert f"The report shows {best}, which has the least Frechet distance" in page
    for name in ("gamma=100", "gamma=0.10"):
        run(f"sample gans --count 2 --member {name} --out {name}")
    with np.load("gamma=100.npz") as first, np.load("gamma=0.10.npz") as second:
        assert not np.array_equal(first["images"], second["images"])
    code, out, err = cli("evaluate", "gans", "--no-accuracy-score", "--metrics", "kid")
    assert code == 0 and f"{best} has" not in err and "has the least Frechet distance" in err
    assert [score["member"] for score in json.loads(out)["scores"]] == list(names)
    assert_one_error(cli("sample", "gans", "--member", "gamma=3"), "no member 'penalty_weight=3'")


@pytest.mark.slow
def test_a_population_is_judged_by_a_population(workplace):
    run(FEW, "--seeds 2 --run-dir judges")
    flags = "--width 0.1 --penalty none --labels-per-class 4 --epochs 0.5 --score-epochs 1"
    run("generate", TINY, flags, "--seeds 2 --judge judges --run-dir judged")
    found = summary(workplace / "judged")
    for name in ("frechet", "classification_accuracy_score"):
        each = found[f"{name}/seed-0"], found[f"{name}/seed-1"]
        assert found[name] == pytest.approx(np.mean(each))
        assert found[f"{name}_std"] == pytest.approx(np.std(each, ddof=1))
    assert found["frechet_samples"] == 180 and "frechet_samples_std" not in found
    assert (workplace / "judged" / "accuracy_score" / "seed-1").is_dir()


#: Field of `classify` -> a number that changes what two steps leave, where 0.5 does not.
SWEPT = {"weight_decay": 2.0, "clip_norm": 0.01, "focal_gamma": 4.0, "gan_learning_rate": 1e-3}

#: Field of `classify` -> what it needs.
_FEW = {"labels_per_class": 5, "batch_size": 8}
_PSEUDO, _GAN = {"few_labels": "pseudo", **_FEW}, {"few_labels": "gan", **_FEW}
NEEDED = {
    "focal_gamma": {"loss": "focal"},
    "threshold": _PSEUDO,
    "unlabelled_weight": {**_PSEUDO, "threshold": 0.05},
    **dict.fromkeys(("adversarial_weight", "entropy_weight", "gan_learning_rate"), _GAN),
}


@pytest.mark.parametrize("field", [name for name, _ in constraints(Classify, Swept)])
def test_a_classifier_of_a_sweep_is_the_run_with_its_value(field):
    flags = {"data": "digits", "network": "lenet5", "warmup": 0, **NEEDED.get(field, {})}
    dataset = data.load("digits")

    def trained(**swept):
        config = resolve(Classify(**flags, **swept))
        task = classify.build(config, dataset, parallel.make_mesh(1)).task
        state, step, source = task.init(), jax.jit(task.step), jax.device_put(task.pipeline.source)
        for i in range(2):
            feed = jax.tree.map(lambda leaf: leaf[0], task.pipeline.feed(i, 1))
            state, _ = step(state, task.pipeline.fetch(source, feed))
        return [
            jax.tree.leaves([(net.params, net.ema) for net in member.nets.values()])
            for member in populations.members(config, state)
        ]

    value = SWEPT.get(field, 0.5)
    other, member = trained(sweep=f"{field}={value / 4},{value}")
    (alone,) = trained(**{field: value})
    for a, b in zip(member, alone, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert max(np.abs(a - b).max() for a, b in zip(member, other, strict=True)) > 1e-4


def test_a_sweep_of_classifiers_says_which_value_is_the_best(cli, capsys):
    swept = [*FEW, "--sweep", "learning_rate=0.2,1e-9", "--epochs", "2", "--run-dir", "cnn"]
    run(swept, "--seeds 2 --validation-fraction 0.2")
    shown = capsys.readouterr().out
    assert "learning_rate  validation accuracy  test accuracy" in shown and "1e-09 " in shown
    assert "learning_rate = 0.2 has the greatest validation accuracy" in shown
    assert "chosen by test" not in shown and "The report shows learning_rate=0.2,seed-" in shown
    for command in ("report", "evaluate"):
        code, out, err = cli(command, "cnn")
        assert code == 0 and "learning_rate = 0.2 has the greatest validation" in out + err
    assert_one_error(cli("predict", "cnn", "x.png", "--member", "momentum=1"), "has no member")
    assert_one_error(cli(*FEW, "--sweep", "width=1,2"), "choose from", "learning_rate", "mixup")


def test_a_seed_that_no_member_has_names_none():
    assert populations.name_of("4") not in populations.names(Classify(seed=5, seeds=4))
