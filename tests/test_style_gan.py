"""StyleGAN2: its sizes, its styles, that it can be trained, and what its samples can do."""

from functools import cache, partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import losses, models, parallel, sampling
from jaxnets.errors import UserError
from jaxnets.models import dcgan, style_gan, style_layers
from model_cases import KEY, untyped

SHAPE, CLASSES, LATENT = (9, 12, 2), 3, 5  # 9 is 5 doubled, and cropped
LABEL = jnp.array([0, 1, 2, 2])
GENERATOR: Any = style_gan.Generator(SHAPE, LATENT, CLASSES, (8, 6), 2, 7)
DISCRIMINATOR: Any = style_gan.Discriminator(CLASSES, (4, 8), 2, 6)


def filled(module, *args):
    """Variables as they start, but nothing is zero that training would make otherwise."""
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        name = jax.tree_util.keystr(path)
        values = rng.normal(size=leaf.shape)
        if name.endswith("'bias']") or "strength" in name or "image_bias" in name:
            values = 0.3 * values + ("affine" in name)
        return (100 * values if "mapping']['dense" in name else values).astype(np.float32)

    shapes = jax.eval_shape(partial(module.init, train=False), KEY, *args)
    return jax.tree_util.tree_map_with_path(fill, shapes)


def latents(count=4):
    return jax.random.normal(KEY, (count, LATENT))


def images(count=4):
    return jax.random.uniform(KEY, (count, *SHAPE), minval=-1.0)


@cache
def variables():
    return filled(GENERATOR, latents(), LABEL), filled(DISCRIMINATOR, images(), LABEL)


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


def parameters(module, *args):
    shapes = jax.eval_shape(partial(module.init, train=False), KEY, *args)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


@pytest.mark.parametrize(
    "size,base,layers,expected",
    [
        (256, 16384, 8, (24_767_458, 23_996_481)),
        (1024, 32768, 2, (28_794_124, 29_007_905)),  # the authors print 28794124, 29012513
    ],
)
def test_published_sizes(size, base, layers, expected):
    widths = style_gan.stylegan2_widths(size, base)
    generator = style_gan.Generator((size, size, 3), 512, None, widths, layers)
    discriminator = style_gan.Discriminator(None, widths[::-1], layers)
    found = (
        parameters(generator, jnp.zeros((1, 512))),
        parameters(discriminator, jnp.zeros((1, size, size, 3))),
    )
    assert found == expected
    assert all(f"{number:,}" in (style_gan.__doc__ or "") for number in expected)


def test_widths():
    assert style_gan.stylegan2_widths(256) == [512] * 4 + [256, 128, 64]
    assert style_gan.stylegan2_widths(64, 32768) == [512] * 5
    assert style_gan.stylegan2_widths(28, 4096) == [512, 256, 128]
    assert style_gan.stylegan2_widths(8) == [512, 512]
    small = models.make_generator("stylegan2", image_shape=(28, 28, 1), width=0.0625)
    assert (small.widths, small.mapping_layers, small.style_size) == ((32, 16, 8), 2, 32)
    large = models.make_generator("stylegan2", image_shape=(64, 64, 3))
    assert (large.widths, large.mapping_layers) == ((512, 512, 512, 512, 256), 8)


@pytest.mark.parametrize(
    "size,channels,classes",
    [
        (8, 1, 3),
        pytest.param(16, 3, None, marks=pytest.mark.slow),
        pytest.param(64, 2, 3, marks=pytest.mark.slow),
    ],
)
def test_shapes_of_small_networks(size, channels, classes):
    pair = models.make_gan(
        "stylegan2",
        image_shape=(size, size, channels),
        num_classes=classes,
        latent_size=4,
        width=0.01,
        dtype=jnp.bfloat16,
    )
    generator, discriminator = map(untyped, pair)
    z, label = jnp.ones((2, 4)), jnp.array([0, 2])

    @jax.jit
    def both(key):
        (fakes, made), _ = generator.init_with_output(key, z, label, train=False)
        (logits, features), _ = discriminator.init_with_output(key, fakes, label, train=False)
        return fakes, made, logits, features

    fakes, made, logits, features = both(KEY)
    chex.assert_tree_all_finite((fakes, logits))
    assert (fakes.shape, fakes.dtype) == ((2, size, size, channels), jnp.float32)
    assert (logits.shape, logits.dtype) == ((2,), jnp.float32)
    assert made["stage1"].dtype == features["stage1"].dtype == jnp.bfloat16
    assert 0.01 < fakes.std() < 5.0, "grey or blinding"


def play(generator_variables, discriminator_variables):
    """The generator's loss and every output of both networks."""
    made = GENERATOR.apply(generator_variables, latents(), LABEL, train=True, rngs={"dropout": KEY})
    judged = DISCRIMINATOR.apply(discriminator_variables, made[0], LABEL, train=True)
    return jax.nn.softplus(-judged[0]).mean(), (made, judged)


@cache
def played():
    return jax.jit(jax.value_and_grad(play, argnums=(0, 1), has_aux=True))(*variables())


