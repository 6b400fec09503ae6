"""Generators and discriminators: sizes, conditioning, any classifier as a trunk, errors."""

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxnets.errors import UserError
from jaxnets.models import (
    CLASSIFIERS,
    DISCRIMINATORS,
    GENERATORS,
    make_classifier,
    make_discriminator,
    make_gan,
    make_generator,
)
from jaxnets.models.conditioning import TrunkDiscriminator
from jaxnets.models.dcgan import Discriminator
from model_cases import (
    FAMILIES,
    KEY,
    LABEL,
    SMALL,
    images,
    latents,
    random_variables,
    variables_of,
)

GENERATOR, DISCRIMINATOR = FAMILIES["dcgan"]


def run(module, *args, **options) -> Any:
    return jax.jit(partial(module.apply, **options))(*args)


def test_fields_of_a_family_by_name():
    options = {"image_shape": (16, 16, 1), "num_classes": 3, "width": 0.05}
    generator, discriminator = make_gan(
        "stylegan2",
        generator_options={"fields": {"mapping_layers": 1, "style_size": 7, "mixing": 0}},
        discriminator_options={"fields": {"embedding_size": 5}},
        **options,
    )
    assert (generator.mapping_layers, generator.style_size, generator.mixing) == (1, 7, 0)
    assert discriminator.embedding_size == 5
    for fields, words in {
        (("blocks", 3),): "no 'blocks' here; this one has embedding_size",
        (("image_shape", 3),): "no 'image_shape' here",
        (("embedding_size", 0),): r"must be in 1..16384, got 0",
        (("embedding_size", 1.5),): "takes a whole number, got 1.5",
        (("embedding_size", True),): "takes a whole number, got True",
    }.items():
        with pytest.raises(UserError, match=words):
            make_generator("dcgan", fields=dict(fields), **options)
    with pytest.raises(UserError, match=r"dropout must be in \[0, 1\], got 2"):
        make_discriminator("dcgan", fields={"dropout": 2}, **options)
    with pytest.raises(UserError, match="this one has none to set"):
        make_discriminator("lenet5", fields={"dropout": 2}, image_shape=(28, 28, 1))


SIZES = {8: 64, 9: 63, 15: 57, 28: 28, 33: 39, 48: 47, 64: 8, 255: 256}


@pytest.mark.parametrize("family", GENERATORS)
@pytest.mark.parametrize(
    "num_classes,sizes",
    [(3, (9, 255)), *(pytest.param(n, tuple(SIZES), marks=pytest.mark.slow) for n in (None, 3))],
)
def test_every_size_from_8_to_256(family, num_classes, sizes):
    for index, size in enumerate(sizes):
        shape = (size, SIZES[size], 1 + index % 4)
        generator, discriminator = make_gan(
            family, image_shape=shape, num_classes=num_classes, dtype=jnp.bfloat16
        )
        z = jax.ShapeDtypeStruct((2, generator.latent_size), jnp.float32)
        label = jax.ShapeDtypeStruct((2,), jnp.int32)
        init = partial(generator.init_with_output, train=False)
        (fake, _), variables = jax.eval_shape(init, KEY, z, label)
        assert (fake.shape, fake.dtype) == ((2, *shape), jnp.float32)
        init = partial(discriminator.init_with_output, train=False)
        (logits, features), more = jax.eval_shape(init, KEY, fake, label)
        assert (logits.shape, logits.dtype) == ((2,), jnp.float32)
        assert features["penultimate"].dtype == jnp.float32
        assert features["stage1"].dtype == jnp.bfloat16
        leaves = jax.tree.leaves((variables, more))
        assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


@pytest.mark.parametrize("family", GENERATORS)
@pytest.mark.parametrize("size", [(28, 7), (32, 4), (64, 4), (8, 4)])
def test_the_generator_starts_from_the_size_that_halving_leaves(family, size):
    generator = make_generator(family, image_shape=(size[0], size[0], 1), width=0.1)
    init = partial(generator.init_with_output, train=False)
    (_, features), _ = jax.eval_shape(init, KEY, latents(2, 64))
    assert features["stage0"].shape[1:3] == (size[1], size[1])


