"""Time to accuracy: the clock, the summary, and that both sides train alike.

What needs PyTorch is skipped without it: `pip install "jaxnets[bench]"` brings it.
"""

import dataclasses
import json

import numpy as np
import pytest

from experiments.benchmarks import time_to_accuracy
from experiments.benchmarks.own_training import OwnTraining
from experiments.benchmarks.time_to_accuracy import TimeToAccuracy
from jaxnets import data, ops
from jaxnets.commands import classify, common
from jaxnets.commands.configs.classify import Classify, resolve
from jaxnets.devices import parallel


class Clocked:
    """A training with given accuracies, on a clock of its own: 2 s a step, 100 s an evaluation."""

    def __init__(self, accuracies, monkeypatch):
        self.now, self.step, self.accuracies = 0.0, 0, list(accuracies)
        monkeypatch.setattr(time_to_accuracy.time, "perf_counter", lambda: self.now)

    def warm_up(self):
        self.now += 30
        return 30.0

    def advance(self, first, last):
        assert first == self.step < last
        self.step = last
        self.now += 2 * (last - first)

    def accuracy(self):
        self.now += 100
        return self.accuracies.pop(0)


def test_the_clock_stops_at_the_target(monkeypatch):
    training = Clocked([0.5, 0.9, 0.95], monkeypatch)
    found = time_to_accuracy.to_accuracy(training, 0.9, 30, 7.5, steps_per_call=4)
    assert [one["step"] for one in found["epochs"]] == [8, 16]  # ends of calls
    assert [one["seconds"] for one in found["epochs"]] == [16, 32]
    assert [one["evaluation_seconds"] for one in found["epochs"]] == [100, 100]
    assert found["seconds_to_target"] == found["train_seconds"] == 32
    assert found["seconds_to_target_with_compile"] == 62
    assert (found["final_accuracy"], found["steps"]) == (0.9, 16)


def test_a_training_that_never_gets_there_is_kept_as_such(monkeypatch):
    training = Clocked([0.5, 0.6, 0.7, 0.8], monkeypatch)
    found = time_to_accuracy.to_accuracy(training, 0.9, 30, 7.5, steps_per_call=4)
    assert [one["step"] for one in found["epochs"]] == [8, 16, 24, 30]
    assert found["seconds_to_target"] is found["seconds_to_target_with_compile"] is None
    assert (found["final_accuracy"], found["train_seconds"]) == (0.8, 60)


def training(side, seed, seconds, reached=True, steps=10):
    return {
        "side": side,
        "seed": seed,
        "compile_seconds": 4.0,
        "train_seconds": seconds,
        "steps": steps,
        "final_accuracy": 0.9,
        "seconds_to_target": seconds if reached else None,
        "seconds_to_target_with_compile": seconds + 4.0 if reached else None,
    }


def test_the_summary_pairs_seeds():
    rows = [training("jaxnets", 0, 10.0), training("torch", 0, 20.0)]
    rows += [training("jaxnets", 1, 30.0), training("torch", 1, 40.0, reached=False)]
    rows += [training("jaxnets", 2, 90.0)]  # its rival has not run yet
    found = time_to_accuracy.summary(rows)
    assert found["jaxnets"]["reached"] == found["jaxnets"]["trainings"] == 3
    assert (found["torch"]["reached"], found["torch"]["trainings"]) == (1, 2)
    assert found["torch"]["seconds_to_target"]["mean"] == 20
    assert found["ratio"]["seconds_to_target"] == {"mean": 0.5, "std": 0, "min": 0.5, "max": 0.5}
    assert found["ratio"]["seconds_to_target_with_compile"]["mean"] == 14 / 24
    assert found["ratio"]["seconds_a_step"]["mean"] == pytest.approx((0.5 + 0.75) / 2)
    none = time_to_accuracy.summary([training("jaxnets", 0, 1.0, reached=False)])
    assert none["torch"]["seconds_to_target"] is none["ratio"]["seconds_to_target"] is None


