"""Mode collapse: what is measured of it at an evaluation, and when it is said."""

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

import tiny
from command_lines import run, summary
from jaxnets.commands import judging, populations
from jaxnets.commands.generate import Generate
from jaxnets.data import Split, make_pipeline
from jaxnets.devices import parallel
from jaxnets.errors import UserError
from jaxnets.run.guard import CollapseWatch, collapse_warnings
from jaxnets.run.loop import fit
from jaxnets.run.task import FitOptions, Task
from jaxnets.train.population import population_state
from small_runs import images

# --------------------------------------------------------------------- what is measured


def faithful(digits):
    """A generator of real images that it was not compared with, of the classes asked for."""
    train = digits.splits["train"]
    rng = np.random.default_rng(0)

    def make(labels):
        rows = [rng.choice(np.flatnonzero(train.target == c)) for c in labels]
        return Split(train.inputs[rows], labels)

    return make


def constant(digits):
    image = digits.splits["train"].inputs[:1]
    return lambda labels: Split(np.repeat(image, len(labels), axis=0), labels)


def one_for_each_class(digits):
    train = digits.splits["train"]
    rows = np.array([np.flatnonzero(train.target == c)[0] for c in range(10)])
    return lambda labels: Split(train.inputs[rows[labels]], labels)


def without_threes(digits):
    make = faithful(digits)
    return lambda labels: Split(make(np.where(labels == 3, 8, labels)).inputs, labels)


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("seen", ["judge", "pixels"])
def test_a_varied_generator_is_not_warned_of(seen, conditional, digits, judge):
    asked = judge if seen == "judge" else None
    found = judging.sample_numbers(asked, faithful(digits), digits, conditional)
    assert collapse_warnings(found) == {}
    if asked is None:
        assert set(found) == {"samples_pixel_spread"}
        assert found["samples_pixel_spread"] == pytest.approx(1, abs=0.1)
        return
    assert found["samples_spread"] == pytest.approx(1, abs=0.1)
    assert 0.7 < found["samples_least_class_share"] <= 1
    assert ("samples_recognised" in found) == conditional
    assert found.get("samples_recognised", 0.9) > 0.85
    assert found["frechet"] < 2 * found["frechet_floor"]


COLLAPSES = [
    (constant, True, {"mode collapse", "missing class"}),
    (constant, False, {"mode collapse", "missing class"}),
    (one_for_each_class, True, {"mode collapse"}),
    (without_threes, True, {"missing class"}),
    (without_threes, False, {"missing class"}),
]


@pytest.mark.parametrize("make,conditional,kinds", COLLAPSES)
def test_a_collapsed_generator_is_seen_by_a_cnn(make, conditional, kinds, digits, judge):
    found = judging.sample_numbers(judge, make(digits), digits, conditional)
    assert set(collapse_warnings(found)) == kinds
    if "mode collapse" in kinds:
        assert found["samples_spread"] == pytest.approx(0, abs=1e-9)
    if "missing class" in kinds:
        assert found["samples_least_class_share"] < 0.05
    text = " ".join(text for _, text in judging.rows({**found, "frechet_judge": "means"}))
    assert format(found["samples_spread"], ".2f") in text


@pytest.mark.parametrize("make,conditional", [(constant, False), (one_for_each_class, True)])
def test_a_collapsed_generator_is_seen_without_a_cnn(make, conditional, digits):
    found = judging.sample_numbers(None, make(digits), digits, conditional)
    assert found["samples_pixel_spread"] == pytest.approx(0, abs=1e-9)
    assert "pixel by pixel" in collapse_warnings(found)["mode collapse"]


def test_a_judge_of_other_classes_does_not_recognise(digits, judge):
    other = dataclasses.replace(judge, knows_classes=False)
    found = judging.sample_numbers(other, faithful(digits), digits, True)
    assert "samples_recognised" not in found and "samples_spread" in found


# ------------------------------------------------------------------------- what is said

WON = {"d_sign_real": 1.0, "d_sign_fake": -1.0}
BLIND = {"d_sign_real": -1.0, "d_sign_fake": -0.99}
WELL = {"d_sign_real": 0.6, "d_sign_fake": -0.7}


def test_what_is_not_known_says_nothing():
    names = ("d_sign_real", "samples_spread", "samples_pixel_spread", "samples_least_class_share")
    assert collapse_warnings({}) == collapse_warnings(dict.fromkeys(names, math.nan)) == {}
    assert collapse_warnings(WELL) == {}
    assert set(collapse_warnings(WON)) == {"discriminator wins"}
    assert set(collapse_warnings(BLIND)) == {"discriminator is blind"}


def test_nothing_is_said_of_a_gan_that_has_just_begun():
    watch = CollapseWatch(after_epochs=2.0, records=1)
    for values in (WON, {"samples_spread": 0.0}):
        assert watch({**values, "epoch": 1.9}) == {}
        assert watch({**values, "epoch": 2.0})


def test_training_must_say_it_more_than_once_and_an_evaluation_only_once():
    watch = CollapseWatch(after_epochs=0.0, records=3)
    said = [bool(watch(values)) for values in (WON, WON, WELL, WON, WON, BLIND, WON, WON)]
    assert not any(said)
    assert watch({"samples_spread": 0.1}) != {}  # and does not interrupt the count
    assert set(watch(WON)) == {"discriminator wins"}


