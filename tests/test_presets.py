"""Presets of `generate`: what they fill, that each of them makes a step, and how seeds start."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import data
from jaxnets.commands import common, gan_step, generate, judging
from jaxnets.commands.configs import generate as gan_config
from jaxnets.commands.configs import presets
from jaxnets.commands.configs.reading import config_of_run
from jaxnets.devices import parallel
from jaxnets.errors import UserError
from jaxnets.run.task import Lazily, take_feed


def test_a_preset_is_of_the_data_or_asked_for():
    of = lambda **options: gan_config.resolve(gan_config.Generate(**options))  # noqa: E731
    assert (of().generator, of().preset, of().width) == ("dcgan", "dcgan_small", 0.5)
    mine = of(data="folder:x", generator="sngan")  # of any size: by a width, not by stages
    assert (mine.preset, mine.width, mine.generator_widths) == ("sngan_small", 0.25, None)
    assert of(data="folder:x", preset="").width == 1.0
    assert of(preset="").width == 1.0
    large = of(preset="r3gan_64", data="folder:x")
    assert (large.generator, large.penalty_weight) == ("r3gan", "2:0.2")
    assert of(preset="r3gan_64", penalty_weight=3.0, data="folder:x").penalty_weight == 3.0
    # Both the data and the preset say how long: the preset that was asked for is right.
    assert of(data="digits").epochs == 200
    assert of(preset="sngan_32", data="digits").epochs == 640
    with pytest.raises(UserError, match="is for --generator r3gan, not for dcgan"):
        of(preset="r3gan_64", generator="dcgan")
    with pytest.raises(UserError, match='no preset "r3gan_65"; choose from dcgan_small'):
        of(preset="r3gan_65")


def test_networks_that_were_asked_for_have_not_the_presets_channels():
    of = lambda **options: gan_config.resolve(gan_config.Generate(generator="sngan", **options))  # noqa: E731
    preset = presets.PRESETS["sngan_small"]
    assert of().generator_widths == preset["generator_widths"]
    assert (of(width=0.25).generator_widths, of(width=0.25).discriminator_widths) == (None, None)
    other = of(discriminator="lenet5")
    assert other.generator_widths == preset["generator_widths"]
    assert other.discriminator_widths is None
    # A run's config.json has every value, and means the same when it is read again.
    for config in (of(), of(width=0.25), other, of(generator_widths=(8, 8))):
        assert gan_config.resolve(config) == config


def read(preset, **changes):
    """The config of a run that an earlier version made with a preset."""
    values = common.experiment_values(
        gan_config.resolve(gan_config.Generate(preset=preset, data="folder:x"))
    )
    later = ("path_length_weight", "generator_fields", "discriminator_fields", "augment_target")
    values = {**{k: v for k, v in values.items() if k not in later}, **changes}
    return config_of_run(
        Path("run"), {"config": values}, gan_config.Generate, gan_config.read_again
    )


def test_a_run_is_read_as_it_was_made_though_its_preset_has_changed():
    run = read("r3gan_64", augment="", augment_probability=None)
    assert (run.augment, run.augment_probability, run.augment_target) == ("", None, 0.6)
    run = read("stylegan2_64", batch_size=64)
    assert (run.generator_fields, run.path_length_weight, run.batch_size) == (None, 0.0, 64)
    assert gan_config.read_again(run) == run


def test_what_is_asked_for_is_added_to_a_preset_or_takes_its_place():
    of = lambda **options: gan_config.resolve(gan_config.Generate(data="folder:x", **options))  # noqa: E731
    assert of(preset="r3gan_64").augment_probability == "0:0.3"
    plain = of(preset="r3gan_64", augment="")
    assert (plain.augment, plain.augment_probability) == ("", None)
    assert of(preset="r3gan_64", adaptive_augment=True).augment_probability is None
    fields = ("mixing=0.5",)
    assert of(preset="stylegan2_64", generator_fields=fields).generator_fields == (
        "mapping_layers=2",
        "mixing=0.5",
    )
    fields = ("mapping_layers=4",)
    assert of(preset="stylegan2_64", generator_fields=fields).generator_fields == fields


def test_a_run_is_looked_at_on_any_number_of_devices():
    long = gan_config.resolve(gan_config.Generate(epochs=1e5))
    looked = judging.for_looking(long, parallel.make_mesh(3))
    assert (looked.batch_size, looked.micro_batches, looked.epochs) == (33, 1, 1e5)


def sized(name):
    """Two images of a preset's size and classes, as a data set."""
    size = int(name.rpartition("_")[2])
    labels = np.arange(2, dtype=np.int32)
    two = data.Split(np.zeros((2, size, size, 3), np.uint8), labels)
    return data.DataSet("two", {"train": two, "test": two}, ("a", "b"), fingerprint="0" * 64)


LARGEST = ("dcgan_64", "sngan_128", "r3gan_256", "stylegan2_256")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in LARGEST))
        for name in presets.PRESETS
        if "small" not in name
    ],
)
def test_networks_of_every_preset_are_of_its_size(name):
    config = gan_config.resolve(gan_config.Generate(preset=name, data="folder:x"))
    dataset = sized(name)
    networks = gan_step.networks(config, dataset)
    shape = dataset.splits["train"].inputs.shape[1:]
    keys = lambda member: jax.random.split(jax.random.key(member), 4)  # noqa: E731
    init = gan_step.first_state(config, networks, shape, 10, keys)
    state = jax.eval_shape(lambda: init(0))
    made, _ = jax.eval_shape(
        lambda net: networks[0].apply(
            {"params": net.params, **net.model_state},
            jnp.zeros((2, config.latent_size)),
            jnp.zeros(2, jnp.int32),
            train=False,
        ),
        state.nets["generator"],
    )
    assert made.shape == (2, *shape)


ONE_OF_A_FAMILY = ("dcgan_small", "sngan_small", "r3gan_64", "stylegan2_64")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in ONE_OF_A_FAMILY))
        for name in presets.PRESETS
    ],
)
def test_every_preset_makes_a_step(name):
    config = gan_config.resolve(
        gan_config.Generate(preset=name, data="digits", width=0.02, batch_size=4, latent_size=4)
    )
    mesh = parallel.make_mesh(1)
    built = generate.build(config, data.load("digits"), mesh)
    assert built.task.pipeline.batch_size == config.step_images
    state = jax.eval_shape(built.task.init)
    pipeline, step = built.task.pipeline, built.task.step
    step = step.costly if isinstance(step, Lazily) else step
    source = jax.tree.map(jnp.asarray, pipeline.source)
    feed = take_feed(pipeline, 0, 1)
    after, metrics = jax.eval_shape(lambda s: step(s, pipeline.fetch(source, feed)), state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    assert {"d_loss", "g_loss"} <= set(metrics)


def test_gans_of_several_seeds_start_with_networks_and_keys_of_their_own():
    config = gan_config.resolve(
        gan_config.Generate(seeds=2, conditional=False, width=0.02, batch_size=4, latent_size=4)
    )
    state = generate.build(config, data.load("digits"), parallel.make_mesh(1)).task.init()
    for tree in (*(net.params for net in state.nets.values()), jax.random.key_data(state.key)):
        assert any((leaf[0] != leaf[1]).any() for leaf in jax.tree.leaves(tree))