def test_images_lie_between_minus_one_and_one_and_start_neither_grey_nor_saturated():
    module = GENERATOR
    variables = jax.jit(partial(module.init, train=False))(KEY, latents(), LABEL)

    @jax.jit
    def spread_and_extreme(variables, z):
        (fakes, _), _ = module.apply(variables, z, LABEL, train=True, mutable=["batch_stats"])
        return fakes.std(), jnp.abs(fakes).max()

    assert 0.1 < spread_and_extreme(variables, latents())[0] < 0.7
    loud = jax.tree.map(lambda leaf: 1e3 * leaf, variables)
    assert 0.99 < spread_and_extreme(loud, latents())[1] <= 1.0


@pytest.mark.parametrize("part", ["embedding", "norm0", "norm1"])
def test_generated_images_depend_on_the_label_by_each_path(part):
    module, variables = GENERATOR, variables_of("dcgan")[0]
    params = dict(variables["params"])
    for name in ("embedding", "norm0", "norm1"):
        # A random class table where the path is tested, one equal for all classes elsewhere.
        fill = partial(jax.random.normal, KEY) if name == part else jnp.zeros
        params[name] = jax.tree.map(lambda leaf, fill=fill: fill(leaf.shape), params[name])
    same = jnp.tile(latents(1), (4, 1))
    fakes, _ = jax.jit(partial(module.apply, train=False))(
        {**variables, "params": params}, same, LABEL
    )
    assert jnp.abs(fakes[0] - fakes[1]).max() > 1e-3
    np.testing.assert_allclose(fakes[2], fakes[3], atol=1e-6)


@pytest.mark.parametrize("name", ["dcgan", "lenet5"])
def test_a_discriminator_judges_the_image_together_with_its_label(name):
    options = {key: value for key, value in SMALL.items() if key != "latent_size"}
    module = make_discriminator(name, **options)
    variables = random_variables(module, images(), LABEL)
    same = jnp.tile(images()[:1], (4, 1, 1, 1))
    logits, features = run(module, variables, same, LABEL, train=False)
    assert abs(logits[0] - logits[1]) > 1e-4
    np.testing.assert_allclose(logits[2], logits[3], rtol=1e-4, atol=1e-6)
    # logit = w . phi + b + e_y . phi, computed here from the parameters.
    params = variables["params"]
    phi = np.asarray(features["penultimate"][0], np.float64)
    expected = phi @ params["head"]["kernel"][:, 0] + params["head"]["bias"][0]
    table = np.asarray(params["projection"]["kernel"], np.float64)
    np.testing.assert_allclose(logits, expected + (table @ phi)[LABEL], rtol=1e-4, atol=1e-5)


def test_probabilities_are_labels_too_and_the_projection_is_linear_in_them():
    module, variables = DISCRIMINATOR, variables_of("dcgan")[1]
    same = jnp.tile(images()[:1], (4, 1, 1, 1))
    weights = jnp.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.3, 0.2]], jnp.float32)
    logits, _ = run(module, variables, same, weights, train=False)
    np.testing.assert_allclose(logits[3], weights[3] @ logits[:3], rtol=1e-4)
    expected, _ = run(module, variables, same, jnp.array([0, 1, 2, 0]), train=False)
    np.testing.assert_allclose(logits[:3], expected[:3], rtol=1e-5)


def test_a_network_without_classes_ignores_labels():
    for module, x in zip(
        make_gan(**{**SMALL, "num_classes": None}), (latents(), images()), strict=True
    ):
        variables = random_variables(module, x)
        apply = partial(module.apply, variables, x, train=False)
        assert str(jax.make_jaxpr(apply)()) == str(jax.make_jaxpr(partial(apply, LABEL))())


@pytest.mark.parametrize(
    "name", ["alexnet", "vgg11", "resnet_3x2", "wide_resnet_16_4", "speed_net"]
)
def test_any_classifier_serves_as_a_trunk(name):
    assert set(CLASSIFIERS) < set(DISCRIMINATORS)
    module = make_discriminator(name, image_shape=(16, 16, 1), num_classes=3)
    init = partial(module.init_with_output, train=False)
    (logits, features), _ = jax.eval_shape(init, KEY, images((16, 16, 1)), LABEL)
    assert logits.shape == (4,)
    assert features["class_logits"].shape == (4, 3)
    assert "stage1" in features


def test_a_trunk_keeps_the_variables_of_a_trained_classifier():
    classifier = make_classifier("lenet5", num_classes=3, image_shape=(9, 12, 2))
    trained = random_variables(classifier, images())
    module = TrunkDiscriminator(classifier, num_classes=3)
    variables = jax.tree.map(jnp.zeros_like, random_variables(module, images(), LABEL))
    chex.assert_trees_all_equal_shapes(variables["params"]["trunk"], trained["params"])
    variables = {"params": {**variables["params"], "trunk": trained["params"]}}
    _, features = run(module, variables, images(), LABEL, train=False)
    expected, _ = run(classifier, trained, images(), train=False)
    np.testing.assert_allclose(features["class_logits"], expected, atol=1e-5)


