"""Augmentation of a share of the images, fixed, by schedule, or as ADA moves it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from command_lines import GENERATE, assert_one_error, run
from jaxnets.data import augment
from jaxnets.data.augment import AUGMENT_PROBABILITY
from jaxnets.devices import parallel
from jaxnets.metrics import Mean
from jaxnets.run.log import read_records

KEY = jax.random.key(0)
KEYS = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(4000))
NEGATED = augment.compose(lambda key, image: -image)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_a_share_of_images_is_augmented(probability):
    images = jnp.ones((4000, 2, 2, 1))
    made = jax.jit(lambda p: augment.apply(augment.sometimes(NEGATED, p), KEYS, images))(
        probability
    )
    assert abs((made < 0).all(axis=(1, 2, 3)).mean() - probability) < 0.03


def test_each_of_composed_ones_has_its_own_draw():
    both = augment.compose(lambda key, image: -image, lambda key, image: image * 3)
    images = jnp.ones((4000, 1, 1, 1))
    made = augment.apply(augment.sometimes(both, 0.5), KEYS, images).ravel()
    shares = [float((made == value).mean()) for value in (1, -1, 3, -3)]
    np.testing.assert_allclose(shares, 0.25, atol=0.03)


def test_the_probability_moves_by_images_seen_towards_the_target():
    ada = augment.Adaptive(target=0.6, images=1000)

    def moved(probability, sign):
        metrics = {"d_sign_real": Mean.of(jnp.full(100, sign))}
        after = ada.after({AUGMENT_PROBABILITY: jnp.float32(probability)}, metrics)
        return float(after[AUGMENT_PROBABILITY])

    np.testing.assert_allclose([moved(0.5, 0.9), moved(0.5, 0.1)], [0.6, 0.4], rtol=1e-6)
    assert moved(0.02, 0.1) == 0 and moved(0.95, 1.0) == 1


def made(probability, **options):
    flip = augment.gan_augmentation("flip")
    return tiny.gan(augment=flip, augment_probability=probability, **options)


def loss(step, *arguments):
    """The discriminator's, compiled without the updates."""
    return jax.jit(lambda *given: step(*given)[1]["d_loss"].total)(*arguments)


def test_no_share_and_all_of_it_are_without_and_with():
    batch = tiny.batch()
    found = {}
    for name, probability in {"none": 0.0, "all": 1.0, "schedule": lambda step: 0.0 * step}.items():
        start, step = made(probability, penalty=None)
        found[name] = loss(step, start, batch)
    plain, step = tiny.gan(augment=None, penalty=None)
    without = loss(step, plain, batch)
    np.testing.assert_allclose([found["none"], found["schedule"]], without, rtol=1e-6)
    assert abs(found["all"] - without) > 1e-4


@pytest.mark.parametrize(
    "mode,discriminator_steps,target",
    [
        ("jit", 2, -1.5),  # the discriminator is always too sure
        pytest.param("pmap", 1, 1.5, marks=pytest.mark.slow),  # and never
        pytest.param("jit", 1, 1.5, marks=pytest.mark.slow),
        pytest.param("pmap", 2, -1.5, marks=pytest.mark.slow),
    ],
)
def test_a_step_moves_it_by_the_signs_of_all_devices(mode, discriminator_steps, target):
    ada = augment.Adaptive(target, images=200.0, start=0.25)
    start, step = made(ada, discriminator_steps=discriminator_steps, penalty=None)
    mesh = parallel.make_mesh(4)
    compiled = parallel.compile_step(step, mesh, mode)
    after, metrics = compiled(parallel.replicate(start, mesh), tiny.batch(16))
    assert float(after.extra[AUGMENT_PROBABILITY]) == pytest.approx(
        0.25 - np.sign(target) * 16 / 200
    )
    assert metrics[AUGMENT_PROBABILITY].compute() == 0.25  # that of this step


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags,least,most",
    [
        ("--augment-images 64 --augment-target -0.99", 0.125, 1),
        ("", 0, 0.001),
    ],
)
def test_the_command(flags, least, most, workplace):
    run(
        GENERATE,
        "--augment translation --adaptive-augment --log-every 1 --epochs 0.05 --run-dir gan",
        flags,
    )
    records = read_records(workplace / "gan" / "metrics.jsonl")
    shares = [r[AUGMENT_PROBABILITY] for r in records if r["split"] == "train"]
    assert len(shares) == 2 and least <= max(shares) <= most


def test_flags_that_need_another(cli, workplace):
    assert_one_error(cli(*GENERATE, "--adaptive-augment"), "--augment translation,cutout")
    assert_one_error(cli(*GENERATE, "--augment", "flip", "--augment-probability", 2), "0..1")
