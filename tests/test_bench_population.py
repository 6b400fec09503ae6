"""The population's benchmark, at its smallest."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments.benchmarks import population

TINY = population.Population(
    kinds=("classifier",),
    members=2,
    width=0.2,
    batch_size=4,
    image_size=12,
    steps_per_call=2,
    min_seconds=0.001,
    rounds=2,
)


@pytest.mark.slow
def test_both_ways_are_timed_in_every_round(tmp_path):
    config = dataclasses.replace(TINY, json=tmp_path / "out.json")
    found = population.run(config)
    assert found == json.loads((tmp_path / "out.json").read_text())
    (result,) = found["results"]
    assert len(result["seconds_together"]) == len(result["seconds_in_turn"]) == 2
    assert 0 < result["least_ratio"] <= result["greatest_ratio"]
    middle = np.median(result["seconds_in_turn"]) / np.median(result["seconds_together"])
    assert result["ratio"] == pytest.approx(middle)
    assert found["members"] == 2 and found["machine"]["backend"] == jax.default_backend()
