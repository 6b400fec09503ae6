"""Classifiers of sounds and texts: shapes, padding, published sizes, errors."""

import itertools
import math
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.columns import Image, Sound, Tokens
from jaxnets.errors import UserError
from jaxnets.models import CLASSIFIERS, classifier_of
from jaxnets.models.sounds import M5, OnLogMel
from jaxnets.models.speed_net import SpeedNet
from jaxnets.models.texts import VDCNN, TextCNN
from jaxnets.nn.frontends import LogMel, SpecAugment
from model_cases import KEY, random_variables

FRONTEND = LogMel(8000, bins=16, hop=0.0125)
SOUND, TEXT, IMAGE = Sound(8000, 1600), Tokens(("a", "b"), 30), Image((8, 8, 1))
FIELDS = {"num_classes": 5, "dropout": 0.2}


def waves(count=4):
    return np.random.default_rng(1).normal(0, 0.1, (count, 1600)).astype(np.float32)


def tokens(count=4):
    rows = np.random.default_rng(1).integers(1, 12, (count, 11)).astype(np.int32)
    for row, length in zip(rows, (11, 7, 1, 4), strict=True):
        row[length:] = 0
    return rows


SMALL = {
    "on_log_mel": (
        OnLogMel(FRONTEND, SpeedNet(5, (4, 8, 8), dropout=0.2), SpecAugment()),
        waves(),
    ),
    "m5": (M5(5, (4, 4, 8, 8), dropout=0.2), waves()),
    "text_cnn": (TextCNN(5, 12, 8, maps=6, word_dropout=0.2), tokens()),
    "vdcnn": (VDCNN(5, 12, 8, (1, 2, 1), (4, 8, 8), word_dropout=0.2), tokens()),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_training_pass_is_finite_compiled_once_and_reaches_every_parameter(name):
    module, x = SMALL[name]
    variables = random_variables(module, x)
    traces = []

    def loss(params):
        traces.append(None)
        (logits, features), _ = module.apply(
            {**variables, "params": params},
            x,
            train=True,
            rngs={"dropout": KEY},
            mutable=["batch_stats"],
        )
        return jnp.square(logits - jnp.arange(5.0)[None]).mean(), (logits, features)

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    step(variables["params"])
    (_, (logits, features)), gradients = step(variables["params"])
    assert len(traces) == 1
    chex.assert_shape(logits, (4, 5))
    assert features["penultimate"].dtype == logits.dtype == jnp.float32
    assert features["penultimate"].shape[0] == 4 and features["penultimate"].ndim == 2
    chex.assert_tree_all_finite((logits, features, gradients))
    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("name", ["text_cnn", "vdcnn"])
def test_padding_behind_a_text_says_nothing_of_it(name):
    module, rows = SMALL[name]
    variables = random_variables(module, rows)
    apply = partial(module.apply, variables, train=False)
    alone = [apply(row[None, : np.count_nonzero(row)])[0][0] for row in rows]
    for padded in (rows, np.pad(rows, [(0, 0), (0, 10)])):
        np.testing.assert_allclose(apply(padded)[0], alone, atol=1e-5)
    # It is no accident of a network that sees nothing at all.
    assert np.abs(np.diff(apply(rows)[0], axis=0)).max() > 0.1


def test_the_picture_is_what_the_classifier_sees_and_a_feature():
    module, x = SMALL["on_log_mel"]
    variables = random_variables(module, x)
    logits, features = module.apply(variables, x, train=False)
    picture = FRONTEND.apply({}, x)
    np.testing.assert_allclose(features["log_mel"], picture, atol=1e-5)
    inner = {kind: tree["classifier"] for kind, tree in variables.items()}
    alone, _ = module.classifier.apply(inner, picture, train=False)
    np.testing.assert_allclose(logits, alone, atol=1e-5)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_classifier_of_images_takes_sounds_unchanged(name):
    module = classifier_of(name, Sound(8000, 8000), **FIELDS)
    x = jax.ShapeDtypeStruct((2, 8000), jnp.float32)
    (logits, _), _ = jax.eval_shape(partial(module.init_with_output, train=False), KEY, x)
    assert logits.shape == (2, 5)


def count(module, x):
    shapes = jax.eval_shape(partial(module.init, train=False), KEY, x)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"]))


def test_sizes_are_the_published_ones():
    # Dai et al., table 1: 0.56 million for M5 with 10 classes.
    assert 0.55e6 < count(M5(10), jax.ShapeDtypeStruct((1, 32000), jnp.float32)) < 0.57e6
    # Conneau et al., section 3: depths 9 and 17, all convolutions of 3, and the shortcuts.
    rows = jax.ShapeDtypeStruct((1, 1024), jnp.int32)
    column = Tokens(tuple(map(chr, range(69))), 1024)
    widths = (64, 64, 128, 256, 512)
    for blocks, depth in (((1, 1, 1, 1), 2), ((2, 2, 2, 2), 4)):
        convolutions = 3 * 16 * 64 + 64 * 2
        for before, width in itertools.pairwise(widths):
            convolutions += 3 * before * width + (depth - 1) * 3 * width**2 + depth * 2 * width
            convolutions += (before * width + 2 * width) * (before != width)
        module = VDCNN(5, column.size, blocks=blocks)
        assert count(module, rows) == 71 * 16 + convolutions + 512 * 5 + 5
    # Kim: 300 numbers a word, and 100 maps for each of 3, 4 and 5 words.
    kim = TextCNN(2, 1000, size=300)
    maps = 300 * 100 * (3 + 4 + 5) + 300
    linear = 2 * (1000 + 2**18)
    assert count(kim, jax.ShapeDtypeStruct((1, 20), jnp.int32)) == 300_000 + maps + 602 + linear


@pytest.mark.parametrize(
    "name, column, fields, words",
    [
        ("lenet5", Tokens(("a",), 4), {}, 'texts "lenet5"; choose from text_cnn, vdcnn'),
        ("text_cnn", SOUND, {}, 'sounds "text_cnn"; choose from lenet5, .*m5'),
        ("text_cnn", Tokens(("a",), 4), {"num_classes": 1}, "at least 2 classes"),
        ("m5", SOUND, {"dropout": 1.5}, r"below 1, got 1\.5"),
        ("vgg11", SOUND, {}, "vgg11 needs images of at least 16x16"),
    ],
)
def test_what_cannot_be_is_refused(name, column, fields, words):
    with pytest.raises(UserError, match=words):
        classifier_of(name, column, **{**FIELDS, **fields})


def test_the_linear_model_beside_a_text_cnn_counts_words_and_pairs_in_their_order():
    module = TextCNN(2, 12)
    rows = np.array([[3, 4, 5, 0], [4, 3, 5, 0]], np.int32)
    variables = random_variables(module, rows)
    for name in ("conv3", "conv4", "conv5"):
        variables["params"][name] = jax.tree.map(np.zeros_like, variables["params"][name])
    one, two = (
        np.asarray(module.apply(variables, x, train=False)[0])[0] for x in (rows[:1], rows[1:])
    )
    weights = variables["params"]["linear"]["weights"]

    def pair(a, b):
        return 12 + (a * 2654435761 + b * 40503) % 2**32 % 2**18

    def expected(*words):
        terms = [*words, *(pair(a, b) for a, b in itertools.pairwise(words))]
        bias = variables["params"]["head"]["bias"]
        return 10 * weights[terms].sum(axis=0) / np.sqrt(2 * len(words)) + bias

    np.testing.assert_allclose(one, expected(3, 4, 5), rtol=1e-5)
    np.testing.assert_allclose(two, expected(4, 3, 5), rtol=1e-5)
