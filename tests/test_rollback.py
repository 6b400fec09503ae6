"""Runs whose numbers are no longer finite: back to the last good state, and at most so often."""

import dataclasses
import os
import re
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from jaxnets.errors import UserError
from jaxnets.processes import distributed
from jaxnets.run.checkpoint import Checkpoints
from jaxnets.run.interruption import Interrupted
from jaxnets.run.log import read_records
from jaxnets.run.task import Ranking
from jaxnets.train import population
from small_runs import (
    MAKE,
    TOTAL,
    Crash,
    bits,
    crash,
    fit,
    images,
    nothing,
    poison,
    records,
    task,
)

#: The first term that an image of NaN spoils. (A ReLU that compares may lose it on its way to the
#: loss; the gradient has it.)
WHERE = {"classifier": "classifier's (loss|gradient)", "gan": "discriminator's (penalty|loss)"}


def first_key(kind):
    return MAKE[kind]()[0].key


def once(kind, at, **options):
    """A fault that the first random numbers lead to, and no others."""
    return poison(at, of_key=first_key(kind), **options)


def keys(state):
    return jax.random.key_data(state.key).tolist()


@pytest.fixture(autouse=True)
def saved(monkeypatch):
    """The steps that are saved; that a state which is not finite never is."""
    steps = []
    save = Checkpoints.save

    def watched(self, state, *args):
        for leaf in jax.tree.leaves(state.nets):
            assert jnp.isfinite(leaf).all(), f"step {int(state.step)}"
        steps.append(int(state.step))
        save(self, state, *args)

    monkeypatch.setattr(Checkpoints, "save", watched)
    return steps


@pytest.mark.parametrize(
    "kind,value", [("classifier", np.nan), pytest.param("gan", np.inf, marks=pytest.mark.slow)]
)
def test_a_run_goes_back_and_on_with_other_numbers(kind, value, tmp_path, capsys):
    fit(task(kind), tmp_path / "whole")
    capsys.readouterr()
    found = fit(task(kind, change=once(kind, 7, value=value)), tmp_path / "run")
    said = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(said) == 1
    assert re.fullmatch(
        rf"warning: the {WHERE[kind]} is not finite in step 8; going back to step 4 with other "
        r"random numbers \(attempt 1 of 3\)",
        said[0],
    )
    assert int(found.state.step) == TOTAL
    assert all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(found.state.nets))
    assert keys(found.state) == jax.random.key_data(jax.random.fold_in(first_key(kind), 1)).tolist()
    # The same up to there, other from there on; and each step stands in the file once, step 6 of
    # the branch that was given up not at all.
    a, b = (records(tmp_path / name, "train") for name in ("whole", "run"))
    assert [r["step"] for r in b] == [2, 4, 6, 8, 10]
    name = {"classifier": "loss", "gan": "d_loss"}[kind]
    same = [x[name] == y[name] for x, y in zip(a, b, strict=True)]
    assert same == [True, True, False, False, False]
    assert [r["step"] for r in records(tmp_path / "run", "eval")] == [10]
    assert not any("finite" in name for record in b for name in record)


def test_a_step_that_is_saved_and_not_finite_is_not_saved(saved, tmp_path):
    """Step 4 is due to be evaluated and saved in the very call that loses its numbers."""
    seen = []
    watched = task("classifier", change=once("classifier", 3))
    watched = dataclasses.replace(
        watched, evaluate=lambda s: seen.append(int(s.step)) or {"score": 0.0}
    )
    found = fit(watched, tmp_path, save_every=2, eval_every=2)
    assert int(found.state.step) == TOTAL
    assert saved == [2, 4, 6, 8, 10, 10]  # the last one is asked for twice
    assert seen == [2, 4, 6, 8, 10]


@pytest.mark.parametrize(
    "kind,tries",
    [("classifier", 2), pytest.param("gan", 1, marks=pytest.mark.slow), ("classifier", 0)],
)
def test_a_run_that_stays_lost_stops_and_says_where(kind, tries, tmp_path, capsys):
    with pytest.raises(UserError) as error:
        fit(task(kind, change=poison(4)), tmp_path, max_rollbacks=tries)
    attempts = {0: "", 1: ", and 1 attempt with other random numbers"}.get(
        tries, f", and {tries} attempts with other random numbers"
    )
    assert re.fullmatch(
        rf"training diverged: the {WHERE[kind]} is not finite in step 5{attempts}; lower the "
        r"learning rate, or clip gradients with --clip-norm, in a new run folder \(the newest "
        r"checkpoint is that of step 4\)",
        str(error.value),
    )
    said = [line for line in capsys.readouterr().err.splitlines() if "going back" in line]
    assert [f"attempt {i + 1} of {tries}" in line for i, line in enumerate(said)] == [True] * tries
    assert [r["step"] for r in records(tmp_path, "train")] == [2, 4]
    # The same command finds the same, and not a state that is beyond repair.
    with pytest.raises(UserError, match="not finite in step 5"):
        fit(task(kind, change=poison(4)), tmp_path, max_rollbacks=tries)


def test_each_attempt_has_random_numbers_of_its_own(tmp_path):
    """Two faults before any save: the second attempt does not repeat the first."""
    key = first_key("classifier")
    second = jax.random.fold_in(key, 1)

    def change(step):
        return poison(5, of_key=key)(poison(5, of_key=second)(step))

    found = fit(task("classifier", change=change), tmp_path)
    assert keys(found.state) == jax.random.key_data(jax.random.fold_in(key, 2)).tolist()