def test_augmentation_shifts_mirrors_and_reflects():
    torch = pytest.importorskip("torch")
    from experiments.benchmarks.torch_training import augmented

    torch.manual_seed(0)
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 6, 2), np.uint8)
    padded = torch.from_numpy(np.pad(images, [(0, 0), (2, 2), (2, 2), (0, 0)], "reflect"))
    rows = np.arange(600) % 3
    found = augmented(padded, torch.from_numpy(rows), 2, flip=True)
    found = found.permute(0, 2, 3, 1).numpy()
    seen = set()
    for row, image in zip(rows, found, strict=True):
        candidates = {
            (down, across, flip): padded[row, down : down + 5, across : across + 6].numpy()[
                :, :: -1 if flip else 1
            ]
            for down in range(5)
            for across in range(5)
            for flip in (False, True)
        }
        matches = [
            key for key, one in candidates.items() if np.abs(one / 127.5 - 1 - image).max() < 1e-6
        ]
        assert len(matches) == 1
        seen.update(matches)
    assert len(seen) == 50


def test_both_sides_make_the_same_steps():
    """Without augmentation, whose random numbers differ, every weight and average is the same."""
    torch = pytest.importorskip("torch")
    from experiments.benchmarks.torch_networks import make_twin
    from experiments.benchmarks.torch_steps import FORMS
    from experiments.benchmarks.torch_training import TorchTraining

    recipe = resolve(
        Classify(
            data="digits",
            width=0.0625,
            epochs=0.1,
            batch_size=16,
            crop_padding=0,
            flip=False,
            steps_per_call=3,
        )
    )
    mesh = parallel.make_mesh(1)
    digits = common.load_data(recipe, recipe.data)
    # Noise, for in digits most windows of max-pooling hold equal pixels: there we share the
    # gradient among them and torch sends it to the first, and both are right.
    rng = np.random.default_rng(0)
    train, test = digits.splits["train"], digits.splits["test"]
    train = data.Split(rng.integers(0, 256, train.inputs.shape, np.uint8), train.target)
    dataset = dataclasses.replace(digits, splits={"train": train, "test": test})
    built = classify.build(recipe, dataset, mesh)
    theirs = TorchTraining(recipe, built, test, FORMS["channels_last"], torch.device("cpu"))
    theirs.warm_up()  # leaves no trace
    theirs.advance(0, 4)
    theirs.advance(4, 9)
    ours = OwnTraining(recipe, built, dataset, mesh)
    with ops.plain_convolutions():  # compile faster
        ours.advance(0, built.task.total_steps)

    def difference(variables, module):
        twin = make_twin(built.model, variables, train.inputs.shape[1:])
        pairs = zip(twin.parameters(), module.parameters(), strict=True)
        return max(float((a - b).detach().abs().max() / a.detach().abs().max()) for a, b in pairs)

    net = ours.state.nets["classifier"]
    assert int(ours.state.step) == theirs.recipe.made == 9
    assert difference(net.variables, theirs.model) < 1e-4
    assert difference(net.averaged, theirs.recipe.average) < 1e-4
    assert difference(net.averaged, theirs.model) > 0.01  # it is a comparison that can fail
    assert theirs.accuracy() == pytest.approx(ours.accuracy(), abs=1e-3)


def test_the_command_on_digits(tmp_path, capsys):
    pytest.importorskip("torch")
    config = TimeToAccuracy(
        data="digits",
        width=0.0625,
        epochs=0.2,
        batch_size=64,
        seeds=1,
        target=0.999,
        rival="eager",
        steps_per_call=2,
        json=tmp_path / "found.json",
    )
    time_to_accuracy.run(config)
    found = json.loads((tmp_path / "found.json").read_text())
    assert [(one["side"], one["seed"]) for one in found["runs"]] == [("jaxnets", 0), ("torch", 0)]
    for one in found["runs"]:
        assert one["seconds_to_target"] is None
        assert one["steps"] == one["epochs"][-1]["step"] == 4
        assert one["train_seconds"] > 0
    assert found["summary"]["ratio"]["seconds_a_step"]["mean"] > 0
    assert found["recipe"]["label_smoothing"] == 0.2
    assert "reached it              0 of 1" in capsys.readouterr().out
