"""SNGAN-ResNet and R3GAN: their published sizes, how they start, and that they can be trained."""

from functools import cache, partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from jaxnets import losses, models, ops
from jaxnets.errors import UserError
from jaxnets.models import r3gan, resnet_gan
from model_cases import KEY, random_variables, untyped

SHAPE, CLASSES, LATENT = (9, 12, 2), 3, 5  # 9 is 5 doubled, and cropped
LABEL = jnp.array([0, 1, 2, 2])
FAMILIES = {
    "sngan": (
        resnet_gan.Generator(SHAPE, LATENT, CLASSES, (12, 8)),
        resnet_gan.Discriminator(CLASSES, (4, 8, 8), 1),
    ),
    "r3gan": (
        r3gan.Generator(SHAPE, LATENT, CLASSES, (16, 8), blocks=1, embedding_size=4),
        r3gan.Discriminator(CLASSES, (8, 16), blocks=1),
    ),
}
both = pytest.mark.parametrize("family", FAMILIES)


def latents(count=4):
    return jax.random.normal(KEY, (count, LATENT))


def images(count=4):
    return jax.random.uniform(KEY, (count, *SHAPE), minval=-1.0)


@cache
def variables_of(family) -> Any:
    generator, discriminator = FAMILIES[family]
    return (
        random_variables(generator, latents(), LABEL),
        random_variables(discriminator, images(), LABEL),
    )


def count(shapes):
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


@pytest.mark.parametrize(
    "family,image_shape,latent_size,expected",
    [
        ("sngan", (32, 32, 3), 128, (4_274_435, 1_053_825)),
        ("r3gan", (32, 32, 3), 64, (20_732_160, 20_683_776)),
        ("r3gan", (256, 256, 3), 64, (23_057_952, 23_009_568)),  # 23.058M, 23.010M: table 2
    ],
)
def test_published_sizes(family, image_shape, latent_size, expected):
    pair = models.make_gan(family, image_shape=image_shape, latent_size=latent_size)
    inputs = jnp.zeros((1, latent_size)), jnp.zeros((1, *image_shape))
    shapes = [
        jax.eval_shape(partial(module.init, train=False), KEY, x)
        for module, x in zip(pair, inputs, strict=True)
    ]
    assert tuple(map(count, shapes)) == expected
    assert "batch_stats" not in shapes[1]
    module = {"sngan": resnet_gan, "r3gan": r3gan}[family]
    counts = [f"{number:,}" for number in expected]
    assert module.__doc__ and all(number in module.__doc__ for number in counts)


def test_widths_are_those_of_the_papers():
    assert resnet_gan.sngan_widths(32) == ([256] * 4, [128] * 4, 2)
    assert resnet_gan.sngan_widths(28) == ([256] * 3, [128] * 4, 2)
    assert resnet_gan.sngan_widths(8) == ([256] * 2, [128] * 4, 1)
    inwards = [64, 128, 256, 512, 1024]
    assert resnet_gan.sngan_widths(48) == (inwards[3::-1], inwards, 4)  # table 5
    assert resnet_gan.sngan_widths(128) == ([1024, *inwards[::-1]], [*inwards, 1024], 5)  # table 6
    assert r3gan.r3gan_widths(28) == [768] * 3
    assert r3gan.r3gan_widths(64) == [768] * 4 + [384]
    assert r3gan.r3gan_widths(256) == [768] * 4 + [384, 192, 96]


def play(family, generator_variables, discriminator_variables):
    """The generator's loss and every output of both networks."""
    generator, discriminator = FAMILIES[family]
    made, statistics = generator.apply(
        generator_variables, latents(), LABEL, train=True, mutable=["batch_stats"]
    )
    judged, vectors = discriminator.apply(
        discriminator_variables, made[0], LABEL, train=True, mutable=["spectral_norm"]
    )
    return jax.nn.softplus(-judged[0]).mean(), (made, statistics, judged, vectors)


