"""The first hour with data of one's own: few images, odd sizes, commands that are repeated."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from command_lines import run, summary
from jaxnets.commands import classify, generate, judging, training
from jaxnets.commands.configs import classify as cnn_config
from jaxnets.commands.configs import generate as gan_config
from jaxnets.data import DataSet, Split
from jaxnets.judge.scoring import Judge


def noise(count: int, seed: int = 0, side: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


def few(count: int, classes: int = 2, side: int = 8) -> DataSet:
    labels = np.arange(count, dtype=np.int32) % classes
    splits = {n: Split(noise(count, i, side), labels) for i, n in enumerate(("train", "test"))}
    return DataSet("folder:few", splits)


@pytest.mark.parametrize(
    ("images", "batch"), [(4096, 128), (4095, 64), (1524, 32), (300, 8), (8, 8), (7, 4), (2, 2)]
)
def test_batch_and_rate_follow_the_number_of_images(images, batch):
    asked = cnn_config.Classify(data="folder:few", devices=1)
    config = classify.suited(asked, cnn_config.resolve(asked), few(images))
    assert config.batch_size == batch
    assert config.learning_rate == pytest.approx(0.2 * batch / 128) and config.clip_norm is None


def test_what_was_asked_for_stays():
    asked = cnn_config.Classify(data="folder:few", devices=1, batch_size=64)
    config = cnn_config.resolve(asked)
    assert classify.suited(asked, config, few(100)) == config
    asked = cnn_config.Classify(data="digits", devices=1)  # which has values of its own
    assert classify.suited(asked, cnn_config.resolve(asked), few(200)).batch_size == 128
    asked = cnn_config.Classify(data="folder:few", devices=8, learning_rate=0.1)
    config = classify.suited(asked, cnn_config.resolve(asked), few(20))
    assert (config.batch_size, config.learning_rate) == (8, 0.1)  # each device has one
    config = cnn_config.resolve(cnn_config.Classify(network="alexnet"))  # not normalised
    assert (config.learning_rate, config.clip_norm) == (0.1, 1)


#: Small presets have widths of their own for some sizes, if nobody asks for others.
SIZES = [(32, {}), (28, {"preset": "sngan_small"}), (24, {}), (64, {}), (32, {"width": 0.5})]


def test_the_training_of_a_gan_sees_no_more_than_it_needs():
    def suited(images: int, side: int = 8, **asked):
        config = gan_config.Generate(data="folder:few", devices=1, **asked)
        return generate.suited(config, gan_config.resolve(config), few(images, side=side))

    assert (suited(1000).epochs, suited(1000).batch_size) == (100.0, 32)
    assert suited(20_000).epochs == 60.0
    assert suited(5).batch_size == 4 and suited(5, epochs=3.0).epochs == 3.0
    assert (suited(5).generator, suited(5).augment, suited(20_000).augment) == (
        "sngan",
        "shift",
        "",
    )
    assert suited(5, augment="").augment == ""
    widths = [suited(5, side, **asked).generator_widths for side, asked in SIZES]
    assert widths == [(64, 32, 16), (64, 32, 16), None, None, None]


def test_a_run_is_looked_at_twenty_times_at_most():
    config = cnn_config.resolve(cnn_config.Classify(data="folder:few"))
    assert training.fit_options(config, 10).eval_every == 10
    assert training.fit_options(cnn_config.Classify(epochs=100.0), 10).eval_every == 50
    assert training.fit_options(cnn_config.Classify(epochs=100.0), 10).save_every == 10
    assert training.fit_options(cnn_config.Classify(epochs=4000.0), 1.5).save_every == 60
    rare = cnn_config.Classify(epochs=100.0, eval_every=2.0, save_every=0.0)
    assert training.fit_options(rare, 10).eval_every == 20
    assert training.fit_options(rare, 10).save_every == 0


def test_a_score_that_cannot_be_costs_no_other(capsys):
    judge = Judge.of(lambda images: images.reshape(len(images), -1), "pixels", "1")
    data = few(2)

    def make(labels: np.ndarray) -> Split:
        return Split(noise(len(labels), 2), labels)

    said: set[str] = set()
    wanted = ["kid", "memorisation"]
    found = judging.sample_numbers(judge, make, data, True, metrics=wanted, said=said)
    unknown = [name for name, number in found.items() if math.isnan(number)]
    assert unknown == ["frechet", "samples_kid"]
    assert {"samples_spread", "samples_memorisation"} < set(found)
    told = capsys.readouterr().err
    assert "the Frechet distance is not available: 2 real images are too few" in told
    assert "kid is not available" in told
    assert said == {"the Frechet distance", "kid"}
    judging.sample_numbers(judge, make, data, True, metrics=["kid"], said=said)
    assert capsys.readouterr().err == ""  # once a run


def test_six_images_train_and_a_finished_command_changes_nothing(workplace, capsys):
    for name in ("a", "b"):
        (workplace / "six" / name).mkdir(parents=True)
        for i, image in enumerate(noise(3, ord(name))):
            Image.fromarray(image).save(workplace / "six" / name / f"{i}.png")
    line = "classify --data folder:six --epochs 2 --devices 1 --network lenet5 --run-dir cnn"
    run(line)
    config = json.loads((workplace / "cnn" / "config.json").read_text())["config"]
    assert config["batch_size"] == 4 and config["flip"] is False
    before = (workplace / "cnn" / "summary.json").read_bytes()
    assert summary(workplace / "cnn")["compile_seconds"] > 0
    run(line)
    assert (workplace / "cnn" / "summary.json").read_bytes() == before
    assert capsys.readouterr().out.count("run folder: cnn") == 2
