"""StyleGAN2: its sizes, its styles, that it can be trained, and what its samples can do."""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import models
from jaxnets.devices import parallel
from jaxnets.errors import UserError
from jaxnets.judge import sampling
from jaxnets.models import dcgan, style_layers
from model_cases import (
    CLASSES,
    FAMILIES,
    KEY,
    LABEL,
    LATENT,
    SHAPE,
    images,
    latents,
    untyped,
    variables_of,
)

GENERATOR, DISCRIMINATOR = FAMILIES["stylegan2"]
variables = partial(variables_of, "stylegan2")


@cache
def compiled(module, **options) -> Any:
    return jax.jit(partial(module.apply, **options))


@cache
def styles():
    return compiled(GENERATOR, method="map")(variables()[0], latents(), LABEL)


def synthesise(variables, w):
    return compiled(GENERATOR, train=False, method="synthesise")(variables, w)[0]


def silent():
    """The generator's variables, without noise."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: 0 * leaf if "strength" in jax.tree_util.keystr(path) else leaf,
        variables()[0],
    )


def test_sizes_follow_from_the_width():
    small = models.make_generator("stylegan2", image_shape=(28, 28, 1), width=0.0625)
    assert (small.widths, small.mapping_layers, small.style_size) == ((32, 16, 8), 2, 32)
    large = models.make_generator("stylegan2", image_shape=(64, 64, 3))
    assert (large.widths, large.mapping_layers) == ((512, 512, 512, 512, 256), 8)


def test_images_start_neither_grey_nor_blinding():
    module = untyped(models.make_generator("stylegan2", image_shape=(8, 8, 1), width=0.01))
    z = jnp.ones((2, module.latent_size))
    (fakes, _), _ = jax.jit(partial(module.init_with_output, train=False))(KEY, z)
    assert 0.01 < fakes.std() < 5.0


def test_a_call_is_the_map_and_the_synthesis_and_evaluation_draws_nothing():
    w = styles()
    assert w.shape == (4, 4, 7) and GENERATOR.num_styles == 4
    assert (w == w[:, :1]).all() and len(np.unique(w[:, 0, 0])) == 4
    call = compiled(GENERATOR, train=False)
    whole, _ = call(variables()[0], latents(), LABEL)
    parts = synthesise(variables()[0], w)
    np.testing.assert_allclose(whole, parts, atol=1e-5)
    other, _ = call(variables()[0], latents(), jnp.zeros_like(LABEL))
    np.testing.assert_allclose(other[0], whole[0], atol=1e-5)
    assert jnp.abs(other[1] - whole[1]).max() > 1e-3
    without = synthesise(silent(), w)
    assert jnp.abs(without - parts).max() > 1e-3, "evaluation has no noise"


def test_each_example_has_its_own_noise_on_any_number_of_devices():
    mesh = parallel.make_mesh(4)
    split = jax.sharding.PartitionSpec("data")
    z, label = jnp.tile(latents(1), (8, 1)), jnp.zeros(8, jnp.int32)

    def make(z, label):
        return GENERATOR.apply(
            variables()[0], z, label, train=True, rngs={"dropout": jax.random.key(3)}
        )[0]

    alone = jax.jit(make)(z, label)
    differences = jnp.abs(alone[1:] - alone[:1]).max(axis=(1, 2, 3))
    assert (differences > 1e-3).all(), "examples share noise or mixing"
    spread = jax.shard_map(
        make, mesh=mesh, in_specs=(split, split), out_specs=split, check_vma=False
    )
    np.testing.assert_allclose(jax.jit(spread)(z, label), alone, rtol=1e-4, atol=1e-4)
    place = jax.sharding.NamedSharding(mesh, split)
    inputs = jax.device_put((z, label), place)
    np.testing.assert_allclose(jax.jit(make)(*inputs), alone, rtol=1e-4, atol=1e-4)


def test_mixing_takes_over_at_every_layer_in_the_share_that_is_asked_for():
    def starts(mixing):
        module = GENERATOR.clone(mixing=mixing)
        return np.asarray(
            module.apply(
                {}, 4000, method=lambda self, n: self._second_latents(n), rngs={"dropout": KEY}
            )[1]
        )

    found = np.bincount(starts(0.6), minlength=5) / 4000
    np.testing.assert_allclose(found, [0, 0.2, 0.2, 0.2, 0.4], atol=0.03)
    assert (starts(1.0) < 4).all()

    def made(mixing, train):
        apply = compiled(GENERATOR.clone(mixing=mixing), train=bool(train))
        image, features = apply(silent(), latents(), LABEL, rngs={"dropout": KEY})
        return image, features["stage0"]

    # The second latents take over after the first style, and in training only.
    (plain, first), (same, _), (mixed, also_first) = made(1.0, False), made(0.0, True), made(1.0, 1)
    np.testing.assert_array_equal(plain, same)
    np.testing.assert_array_equal(first, also_first)
    assert (jnp.abs(mixed - plain).max(axis=(1, 2, 3)) > 1e-3).all()


def test_a_logit_is_the_dot_product_of_image_and_label():
    apply = jax.jit(partial(DISCRIMINATOR.apply, train=False))
    logits, features = apply(variables()[1], images(), LABEL)
    head = variables()[1]["params"]["head"]
    judged = features["penultimate"] @ head["kernel"] / np.sqrt(8) + head["bias"][None]
    mapping = style_layers.Mapping(6, 2, CLASSES)
    mapped = compiled(mapping)({"params": variables()[1]["params"]["mapping"]}, None, LABEL)
    np.testing.assert_allclose(logits, (judged * mapped).sum(1) / np.sqrt(6), rtol=1e-3)


def test_truncation_is_towards_the_mean_style_of_the_class():
    sample = sampling.make_sample(GENERATOR, latent_size=LATENT, conditional=True, batch_size=3)
    labels = np.array([2, 0, 2, 2, 1], np.int32)
    draw = partial(sample, variables()[0], jax.random.key(1))
    whole = draw(labels)
    np.testing.assert_allclose(draw(labels, 1.0), whole, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(draw(labels[:2], 0.5), draw(labels, 0.5)[:2], atol=1e-5)
    means = sampling.mean_style(GENERATOR, variables()[0], jax.random.key(0), jnp.arange(3))
    assert means.shape == (3, 4, 7)
    typical = synthesise(variables()[0], means)
    np.testing.assert_allclose(draw(labels, 1e-6), typical[labels], rtol=1e-3, atol=1e-3)
    z = jax.random.normal(jax.random.key(0), (1024, LATENT))
    one = compiled(GENERATOR, method="map")(variables()[0], z, jnp.full(1024, 2)).mean(axis=0)
    np.testing.assert_allclose(means[2], one, rtol=1e-4, atol=1e-5)
    distances = [np.abs(draw(labels, psi) - typical[labels]).mean() for psi in (0.3, 0.6, 1.0)]
    assert distances == sorted(distances)


def test_style_mixing_has_the_samples_on_its_diagonal():
    labels = np.array([0, 2, 1], np.int32)
    mix = partial(sampling.style_mixing, GENERATOR, variables()[0], jax.random.key(1))
    mixed = mix(labels, 1)
    assert mixed.shape == (3, 3, *SHAPE)
    sample = sampling.make_sample(GENERATOR, latent_size=LATENT, conditional=True)
    expected = sample(variables()[0], jax.random.key(1), labels)
    np.testing.assert_allclose(mixed[np.arange(3), np.arange(3)], expected, atol=1e-4)
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(1)))(jnp.arange(3))
    z = jax.vmap(lambda key: jax.random.normal(key, (LATENT,)))(keys)
    w = compiled(GENERATOR, method="map")(variables()[0], z, labels)
    both = jnp.concatenate([w[:1, :1], w[1:2, 1:]], axis=1)
    np.testing.assert_allclose(mixed[0, 1], synthesise(variables()[0], both)[0], atol=1e-4)
    for crossover in (0, 2, -1):
        with pytest.raises(UserError, match=f"stages 1 to 1, got {crossover}"):
            mix(labels, crossover)
    with pytest.raises(UserError, match="at least 1"):
        mix(0, 1)
    with pytest.raises(UserError, match="stylegan2 is one"):
        sampling.style_mixing(dcgan.Generator((8, 8, 1)), {}, KEY, 2, 1)


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"mapping_layers": 0}, "at least 1 layer, got 0"),
        ({"widths": ()}, "each stage needs a width"),
        ({"widths": (4, 0)}, "each stage needs a width"),
        ({"style_size": 0}, "style_size=0"),
        ({"mixing": 1.5}, "share in .*, got 1.5"),
        ({"mixing": float("nan")}, "share in .*, got nan"),
    ],
)
def test_fields_that_no_network_can_have(fields, message):
    with pytest.raises(UserError, match=message):
        GENERATOR.clone(**fields).init(KEY, latents(), LABEL, train=False)
    if set(fields) <= {"mapping_layers", "widths"}:
        with pytest.raises(UserError, match=message):
            DISCRIMINATOR.clone(**fields).init(KEY, images(), LABEL, train=False)


def test_styles_of_another_number_are_refused():
    with pytest.raises(UserError, match=r"takes styles \[B, 4, 7\], got \[2, 3, 7\]"):
        GENERATOR.apply(variables()[0], jnp.ones((2, 3, 7)), train=False, method="synthesise")
