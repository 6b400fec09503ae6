"""The families of GANs: their published sizes, how they start, and that they can be trained."""

from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import losses, models, ops
from jaxnets.errors import UserError
from jaxnets.models import r3gan, resnet_gan, style_gan
from model_cases import (
    CLASSES,
    FAMILIES,
    KEY,
    LABEL,
    SHAPE,
    images,
    latents,
    random_variables,
    untyped,
    variables_of,
)


def styled(size, base, layers):
    """The pair of StyleGAN2 whose parameters the authors print."""
    widths = style_gan.stylegan2_widths(size, base)
    return (
        style_gan.Generator((size, size, 3), 512, None, widths, layers),
        style_gan.Discriminator(None, widths[::-1], layers),
    )


@pytest.mark.parametrize(
    "module,size,latent_size,pair,expected",
    [
        (resnet_gan, 32, 128, "sngan", (4_274_435, 1_053_825)),
        (r3gan, 32, 64, "r3gan", (20_732_160, 20_683_776)),
        (r3gan, 256, 64, "r3gan", (23_057_952, 23_009_568)),  # 23.058M, 23.010M: table 2
        (style_gan, 256, 512, (256, 16384, 8), (24_767_458, 23_996_481)),
        # The authors print 28794124, 29012513.
        (style_gan, 1024, 512, (1024, 32768, 2), (28_794_124, 29_007_905)),
    ],
)
def test_published_sizes(module, size, latent_size, pair, expected):
    shape = (size, size, 3)
    if isinstance(pair, str):
        pair = models.make_gan(pair, image_shape=shape, latent_size=latent_size)
    else:
        pair = styled(*pair)
    sizes = []
    for network, x in zip(pair, (jnp.zeros((1, latent_size)), jnp.zeros((1, *shape))), strict=True):
        made = jax.eval_shape(partial(network.init, train=False), KEY, x)
        sizes.append(sum(leaf.size for leaf in jax.tree.leaves(made["params"])))
    assert tuple(sizes) == expected and "batch_stats" not in made
    assert module.__doc__ and all(f"{number:,}" in module.__doc__ for number in expected)


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
    assert style_gan.stylegan2_widths(256) == [512] * 4 + [256, 128, 64]
    assert style_gan.stylegan2_widths(64, 32768) == [512] * 5
    assert style_gan.stylegan2_widths(28, 4096) == [512, 256, 128]
    assert style_gan.stylegan2_widths(8) == [512, 512]


def play(family, generator_variables, discriminator_variables):
    """The generator's loss and every output of both networks."""
    generator, discriminator = FAMILIES[family]
    made, statistics = generator.apply(
        generator_variables,
        latents(),
        LABEL,
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": KEY},
    )
    judged, vectors = discriminator.apply(
        discriminator_variables, made[0], LABEL, train=True, mutable=["spectral_norm"]
    )
    return jax.nn.softplus(-judged[0]).mean(), (made, statistics, judged, vectors)


@cache
def played(family):
    step = jax.value_and_grad(partial(play, family), argnums=(0, 1), has_aux=True)
    return jax.jit(step)(*variables_of(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_training_pass_is_finite_and_every_parameter_learns(family):
    outputs, grads = played(family)
    (fakes, made), _, (logits, features), _ = outputs[1]
    chex.assert_shape(fakes, (4, *SHAPE))
    chex.assert_shape(logits, (4,))
    assert {"stage0", "stage1"} <= set(made) and {"stage1", "penultimate"} <= set(features)
    chex.assert_tree_all_finite((outputs, grads))
    for path, leaf in jax.tree_util.tree_leaves_with_path([g["params"] for g in grads]):
        assert (jnp.abs(leaf) > 1e-7).any(), jax.tree_util.keystr(path)


@pytest.mark.parametrize(
    "family,penalty",
    [
        ("sngan", "r1"),
        ("r3gan", "r1"),
        ("stylegan2", "r1"),
        pytest.param("stylegan2", "wgan_gp", marks=pytest.mark.slow),
    ],
)
def test_a_penalty_has_the_gradient_of_the_gradient(family, penalty):
    """Ours, against reverse mode over reverse mode."""
    discriminator, variables = FAMILIES[family][1], variables_of(family)[1]
    rest = {name: leaf for name, leaf in variables.items() if name != "params"}

    def critic(params, x):
        return discriminator.apply(
            {"params": params, **rest}, x, LABEL, train=True, mutable=list(rest)
        )[0][0]

    def ours(params):
        slopes = losses.PENALTIES[penalty].with_logits
        return slopes(partial(critic, params), KEY, images(), images())[1].sum()

    def by_definition(params):
        slopes = jax.grad(lambda x: critic(params, x).sum())(images())
        squares = jnp.square(slopes).sum(axis=(1, 2, 3))
        return (0.5 * squares if penalty == "r1" else (jnp.sqrt(squares) - 1) ** 2).sum()

    params = variables["params"]
    actual, expected = (jax.jit(jax.value_and_grad(f))(params) for f in (ours, by_definition))
    tolerances = {"rtol": 2e-3, "atol": 1e-4} if family == "stylegan2" else {"rtol": 1e-3}
    chex.assert_trees_all_close(actual, expected, **{"atol": 1e-5, **tolerances})
    assert max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(actual[1])) > 1e-3


@pytest.mark.parametrize("family", ["sngan", "r3gan", "stylegan2"])
def test_a_logit_is_of_one_image_and_its_label(family):
    discriminator, variables = FAMILIES[family][1], variables_of(family)[1]
    apply = jax.jit(partial(discriminator.apply, train=False))
    logits = apply(variables, images(), LABEL)[0]
    other = images().at[1:].set(0.5)
    np.testing.assert_allclose(apply(variables, other, LABEL)[0][0], logits[0], rtol=1e-4)
    same = jnp.tile(images()[:1], (4, 1, 1, 1))
    logits = apply(variables, same, LABEL)[0]
    assert abs(logits[0] - logits[1]) > 1e-4
    np.testing.assert_allclose(logits[2], logits[3], rtol=1e-4)


@pytest.mark.parametrize("family", ["sngan", "r3gan"])
def test_generated_images_depend_on_the_label(family):
    generator, variables = FAMILIES[family][0], variables_of(family)[0]
    same = jnp.tile(latents(1), (4, 1))
    fakes, _ = jax.jit(partial(generator.apply, train=False))(variables, same, LABEL)
    assert jnp.abs(fakes[0] - fakes[1]).max() > 1e-3
    np.testing.assert_allclose(fakes[2], fakes[3], atol=1e-5)


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


@pytest.mark.parametrize("family", FAMILIES)
def test_errors_of_a_call(family):
    generator = FAMILIES[family][0]
    with pytest.raises(UserError, match=r"takes latents \[B, 5\], got \[4, 6\]"):
        generator.init(KEY, latents(4, 6), LABEL, train=False)
    with pytest.raises(UserError, match="conditional on 3 classes and got no labels"):
        generator.init(KEY, latents(), train=False)


def test_a_width_of_r3gan_is_a_multiple_of_8():
    with pytest.raises(UserError, match="width of R3GAN must be a multiple of 8, got 12"):
        r3gan.Discriminator(widths=(12,)).init(KEY, jnp.ones((1, 8, 8, 1)), train=False)
