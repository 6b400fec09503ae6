"""Which checkpoints are kept: the latest, and beside them the best."""

import json
import math

import numpy as np
import pytest

from checkpoint_cases import assert_same, state
from jaxnets.run.checkpoint import Checkpoints

NAN, INF = math.nan, math.inf


def on_disk(folder):
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal())


def save(folder, values, **options):
    """Saves steps 1, 2, ... with these values, and gives what is on disk after each."""
    kept = []
    with Checkpoints(folder, **options) as checkpoints:
        for step, value in enumerate(values, start=1):
            checkpoints.save(state(step), value=value)
            checkpoints.wait()
            kept.append(on_disk(folder))
            assert checkpoints.steps() == kept[-1]
            assert checkpoints.latest_step() == step
    return kept


@pytest.mark.parametrize("none", [NAN, INF, -INF, None])
@pytest.mark.parametrize("higher", [True, False])
def test_what_is_no_number_never_ranks(none, higher, tmp_path):
    options = {"keep": 1, "keep_best": 1, "higher_is_better": higher}
    assert save(tmp_path, [none, 0.5, none, none], **options)[-1] == [2, 4]
    assert json.loads((tmp_path / "4" / "manifest.json").read_text())["value"] is None
    with Checkpoints(tmp_path, **options) as checkpoints:  # nor in the next process
        assert checkpoints.best_step() == 2
        checkpoints.save(state(5), value=none)
    assert on_disk(tmp_path) == [2, 5]


@pytest.mark.parametrize("seed", range(3))
def test_what_is_kept_is_the_latest_and_the_best_of_all_there_were(seed, tmp_path):
    rng = np.random.default_rng(seed)
    keep, keep_best = int(rng.integers(1, 4)), int(rng.integers(0, 4))
    higher = bool(rng.integers(2))
    values = [float(v) for v in rng.choice([NAN, INF, 0.1, 0.2, 0.3, 0.4, 0.5], 7)]
    found = save(tmp_path, values, keep=keep, keep_best=keep_best, higher_is_better=higher)
    for last, kept in enumerate(found, start=1):
        finite = [s for s in range(1, last + 1) if math.isfinite(values[s - 1])]
        ranked = sorted(finite, key=lambda s: (-values[s - 1] if higher else values[s - 1], s))
        expected = {*range(max(1, last - keep + 1), last + 1), *ranked[:keep_best]}
        assert kept == sorted(expected), (values[:last], keep, keep_best, higher)


def test_what_would_be_kept_can_be_asked_before(tmp_path):
    with Checkpoints(tmp_path, keep=1, keep_best=2) as checkpoints:
        assert checkpoints.would_be_kept(0.1)
        assert not checkpoints.would_be_kept(NAN) and not checkpoints.would_be_kept(INF)
        for step, value in enumerate([0.5, 0.7], start=1):
            checkpoints.save(state(step), value=value)
        asked = {0.4: False, 0.5: False, 0.6: True, 0.8: True, NAN: False, -INF: False}
        assert {value: checkpoints.would_be_kept(value) for value in asked} == asked
    with Checkpoints(tmp_path, keep=1, keep_best=2, higher_is_better=False) as checkpoints:
        assert checkpoints.would_be_kept(0.6) and not checkpoints.would_be_kept(0.7)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        assert not checkpoints.would_be_kept(0.9)


def test_a_value_that_comes_later_ranks(tmp_path):
    with Checkpoints(tmp_path, keep=1, keep_best=1) as checkpoints:
        checkpoints.save(state(1), value=0.5)
        checkpoints.save(state(2))
        checkpoints.set_value(2, 0.6)
        assert checkpoints.best_step() == 2
    for value, best in ((NAN, 1), (0.6, 2)):
        with Checkpoints(tmp_path, keep=1, keep_best=1) as checkpoints:
            checkpoints.set_value(2, value)
            assert checkpoints.best_step() == best
        with Checkpoints(tmp_path, keep=1, keep_best=1) as checkpoints:
            assert checkpoints.best_step() == best
    with Checkpoints(tmp_path, keep=1, keep_best=1) as checkpoints:
        assert checkpoints.best_step() == 2
        assert_same(checkpoints.restore(state(), best=True)[0], state(2))
        checkpoints.save(state(3), value=0.1)
    assert on_disk(tmp_path) == [2, 3]


def test_a_value_that_was_tampered_with_does_not_rank(tmp_path):
    """Or a damaged checkpoint would drive out the best one that is good."""
    save(tmp_path, [0.5, 0.4], keep=2, keep_best=1)
    manifest = tmp_path / "2" / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "value": 9.4}))
    with Checkpoints(tmp_path, keep=1, keep_best=1) as checkpoints:
        assert checkpoints.best_step() == 1
        checkpoints.save(state(3), value=0.3)
    assert on_disk(tmp_path) == [1, 3]