@cache
def played(family):
    step = jax.value_and_grad(partial(play, family), argnums=(0, 1), has_aux=True)
    return jax.jit(step)(*variables_of(family))


@pytest.mark.slow
@both
def test_a_training_pass_is_the_same_without_jit(family):
    without = play(family, *variables_of(family))
    chex.assert_trees_all_close(played(family)[0], without, rtol=1e-3, atol=1e-3)


@both
def test_a_training_pass_is_finite_and_every_parameter_learns(family):
    outputs, grads = played(family)
    (fakes, made), _, (logits, features), _ = outputs[1]
    chex.assert_shape(fakes, (4, *SHAPE))
    chex.assert_shape(logits, (4,))
    assert {"stage0", "stage1"} <= set(made)
    assert {"stage1", "stage2", "penultimate"} <= set(features)
    chex.assert_tree_all_finite((outputs, grads))
    for path, leaf in jax.tree_util.tree_leaves_with_path([g["params"] for g in grads]):
        assert (jnp.abs(leaf) > 1e-7).any(), jax.tree_util.keystr(path)


@both
def test_the_penalty_has_the_gradient_of_the_gradient(family):
    """R1 by forward mode, against reverse mode over reverse mode."""
    _, discriminator = FAMILIES[family]
    _, variables = variables_of(family)
    rest = {name: leaf for name, leaf in variables.items() if name != "params"}

    def critic(params, x):
        return discriminator.apply(
            {"params": params, **rest}, x, LABEL, train=True, mutable=list(rest)
        )[0][0]

    def ours(params):
        r1 = losses.penalty("r1").with_logits
        return r1(partial(critic, params), KEY, images(), images())[1].sum()

    def by_definition(params):
        slopes = jax.grad(lambda x: critic(params, x).sum())(images())
        return 0.5 * jnp.square(slopes).sum()

    params = variables["params"]
    actual, expected = (jax.jit(jax.value_and_grad(f))(params) for f in (ours, by_definition))
    chex.assert_trees_all_close(actual, expected, rtol=1e-3, atol=1e-5)
    assert max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(actual[1])) > 1e-3


@both
def test_a_logit_is_of_one_image_and_its_label(family):
    _, discriminator = FAMILIES[family]
    _, variables = variables_of(family)
    apply = jax.jit(partial(discriminator.apply, train=False))
    logits = apply(variables, images(), LABEL)[0]
    other = images().at[1:].set(0.5)
    np.testing.assert_allclose(apply(variables, other, LABEL)[0][0], logits[0], rtol=1e-4)
    same = jnp.tile(images()[:1], (4, 1, 1, 1))
    logits = apply(variables, same, LABEL)[0]
    assert abs(logits[0] - logits[1]) > 1e-4
    np.testing.assert_allclose(logits[2], logits[3], rtol=1e-4)