@pytest.mark.slow
def test_a_training_pass_is_the_same_without_jit():
    chex.assert_trees_all_close(played()[0], play(*variables()), rtol=1e-3, atol=1e-3)


def test_a_training_pass_is_finite_and_every_parameter_learns():
    outputs, grads = played()
    (fakes, made), (logits, features) = outputs[1]
    chex.assert_shape(fakes, (4, *SHAPE))
    chex.assert_shape(logits, (4,))
    assert set(made) == {"stage0", "stage1"} and set(features) == {"stage1", "penultimate"}
    chex.assert_tree_all_finite((outputs, grads))
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        assert (jnp.abs(leaf) > 1e-9).any(), jax.tree_util.keystr(path)


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


@pytest.mark.parametrize("name", ["r1", pytest.param("wgan_gp", marks=pytest.mark.slow)])
def test_a_penalty_has_the_gradient_of_the_gradient(name):
    def critic(params, x):
        return DISCRIMINATOR.apply({"params": params}, x, LABEL, train=True)[0]

    def ours(params):
        return losses.penalty(name)(partial(critic, params), KEY, images(), images()).sum()

    def by_definition(params):
        slopes = jax.grad(lambda x: critic(params, x).sum())(images())
        squares = jnp.square(slopes).sum(axis=(1, 2, 3))
        return (0.5 * squares if name == "r1" else (jnp.sqrt(squares) - 1) ** 2).sum()

    params = variables()[1]["params"]
    got, want = (jax.jit(jax.value_and_grad(f))(params) for f in (ours, by_definition))
    chex.assert_trees_all_close(got, want, rtol=2e-3, atol=1e-4)
    assert max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(got[1])) > 1e-3


@pytest.mark.slow
def test_path_lengths_of_the_synthesis():
    """Its layers have forward mode, and the trick the gradient of the definition."""
    noise, w = {"dropout": jax.random.key(1)}, styles()

    def noisily(variables, w):
        return GENERATOR.apply(variables, w, train=True, method="synthesise", rngs=noise)[0]

    def ours(variables):
        return losses.path_length_penalty(partial(noisily, variables), KEY, w, 0.5)[0]

    def by_definition(variables):
        lengths = []
        images, pull = jax.vjp(partial(noisily, variables), w)
        keys = jax.vmap(partial(jax.random.fold_in, KEY))(jnp.arange(4))
        y = jax.vmap(lambda k: jax.random.normal(k, SHAPE))(keys) / np.sqrt(9 * 12)
        lengths = jnp.sqrt(jnp.square(pull(y)[0]).sum(2).mean(1))
        return jnp.square(lengths - 0.5)

    got, want = (
        jax.jit(jax.value_and_grad(lambda v, f=f: f(v).sum()))(variables()[0])
        for f in (ours, by_definition)
    )
    chex.assert_trees_all_close(got, want, rtol=2e-3, atol=2e-3)


def test_a_logit_is_of_one_image_and_its_label():
    apply = jax.jit(partial(DISCRIMINATOR.apply, train=False))
    logits, features = apply(variables()[1], images(), LABEL)
    changed, _ = apply(variables()[1], images().at[1:].set(0.5), LABEL)
    np.testing.assert_allclose(changed[0], logits[0], rtol=1e-4)
    same, _ = apply(variables()[1], jnp.tile(images()[:1], (4, 1, 1, 1)), LABEL)
    assert abs(same[0] - same[1]) > 1e-4
    np.testing.assert_allclose(same[2], same[3], rtol=1e-4)
    head = variables()[1]["params"]["head"]
    judged = features["penultimate"] @ head["kernel"] / np.sqrt(8) + head["bias"][None]
    mapping = style_layers.Mapping(6, 2, CLASSES)
    mapped = compiled(mapping)({"params": variables()[1]["params"]["mapping"]}, None, LABEL)
    np.testing.assert_allclose(logits, (judged * mapped).sum(1) / np.sqrt(6), rtol=1e-3)


def test_self_attention_by_a_field():
    for module, x, first in ((GENERATOR, latents(), 0), (DISCRIMINATOR, images(), 1)):
        made = jax.eval_shape(
            partial(module.clone(attention=(1,)).init, train=False), KEY, x, LABEL
        )
        assert "attention1" in made["params"].get("synthesis", made["params"])
        with pytest.raises(UserError, match=rf"no stage 7 .* has the stages {first} to"):
            module.clone(attention=(7,)).init(KEY, x, LABEL, train=False)


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


def test_errors_of_a_call():
    apply = partial(GENERATOR.apply, variables()[0])
    with pytest.raises(UserError, match=r"takes latents \[B, 5\], got \[4, 6\]"):
        apply(jnp.ones((4, 6)), LABEL, train=False)
    with pytest.raises(UserError, match="conditional on 3 classes and got no labels"):
        apply(latents(), train=False)
    with pytest.raises(UserError, match=r"takes styles \[B, 4, 7\], got \[2, 3, 7\]"):
        apply(jnp.ones((2, 3, 7)), train=False, method="synthesise")
