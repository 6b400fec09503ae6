"""The benchmark of the scores of samples, at its smallest."""

import json

import pytest

from experiments.benchmarks import scores
from jaxnets.commands import memory
from jaxnets.judge.scoring import METRICS


@pytest.mark.slow
def test_every_score_is_timed_twice(tmp_path):
    before = memory.process_peak()
    out = tmp_path / "out.json"
    found = scores.run(scores.Scores(data="digits", samples=60, devices=2, json=out))
    assert found == json.loads(out.read_text())
    for way in (found["first"], found["second"]):
        assert set(METRICS) < set(way) and all(seconds >= 0 for seconds in way.values())
        assert way["all"] == pytest.approx(sum(way.values()) - way["all"], abs=0.01)
    assert found["samples"] == 60 and found["real"] == 359 and found["features"] > 8
    assert before <= found["peak_bytes"] < 1 << 40
    assert memory.process_peak() > 50 << 20