@both
def test_generated_images_depend_on_the_label(family):
    generator, _ = FAMILIES[family]
    variables, _ = variables_of(family)
    same = jnp.tile(latents(1), (4, 1))
    fakes, _ = jax.jit(partial(generator.apply, train=False))(variables, same, LABEL)
    assert jnp.abs(fakes[0] - fakes[1]).max() > 1e-3
    np.testing.assert_allclose(fakes[2], fakes[3], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family,penalty", [("sngan", "none"), ("r3gan", "r1")])
def test_a_few_adversarial_steps(family, penalty):
    first, step, _ = tiny.family(
        family,
        {"sngan": "non_saturating", "r3gan": "relativistic"}[family],
        width=0.02,
        rate=1e-3,
        penalty=None if penalty == "none" else penalty,
        discriminator_steps=2,
        micro_batches=2,
    )
    after = first
    step = jax.jit(step)
    for seed in range(3):
        after, metrics = step(after, tiny.batch(8, seed))
        chex.assert_tree_all_finite((after.nets, metrics))
    old, new = ({name: net.params for name, net in at.nets.items()} for at in (first, after))
    before, moved = jax.tree_util.tree_leaves_with_path(old), jax.tree.leaves(new)
    for (path, old), new in zip(before, moved, strict=True):
        assert (old != new).any(), jax.tree_util.keystr(path)


def test_the_up_block_is_the_papers():
    """Pixels repeated before the convolutions, the shortcut's too, written with lax alone."""
    x = jax.random.normal(KEY, (4, 5, 6, 8))
    module = resnet_gan.UpBlock(6)
    shapes = jax.eval_shape(partial(module.init, train=False), KEY, x, None)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    params = variables["params"]
    apply = jax.jit(partial(module.apply, train=True, mutable=["batch_stats"]))
    y, _ = apply(variables, x, None)

    def conv(x, name):
        return jax.lax.conv_general_dilated(
            x, params[name]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def norm(x, name):
        x = (x - x.mean((0, 1, 2), keepdims=True)) / jnp.sqrt(
            x.var((0, 1, 2), keepdims=True) + 1e-5
        )
        scale, bias = (params[name][each][None, None, None] for each in ("scale", "bias"))
        return jnp.maximum(x * scale + bias, 0)

    def up(x):
        return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)

    @jax.jit
    def by_hand(x):
        inner = conv(norm(conv(up(norm(x, "norm1")), "conv1"), "norm2"), "conv2")
        return inner + conv(up(x), "conv_shortcut")

    np.testing.assert_allclose(y, by_hand(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("first,features,halve", [(True, 6, True), (False, 6, True), (False, 4, 0)])
def test_the_down_block_is_the_papers(first, features, halve):
    """With kernels divided by their singular values, and the shortcut before its average."""
    x = jax.random.normal(KEY, (2, 4, 6, 4))
    module = untyped(resnet_gan.DownBlock(features, bool(halve), first))
    variables = jax.jit(partial(module.init, train=False))(KEY, x)

    def train(variables, _):
        _, moved = module.apply(variables, x, train=True, mutable=["spectral_norm"])
        return {**variables, **moved}, None

    variables, _ = jax.lax.scan(train, variables, None, 200)
    y = jax.jit(partial(module.apply, train=False))(variables, x)

    def conv(x, name):
        kernel = np.asarray(variables["params"][name]["kernel"])
        sigma = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)[0]
        return jax.lax.conv_general_dilated(
            x, kernel / sigma, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def pool(x):
        return x.reshape(2, 2, 2, 3, 2, -1).mean((2, 4)) if halve else x

    assert ("conv_shortcut" in variables["params"]) == bool(halve)
    shortcut = pool(conv(x, "conv_shortcut")) if halve else x
    inner = conv(x if first else jax.nn.relu(x), "conv1")
    assert inner.shape[-1] == (features if first else 4)
    expected = shortcut + pool(conv(jax.nn.relu(inner), "conv2"))
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-3)


def test_a_block_of_r3gan_starts_as_the_identity_with_the_papers_gain():
    x = jax.random.normal(KEY, (2, 4, 4, 64))
    module = untyped(r3gan.Block(8))
    y, variables = jax.jit(module.init_with_output)(KEY, x)
    np.testing.assert_array_equal(y, x)
    params = variables["params"]
    assert not params["conv3"]["kernel"].any() and set(params["conv3"]) == {"kernel"}
    for name, shape in (("conv1", (1, 1, 64, 128)), ("conv2", (3, 3, 16, 128))):
        kernel = params[name]["kernel"]
        assert kernel.shape == shape
        fan_in = np.prod(shape[:-1])
        expected = np.sqrt(2 / 1.04) * 8**-0.25 / np.sqrt(fan_in)
        np.testing.assert_allclose(kernel.std(), expected, rtol=0.03)
        assert jnp.abs(kernel).max() > 3 * expected, "the normal distribution was cut off"
        assert not params[name]["bias"].any()
    grads = jax.jit(jax.grad(lambda p: (module.apply({"params": p}, x) ** 2).sum()))(params)
    assert grads["conv3"]["kernel"].any()


def test_r3gan_starts_as_its_bases():
    """All blocks are the identity then: what remains is linear in the latents, in the image."""
    pair = models.make_gan("r3gan", image_shape=(8, 8, 1), width=0.1)
    generator, discriminator = map(untyped, pair)
    z, x = jax.random.normal(KEY, (64, 64)), jax.random.normal(KEY, (64, 8, 8, 1))
    start_of = lambda module: jax.jit(partial(module.init_with_output, train=False))  # noqa: E731
    (fakes, features), variables = start_of(generator)(KEY, z)
    params = variables["params"]
    np.testing.assert_allclose(params["basis"].std(), 1, atol=0.05)
    start = params["basis"][None] * (z @ params["dense"]["kernel"])[:, None, None]
    np.testing.assert_allclose(features["stage0"], start, rtol=1e-4, atol=1e-4)
    expected = ops.upsample(start) @ params["conv_image"]["kernel"][0, 0]
    np.testing.assert_allclose(fakes, expected, rtol=1e-3, atol=1e-3)
    assert 0.2 < fakes.std() < 2.0, "grey or blinding"

    (logits, features), variables = start_of(discriminator)(KEY, x)
    params = variables["params"]
    assert params["basis"].shape == (4, 4, 80)
    np.testing.assert_allclose(params["basis"].std(), 0.25, atol=0.02)
    last = ops.downsample(x @ params["conv_image"]["kernel"][0, 0])
    sums = jax.lax.conv_general_dilated(  # depthwise, 4x4, VALID
        last,
        params["basis"][:, :, None],
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=80,
    )
    np.testing.assert_allclose(features["penultimate"], sums[:, 0, 0], rtol=1e-3, atol=1e-3)
    expected = features["penultimate"] @ params["head"]["kernel"][:, 0]
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)


def test_classes_in_r3gans_discriminator_are_a_dot_product():
    _, discriminator = FAMILIES["r3gan"]
    _, variables = variables_of("r3gan")
    apply = jax.jit(partial(discriminator.apply, train=False))
    logits, features = apply(variables, images(), LABEL)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    vector = np.asarray(features["penultimate"], np.float64) @ params["head"]["kernel"]
    assert vector.shape == (4, 16)
    expected = (vector * params["embedding"]["kernel"][np.asarray(LABEL)]).sum(-1)
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
    init = jax.jit(partial(discriminator.init, train=False))
    fresh = init(KEY, images(), LABEL)["params"]["embedding"]["kernel"]
    np.testing.assert_allclose(fresh.std(), (16 * CLASSES) ** -0.5, rtol=0.4)


def test_28_pixels_are_filled_up_nowhere_and_others_with_grey():
    x = jax.random.normal(KEY, (1, 28, 28, 1))
    module = r3gan.Discriminator(widths=(8, 8, 8), blocks=1)
    variables = random_variables(module, x)
    assert variables["params"]["basis"].shape == (7, 7, 8)
    small, large = x[:, :26, :27], x.at[:, 26:].set(0.0).at[:, :, 27:].set(0.0)
    apply = jax.jit(partial(module.apply, train=False))
    np.testing.assert_allclose(apply(variables, small)[0], apply(variables, large)[0], rtol=1e-5)


def test_errors():
    with pytest.raises(UserError, match="width of R3GAN must be a multiple of 8, got 12"):
        r3gan.Discriminator(widths=(12,)).init(KEY, jnp.ones((1, 8, 8, 1)), train=False)
    for family in FAMILIES:
        generator, _ = FAMILIES[family]
        with pytest.raises(UserError, match=r"takes latents \[B, 5\], got \[4, 6\]"):
            generator.init(KEY, jnp.ones((4, 6)), LABEL, train=False)
        with pytest.raises(UserError, match="conditional on 3 classes and got no labels"):
            generator.init(KEY, latents(), train=False)
