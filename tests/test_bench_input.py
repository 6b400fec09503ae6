"""The benchmark of the pipelines: what they deliver is what the step would be fed."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.benchmarks import input_rate
from jaxnets import data
from jaxnets.devices import parallel
from jaxnets.errors import UserError


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


def test_images_that_are_not_square_are_one_sentence(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(5):
            pixels = np.full((6, 9), 40 * i, np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    config = input_rate.Input(data=f"folder:{tmp_path}", batch_size=4, devices=1)
    with pytest.raises(UserError, match=r"are 6x9.*add --image-size 6"):
        input_rate.run(config)
    with pytest.raises(UserError, match="--calls must be at least 1, got 0"):
        input_rate.run(input_rate.Input(calls=0))