def test_what_is_usual_is_not_said():
    watch = CollapseWatch(after_epochs=0.0, records=1, usual=["discriminator wins"])
    assert watch(WON) == {} and set(watch(BLIND)) == {"discriminator is blind"}


def test_of_a_population_the_member_is_named():
    watch = CollapseWatch(after_epochs=0.0, records=2)
    each = {"seed-0": WELL, "seed-1": WON}
    values = {f"{k}/{member}": v for member, own in each.items() for k, v in own.items()}
    values |= {k: (WELL[k] + WON[k]) / 2 for k in WON}
    assert watch(values) == {}
    ((kind, text),) = watch(values).items()
    assert kind == "seed-1: discriminator wins" and text.startswith("seed-1: the discriminator")
    assert list(watch({"samples_spread/seed-0": 0.9, "samples_spread/seed-1": 0.1})) == [
        "seed-1: mode collapse"
    ]


def test_the_loop_says_each_kind_once_and_when(tmp_path, capsys):
    state, step = tiny.classifier()
    spreads = iter([0.0, 0.0, 0.0, 0.0])
    task = Task(
        name="a GAN",
        init=lambda: state,
        step=step,
        pipeline=make_pipeline(images(32), 16),  # two steps an epoch
        total_steps=8,
        evaluate=lambda _: {"samples_spread": next(spreads)},
        warn=CollapseWatch(after_epochs=2.0),
    )
    fit(task, tmp_path, parallel.make_mesh(1), FitOptions(steps_per_call=2, eval_every=2))
    said = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(said) == 1 and said[0].startswith("warning: step 4: samples of a class differ by")


# ----------------------------------------------------------------------- of populations

TWO = Generate(seed=5, seeds=2)


def two_gans(*diverged):
    states = [tiny.gan()[0] for _ in range(2)]
    for i in diverged:
        nets = jax.tree.map(lambda leaf: leaf * np.float32(np.nan), states[i].nets["generator"].ema)
        generator = dataclasses.replace(states[i].nets["generator"], ema=nets)
        states[i] = dataclasses.replace(states[i], nets={**states[i].nets, "generator": generator})
    return population_state(states)


def measured(state, member):
    return {"frechet": 2.0 + member, "frechet_samples": 7, "frechet_judge": "it"}


def test_numbers_of_a_population():
    found = populations.numbers(TWO, two_gans(), measured)
    assert (found["frechet/seed-5"], found["frechet/seed-6"], found["frechet"]) == (2.0, 3.0, 2.5)
    assert found["frechet_samples"] == 7 and found["frechet_judge"] == "it"
    assert populations.shown(found, "frechet", ".2f") == "2.50 +- 0.71"


@pytest.mark.parametrize("gone", [0, 1])
def test_a_diverged_member_leaves_the_others_their_numbers_and_the_run_no_rank(gone):
    found = populations.numbers(TWO, two_gans(gone), measured)
    own = [found["frechet/seed-5"], found["frechet/seed-6"]]
    assert own[1 - gone] == 3.0 - gone and math.isnan(own[gone])
    assert math.isnan(found["frechet"]) and found["frechet_samples"] == 7
    shown = populations.shown(found, "frechet", ".1f")
    assert shown == f"{own[1 - gone]:.1f} +- 0.0 without seed-{5 + gone}, which diverged"


def test_members_that_diverged_do_not_count_in_what_is_shown():
    own = {"seed-5": 1.0, "seed-6": math.nan, "seed-7": 4.0, "seed-8": math.inf}
    found = {f"frechet/{name}": value for name, value in own.items()}
    found |= {"frechet": math.nan, "frechet_std": math.nan}
    shown = populations.shown(found, "frechet", ".2f")  # 3 / sqrt(2) = 2.12
    assert shown == "2.50 +- 2.12 without seed-6, seed-8, which diverged"


def test_a_population_without_a_member_left_stops():
    with pytest.raises(UserError, match="all 2 members have diverged"):
        populations.numbers(TWO, two_gans(0, 1), measured)


def test_a_number_that_is_not_known_is_shown_as_that():
    assert populations.shown({"samples_spread": math.nan}, "samples_spread", ".2f") == "not known"
    config: Any = SimpleNamespace(seed=0, seeds=1)
    assert populations.numbers(config, two_gans(), lambda state, member: {"a": 1.0}) == {"a": 1.0}


# ----------------------------------------------------------------------- in a real run


@pytest.mark.slow
@pytest.mark.parametrize("rate,collapses", [(5e-4, False), (0.5, True)])
def test_a_run_that_collapses_says_so_and_one_that_does_not_is_silent(
    rate, collapses, workplace, capsys
):
    flags = "--epochs 30 --log-every 20 --eval-every 0 --judge none --no-accuracy-score --devices 1"
    run("generate --data digits --run-dir gan", flags, ["--generator-learning-rate", str(rate)])
    said = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    spread = summary(workplace / "gan")["samples_pixel_spread"]
    if collapses:
        assert spread < 0.1 and any("mode collapse" in line for line in said)
    else:
        assert spread > 0.5 and not said
