"""The benchmark of the pipelines: what they deliver is what the step would be fed."""

import json

import jax
import numpy as np
import pytest

from experiments.benchmarks import input_rate
from jaxnets import data
from jaxnets.devices import parallel


def test_rates_and_ratios(tmp_path):
    found = input_rate.run(
        input_rate.Input(
            data="digits",
            network="lenet5",
            width=0.5,
            batch_size=16,
            steps_per_call=2,
            devices=1,
            calls=2,
            rounds=2,
            json=tmp_path / "out.json",
        )
    )
    assert found == json.loads((tmp_path / "out.json").read_text())
    assert found["image_shape"] == [8, 8, 1]
    for name in ("resident", "streaming"):
        part = found[name]
        assert part["host_images_per_second"] > 0 and len(part["ratios"]) == 2
        expected = part["images_per_second"] / found["step_images_per_second"]
        assert part["ratio"] == pytest.approx(expected)


def test_what_is_delivered_lies_on_the_devices_in_order():
    train = data.load("digits").splits["train"]
    config = input_rate.Input(data="digits", batch_size=16, steps_per_call=3)
    pipeline = data.ResidentPipeline(train, 16, 0)
    deliver = input_rate._deliver(
        pipeline, input_rate._feed(config, pipeline), parallel.make_mesh(4)
    )
    for first in (0, 3):
        batch = deliver()
        assert len(batch["inputs"].sharding.device_set) == 4
        rows = pipeline.order.indices(first, 3)
        np.testing.assert_array_equal(batch["inputs"], data.normalise(train.inputs[rows]))
        np.testing.assert_array_equal(jax.device_get(batch["target"]), train.target[rows])