def test_discriminator_norms():
    x = images()
    for norm, collections in (("none", {"params"}), ("batch", {"params", "batch_stats"})):
        module = Discriminator(width=4, norm=norm)
        made = jax.eval_shape(partial(module.init, train=False), KEY, x)
        assert set(made) == collections
    # Of the last one's two stages only the second is normalised, and needs no bias.
    assert set(made["batch_stats"]) == {"norm2"}
    assert "bias" in made["params"]["conv1"] and "bias" not in made["params"]["conv2"]
    with pytest.raises(UserError, match="'none' or 'batch', got 'layer'"):
        Discriminator(norm="layer").init(KEY, x, train=False)


@pytest.mark.parametrize("family", GENERATORS)
def test_self_attention_goes_into_both_networks_by_name(family):
    options = {**SMALL, "image_shape": (16, 18, 2), "width": 0.05}
    fields = {
        "generator_options": {"attention": (0, 1)},
        "discriminator_options": {"attention": (2,)},
    }
    plain, pair = make_gan(family, **options), make_gan(family, **options, **fields)
    inputs = latents(), images((16, 18, 2))
    for before, module, x, stages in zip(plain, pair, inputs, ((0, 1), (2,)), strict=True):
        (outputs, variables), (same, _) = (
            jax.eval_shape(partial(of.init_with_output, train=False), KEY, x, LABEL)
            for of in (module, before)
        )
        assert outputs == same
        params = variables["params"]
        attentions = {name for name in params.get("synthesis", params) if "attention" in name}
        assert attentions == {f"attention{stage}" for stage in stages}
        vectors = variables.get("spectral_norm", {})
        assert (attentions <= set(vectors)) == (family == "sngan" and stages == (2,))


def test_every_kernel_of_a_spectrally_normalised_dcgan_has_an_estimate():
    options = {key: value for key, value in SMALL.items() if key != "latent_size"}
    module = make_discriminator(**options, attention=(1,), spectral_norm=True)
    variables = random_variables(module, images(), LABEL)
    train = jax.jit(partial(module.apply, train=True, mutable=["spectral_norm"]))
    _, after = train(variables, images(), LABEL)
    kernels = [path[:-1] for path in flatten_dict(variables["params"]) if path[-1] == "kernel"]
    assert {path[:-2] for path in flatten_dict(after["spectral_norm"])} == set(kernels)
    plain = make_discriminator(**options, attention=(1,))
    assert set(jax.eval_shape(partial(plain.init, train=False), KEY, images(), LABEL)) == {"params"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_shape": (7, 8, 1)}, "8 to 256 pixels a side, got 7x8; resize"),
        ({"image_shape": (64, 257, 3)}, "8 to 256 pixels a side, got 64x257; resize"),
        ({"image_shape": (28, 28)}, r"\(height, width, channels\), got \(28, 28\)"),
        ({"image_shape": (8, 8, 1), "discriminator": "vgg16"}, "at least 16x16 pixels, got 8x8"),
        ({"num_classes": 1}, "at least 2 classes, got 1"),
        *(
            item
            for family in GENERATORS
            for player, stage, first in (("generator", 9, 0), ("discriminator", 0, 1))
            for item in (
                (
                    {"family": family, f"{player}_options": {"attention": (stage,)}},
                    f"no stage {stage} .* stages {first} to",
                ),
            )
        ),
        (
            {"discriminator_options": {"attention": (0,)}},
            "no stage 0 .* has the stages 1 to 2",
        ),
        (
            {"discriminator": "lenet5", "discriminator_options": {"attention": (1,)}},
            "into the networks of dcgan, r3gan, sngan, stylegan2; a classifier .* lenet5, has no",
        ),
        (
            {"family": "r3gan", "discriminator_options": {"spectral_norm": True}},
            "for the discriminators dcgan and sngan, and not for r3gan",
        ),
    ],
)
def test_errors(options, message):
    assert set(GENERATORS) <= set(DISCRIMINATORS)
    with pytest.raises(UserError, match=message):
        make_gan(**{"image_shape": (28, 28, 1), **options})
