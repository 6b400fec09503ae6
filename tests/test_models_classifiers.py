"""Every classifier of the registry: shapes, types, published sizes, errors."""

import math
from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ops
from jaxnets.errors import UserError
from jaxnets.models import CLASSIFIERS, make_classifier
from jaxnets.models.classic import VGG, AlexNet, LeNet5
from jaxnets.models.classifiers import scale_widths
from jaxnets.models.efficientnet import EfficientNetLite
from jaxnets.models.resnet import BasicBlock, Bottleneck, PreActivationBlock, ResNet, WideResNet
from jaxnets.models.speed_net import SpeedNet
from model_cases import KEY, random_variables

# Small ones of each kind; of the registry's sizes only the shapes are worked out.
SMALL = {
    "lenet5": LeNet5(5, dropout=0.2),
    "alexnet": AlexNet(5, (4, 4, 8, 4, 4), hidden=8, dropout=0.2),
    "vgg": VGG(5, ((4,), (4, 8)), dropout=0.2),
    "resnet": ResNet(5, (1, 1), (4, 8), dropout=0.2),
    "bottleneck": ResNet(5, (1,), (4,), Bottleneck, large_stem=True, dropout=0.2),
    "wide": WideResNet(5, 10, (4, 4, 8, 8), dropout=0.2),
    "speed_net": SpeedNet(5, (4, 8, 8), dropout=0.2),
}


def images(size=16, channels=1, count=4):
    return np.random.default_rng(1).uniform(-1, 1, (count, size, size, channels)).astype("float32")


def forward(module, variables, x):
    return module.apply(variables, x, train=True, rngs={"dropout": KEY}, mutable=["batch_stats"])


@cache
def trained(name):
    """Variables, outputs and gradients of one compiled training pass, run twice."""
    module = SMALL[name]
    variables = random_variables(module, images())

    traces = []

    def loss(params, x):
        traces.append(x)
        (logits, features), state = forward(module, {**variables, "params": params}, x)
        return jnp.square(logits - jnp.arange(5.0)[None]).mean(), ((logits, features), state)

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    step(variables["params"], images())
    (_, outputs), grads = step(variables["params"], images())
    assert len(traces) == 1, "the second call was compiled again"
    return variables, outputs, grads


@pytest.mark.parametrize("name", ["vgg", "resnet", "bottleneck", "efficientnet"])
def test_evaluation_is_the_same_where_norms_are_part_of_convolutions(name):
    efficient = EfficientNetLite(5, ((3, 1, 1, 16, 1), (5, 2, 6, 24, 2)), last=40)
    module, x = {**SMALL, "efficientnet": efficient}[name], images(32, channels=3)
    variables = random_variables(module, x)
    evaluate = jax.jit(lambda x: module.apply(variables, x, train=False)[0])
    got = evaluate(x)
    assert "jaxnets_conv_ending" in evaluate.lower(x).as_text() or ops.form("float32") != "native"
    with ops.plain_convolutions():
        expected = jax.jit(lambda x: module.apply(variables, x, train=False)[0])(x)
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


def abstract(name, image_shape, num_classes, **options):
    """(logits, features) and parameters as shapes alone: nothing is compiled."""
    module = make_classifier(name, num_classes=num_classes, image_shape=image_shape, **options)
    x = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    return jax.eval_shape(partial(module.init_with_output, train=False), KEY, x)


def count(variables):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


one_of_a_kind = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in ("alexnet", "vgg", "bottleneck")))
        for name in SMALL
    ],
)


@one_of_a_kind
def test_a_training_pass_is_finite_and_compiled_once(name):
    _, outputs, _ = trained(name)
    chex.assert_shape(outputs[0][0], (4, 5))
    chex.assert_tree_all_finite(outputs)


@one_of_a_kind
def test_every_parameter_learns(name):
    _, _, grads = trained(name)
    leaves = jax.tree_util.tree_leaves_with_path(grads)
    still = [
        jax.tree_util.keystr(path) for path, leaf in leaves if not (np.asarray(leaf) != 0).any()
    ]
    assert not still
    chex.assert_tree_all_finite(grads)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_outputs_are_float32_with_named_features(name):
    (logits, features), variables = abstract(name, (33, 20, 3), 7, dtype=jnp.bfloat16)
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
    assert features["penultimate"].dtype == jnp.float32
    assert features["penultimate"].ndim == 2
    assert features["stage1"].dtype == jnp.bfloat16
    assert list(features).index("stage1") < list(features).index("stage2")
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("name", "image_shape", "num_classes", "parameters"),
    [
        ("lenet5", (28, 28, 1), 10, 61_706),  # LeCun 1998, every map connected
        ("alexnet", (224, 224, 3), 1000, 61_100_840),  # torchvision
        # The published 9,231,114 and 14,728,266 have a bias before each normalisation.
        ("vgg11", (32, 32, 3), 10, 9_231_114 - 2_752),
        ("vgg16", (32, 32, 3), 10, 14_728_266 - 4_224),
        ("resnet18", (32, 32, 3), 10, 11_173_962),  # these three: kuangliu/pytorch-cifar
        ("resnet34", (32, 32, 3), 10, 21_282_122),
        ("resnet50", (32, 32, 3), 10, 23_520_842),
        ("resnet18", (224, 224, 3), 1000, 11_689_512),  # torchvision
        ("resnet50", (224, 224, 3), 1000, 25_557_032),  # torchvision
        ("efficientnet_lite0", (224, 224, 3), 1000, 4_652_008),  # the authors: 4.652 M
        ("wide_resnet_16_4", (32, 32, 3), 10, 2_748_890),  # the paper: 2.7 M
        ("wide_resnet_28_10", (32, 32, 3), 10, 36_479_194),  # the paper: 36.5 M
    ],
)
def test_published_parameter_counts(name, image_shape, num_classes, parameters):
    _, variables = abstract(name, image_shape, num_classes)
    assert count(variables) == parameters


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_smallest_size_works_and_the_next_smaller_is_an_error(name):
    size = CLASSIFIERS[name].min_size
    (logits, features), _ = abstract(name, (size, size, 1), 3)
    assert logits.shape == (2, 3)
    assert 0 not in features["penultimate"].shape
    with pytest.raises(UserError, match=rf"{name} needs .* {size}x{size} pixels, got {size - 1}x"):
        make_classifier(name, num_classes=3, image_shape=(size - 1, 99, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "at least 2 classes, got 1"),
        ({"image_shape": (28, 28)}, r"\(height, width, channels\), got \(28, 28\)"),
    ],
)
def test_other_errors(options, message):
    defaults = {"name": "lenet5", "num_classes": 10, "image_shape": (28, 28, 1)}
    with pytest.raises(UserError, match=message):
        make_classifier(**{**defaults, **options})


def test_width_scales_channels_to_multiples_of_four():
    assert scale_widths((6, 16, 64), 1.0) == (6, 16, 64)
    assert scale_widths((6, 16, 64), 0.5) == (4, 8, 32)
    assert scale_widths((6, 16, 64), 0.01) == (4, 4, 4)
    _, narrow = abstract("resnet18", (32, 32, 3), 10, width=0.5)
    assert 0.24 < count(narrow) / 11_173_962 < 0.26


@pytest.mark.parametrize("block", [BasicBlock(4), Bottleneck(1), PreActivationBlock(4)])
def test_residual_blocks_start_as_the_identity(block):
    x = np.random.default_rng(0).uniform(0.1, 1, (2, 3, 3, 4)).astype("float32")
    y, _ = jax.jit(partial(block.init_with_output, train=True))(KEY, x)
    np.testing.assert_allclose(y, x, atol=1e-6)