def test_a_run_without_a_checkpoint_goes_back_to_its_start(tmp_path, capsys):
    lost = task("classifier", change=once("classifier", 5), ranking=Ranking("score"))
    lost = dataclasses.replace(lost, evaluate=_scores([0.9, 0.8, 0.1, 0.2, 0.5, 0.4, 0.3]))
    found = fit(lost, tmp_path, save_every=0, eval_every=2, max_rollbacks=1)
    assert "going back to step 0" in capsys.readouterr().err
    assert int(found.state.step) == TOTAL
    assert [r["score"] for r in records(tmp_path, "eval")] == [0.1, 0.2, 0.5, 0.4, 0.3]
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        notes = checkpoints.restore(found.state)[1]
    # 0.9 was the score of a state that is no more.
    assert (notes["best"], notes["best_step"], notes["stale"]) == (0.5, 6, 2)
    assert notes["rollbacks"] == 1


def _scores(values):
    left = iter(values)
    return lambda state: {"score": next(left)}


def test_how_often_a_run_went_back_survives_a_crash(tmp_path):
    """Once before the crash, saved at step 8; a second time is one too many."""
    change = once("classifier", 5)

    def worse(step):
        return poison(9)(change(step))

    with pytest.raises(Crash):
        fit(task("classifier", change=change, at=8, fault=crash), tmp_path, max_rollbacks=1)
    with pytest.raises(UserError, match=r"in step 10, and 1 attempt with"):
        fit(task("classifier", change=worse), tmp_path, max_rollbacks=1)


@pytest.mark.parametrize("save_every", [4, 0])
def test_a_crash_right_after_going_back_changes_nothing(save_every, tmp_path, capsys):
    """What was decided and not saved yet is decided again, in the same way."""
    change = once("classifier", 5)
    options = {"save_every": save_every, "max_rollbacks": 1}
    whole = fit(task("classifier", change=change), tmp_path / "whole", **options)
    back_at = 4 if save_every else 0
    struck = task("classifier", change=change, at=back_at, faults=[nothing, crash])
    with pytest.raises(Crash):
        fit(struck, tmp_path / "cut", **options)
    capsys.readouterr()
    resumed = fit(task("classifier", change=change), tmp_path / "cut", **options)
    assert "attempt 1 of 1" in capsys.readouterr().err
    assert bits(resumed.state) == bits(whole.state)
    a, b = (records(tmp_path / name, "train") for name in ("whole", "cut"))
    assert [r["loss"] for r in a] == [r["loss"] for r in b]


def test_a_state_that_was_never_judged_is_judged_when_a_run_goes_back_to_it(tmp_path):
    """Saved by a signal in its evaluation; then evaluated, and gone back to."""
    rule = Ranking("score")

    def cut(state):
        os.kill(os.getpid(), signal.SIGTERM)
        distributed.pause()
        raise AssertionError("the signal cuts this off")

    first = dataclasses.replace(task("classifier", ranking=rule), evaluate=cut)
    with pytest.raises(Interrupted):
        fit(first, tmp_path, eval_every=4)
    scores = _scores([0.7, 0.7, 0.6, 0.5, 0.4])
    then = task("classifier", ranking=rule, change=once("classifier", 5))
    found = fit(dataclasses.replace(then, evaluate=scores), tmp_path, eval_every=4, keep_best=1)
    assert int(found.state.step) == TOTAL
    shown = [(r["step"], r["score"]) for r in records(tmp_path, "eval")]
    assert shown == [(4, 0.7), (8, 0.6), (10, 0.5)]
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.best_step() == 4
        notes = checkpoints.restore(found.state)[1]
    assert (notes["best"], notes["best_step"], notes["unevaluated"]) == (0.7, 4, False)


# ----------------------------------------------------------------------------- populations


def members_run(folder, *, lost=(), at=5, **options):
    """Two classifiers at once, those in `lost` with an image that is none from step `at` on."""
    state, step = tiny.classifier()

    def make_step(hypers):
        def one(state, batch):
            bad = (hypers["lost"] > 0) & (state.step >= at)
            return step(state, {**batch, "inputs": jnp.where(bad, jnp.nan, batch["inputs"])})

        return one

    split = images()
    states = [dataclasses.replace(state, key=jax.random.key(seed)) for seed in (3, 4)]
    names = ["seed-3", "seed-4"]
    whole = task(
        "classifier",
        init=lambda: population.population_state(
            states, {"lost": [float(name in lost) for name in names]}
        ),
        step=population.population_step(make_step, names),
        pipeline=population.make_population_pipeline([split] * 2, 16, (3, 4)),
    )
    return fit(whole, folder, **options)


def test_a_member_that_diverges_leaves_the_others_be(monkeypatch, tmp_path, capsys):
    monkeypatch.undo()  # its own state may be lost
    whole = members_run(tmp_path / "whole")
    capsys.readouterr()
    found = members_run(tmp_path / "run", lost=["seed-4"])
    said = [line for line in capsys.readouterr().err.splitlines() if "diverged" in line]
    assert len(said) == 1
    assert re.fullmatch(
        f"warning: step 6: seed-4 diverged: the {WHERE['classifier']} is not finite in step 6",
        said[0],
    )
    a, b = (population.member_state(of.state, 0) for of in (whole, found))
    assert bits(dataclasses.replace(a, extra={})) == bits(dataclasses.replace(b, extra={}))
    lost = population.member_state(found.state, 1).nets["classifier"].params
    assert not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(lost))
    last = read_records(tmp_path / "run" / "metrics.jsonl")[-2]
    assert last["step"] == TOTAL and last["grad_norm/seed-3"] > 0
    assert last["grad_norm/seed-4"] is None


def test_a_population_that_is_lost_as_a_whole_stops(monkeypatch, tmp_path):
    monkeypatch.undo()
    with pytest.raises(UserError, match="every member of the population diverged; lower the"):
        members_run(tmp_path, lost=["seed-3", "seed-4"])
    assert [r["step"] for r in records(tmp_path, "train")] == [2, 4]
