"""What joins a GAN's losses, numbers that change with the images seen, and sweeps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tiny
from jaxnets import data, losses, models
from jaxnets.commands import gan_step, populations
from jaxnets.commands.configs import generate as gan_config
from jaxnets.commands.configs import sweeps
from jaxnets.commands.configs.constraints import ends
from jaxnets.errors import UserError
from jaxnets.models.conditioning import AuxiliaryClassifier
from jaxnets.train import optimizers, state

KEY = jax.random.key(0)
EXTRA = {"lecam_real": 0.25, "lecam_fake": -0.5}


def with_extra(start):
    return state.TrainState.create(start.key, start.nets, EXTRA)


def test_a_ramp_is_half_a_cosine_over_images_and_then_its_end():
    ramp = optimizers.over_images(0.05, 0.005, 1000.0, 10)
    found = [float(ramp(step)) for step in (0, 50, 100, 1000)]
    np.testing.assert_allclose(found, [0.05, 0.0275, 0.005, 0.005], rtol=1e-5)
    twice = optimizers.over_images(0.05, 0.005, 1000.0, 20)
    np.testing.assert_allclose(float(twice(25)), found[1], rtol=1e-6)
    assert float(optimizers.over_images(1.0, 2.0, 0, 10)(0)) == 2.0


def test_a_half_life_is_half_forgotten_after_it_and_starts_short():
    decay = optimizers.half_life_decay(1000.0, 10, warmup=0.0)
    assert float(decay(0)) ** 100 == pytest.approx(0.5, rel=1e-4)
    warm = optimizers.half_life_decay(1000.0, 10, warmup=0.05)
    # After 1,000 images the half-life is 50 of them: a batch of 10 leaves 0.5^(10 / 50).
    assert float(warm(99)) == pytest.approx(0.5**0.2, rel=1e-4)
    assert float(warm(10**6)) == pytest.approx(float(decay(0)), rel=1e-6)


def test_a_schedule_of_b2_is_that_of_the_update():
    params = {"w": jnp.ones(3)}
    ramp = optimizers.make_optimizer("adam", 0.1, b1=0.0, b2=lambda step: 0.5 + 0.1 * step)
    fixed = optimizers.make_optimizer("adam", 0.1, b1=0.0, b2=0.5)
    gradient = {"w": jnp.array([1.0, -2.0, 3.0])}
    one, other = (o.update(gradient, o.init(params), params) for o in (ramp, fixed))
    np.testing.assert_allclose(one[0]["w"], other[0]["w"], rtol=1e-5)
    second = [o.update({"w": jnp.ones(3)}, s, params)[0]["w"] for o, (_, s) in
              ((ramp, one), (fixed, other))]  # fmt: skip
    assert float(jnp.abs(second[0] - second[1]).max()) > 1e-4
    with pytest.raises(UserError, match="schedule of b2 is for adam"):
        optimizers.make_optimizer("lion", 0.1, b2=lambda step: 0.9)


def test_clipped_weights_stay_within_their_limit():
    params = {"w": jnp.array([0.0, 0.5, -0.5])}
    optimizer = optimizers.make_optimizer("sgd", 1.0, momentum=0.0, weight_clip=0.3)
    gradient = {"w": jnp.array([-0.1, 0.0, 9.0])}
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_allclose(
        optax.apply_updates(params, updates)["w"], [0.1, 0.3, -0.3], rtol=1e-6
    )


def play_of(real, fake, mask=None, extra=None, **features):
    """What terms of logits (or features) see, and nothing else."""
    sides = [losses.Side(None, x, {"penultimate": x}) for x in (real, fake)]
    mask = jnp.ones(len(real)) if mask is None else mask
    nothing = dict.fromkeys(field.name for field in dataclasses.fields(losses.Play))
    given = {"batch": {"mask": mask}, "extra": extra, "real": sides[0], "fake": sides[1]}
    return losses.Play(**nothing | given)


def test_lecam_is_its_formula_and_its_averages_move():
    real, fake = jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0])
    means = {"lecam_real": jnp.float32(0.75), "lecam_fake": jnp.float32(-0.5)}
    found, _ = losses.LeCam()(play_of(real, fake, extra=means), KEY)
    np.testing.assert_allclose(found, [1.5**2 + 0.25**2, 0.0], rtol=1e-6)

    start, step = tiny.gan(terms=[losses.LeCam(0.5, decay=0.9)], penalty=None)
    assert start.extra == {"lecam_real": 0.0, "lecam_fake": 0.0}
    after, metrics = jax.jit(step)(with_extra(start), tiny.batch())
    for name, of in (("lecam_real", "d_real"), ("lecam_fake", "d_fake")):
        expected = 0.9 * EXTRA[name] + 0.1 * metrics[of].compute()
        assert float(after.extra[name]) == pytest.approx(expected, rel=1e-5)


def test_feature_distance_is_that_of_the_means_of_what_counts():
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(2, 6, 4)).astype(np.float32)
    mask = jnp.array([1, 1, 1, 1, 0, 0], jnp.float32)

    def distance(real):
        return losses.FeatureMatching()(play_of(real, jnp.asarray(fake), mask), KEY)[0]

    expected = np.square(real[:4].mean(axis=0) - fake[:4].mean(axis=0)).sum()
    np.testing.assert_allclose(distance(jnp.asarray(real)), np.full(6, expected), rtol=1e-5)
    assert not np.any(jax.grad(lambda x: distance(x).sum())(jnp.asarray(real)))


def test_features_of_another_network_are_matched():
    means = losses.FeatureMatching(1.0, lambda images: images.mean(axis=(1, 2)))
    start, step = tiny.gan(terms=[means], penalty=None)
    matching = jax.jit(lambda *given: step(*given)[1]["cnn_matching"])
    assert 0 < matching(start, tiny.batch()).compute() < 4


AUXILIARY = [losses.Auxiliary(player) for player in ("discriminator", "generator")]


def conditioned(conditioning):
    return tiny.family(
        "dcgan",
        "hinge",
        width=0.05,
        rate=1e-2,
        b2=0.999,
        penalty="r1",
        conditioning=conditioning,
        terms=AUXILIARY if conditioning == "auxiliary" else [],
    )


def eight(label):
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (len(label), 8, 8, 1)).astype(np.float32)
    # The class is in the picture, for a discriminator to name.
    images += np.asarray(label, np.float32)[:, None, None, None]
    return {"inputs": images, "target": np.asarray(label, np.int32), "mask": np.ones(len(label))}


def test_an_auxiliary_classifier_learns_to_name_classes():
    start, step, discriminator = conditioned("auxiliary")
    assert isinstance(discriminator, AuxiliaryClassifier)
    batch, run = eight([0, 1] * 8), jax.jit(step)
    for _ in range(40):
        start, metrics = run(start, batch)
    assert metrics["class_accuracy"].compute() > 0.9
    assert np.isfinite(metrics["g_loss"].compute())


@pytest.mark.parametrize("conditioning,heeds", [("concatenated", True), ("auxiliary", False)])
def test_a_class_changes_the_logit_where_it_is_told(conditioning, heeds):
    start, _, discriminator = conditioned(conditioning)
    images, variables = eight([0])["inputs"], start.nets["discriminator"].variables
    logits = [
        float(discriminator.apply(variables, images, jnp.array([c]), train=False)[0][0])
        for c in (0, 1)
    ]
    assert (abs(logits[0] - logits[1]) > 1e-6) == heeds


def test_a_discriminator_that_names_no_classes_is_refused():
    start, step = tiny.gan(terms=AUXILIARY)
    with pytest.raises(UserError, match="AuxiliaryClassifier"):
        jax.eval_shape(step, start, tiny.batch())
    with pytest.raises(UserError, match='no conditioning "x"'):
        models.make_discriminator("dcgan", image_shape=(8, 8, 1), num_classes=2, conditioning="x")


def test_values_of_flags_are_numbers_or_ramps():
    assert ends(0.1, "b2") == (0.1, 0.1)
    assert ends("0.05:0.005", "penalty_weight") == (0.05, 0.005)
    config = gan_config.resolve(gan_config.Generate(b2="0.5", ema_half_life="1:3", batch_size=1))
    numbers = gan_step.Numbers(config, 10, {})
    assert numbers.of("b2") == 0.5
    assert float(numbers.of("ema_half_life")(5)) == pytest.approx(2.0)


def test_a_family_brings_its_own_values_and_a_flag_overrides_them():
    config = gan_config.resolve(gan_config.Generate(generator="r3gan", data="digits"))
    assert (config.loss, config.penalty, config.preset) == ("relativistic", "r1_r2", "r3gan_small")
    assert gan_config.resolve(gan_config.Generate(generator="sngan")).loss == "hinge"
    own = gan_config.resolve(gan_config.Generate(generator="r3gan", loss="hinge", b2="0.9:0.99"))
    assert (own.loss, own.b2) == ("hinge", "0.9:0.99")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"generator": "sngan", "penalty_weight": 3.0},
            "--penalty-weight needs a penalty: choose one with --penalty",
        ),
        ({"penalty": "none", "penalty_every": 4}, "--penalty-every needs a penalty: choose one"),
        ({"auxiliary_weight": 1.0}, "--auxiliary-weight needs --conditioning auxiliary"),
        ({"augment": "flip", "augment_target": 0.5}, "--augment-target needs --adaptive-augment"),
        ({"data": "folder:a:b", "ramp_images": 9.0}, "--ramp-images needs a value that changes"),
        ({"accuracy_score": False, "score_epochs": 3.0}, "--score-epochs needs the accuracy score"),
        ({"conditional": False, "score_epochs": 3.0}, "--score-epochs needs the accuracy score"),
    ],
)
def test_a_number_that_changes_nothing_is_refused(flags, message):
    with pytest.raises(UserError, match=message):
        gan_config.resolve(gan_config.Generate(**flags))


def test_numbers_that_a_preset_has_for_what_was_left_out_are_no_mistake():
    for flags in (
        {"generator": "stylegan2", "penalty": "none", "path_length_weight": 2.0},
        {"generator": "r3gan", "penalty": "none", "generator_learning_rate": 1e-3},
    ):
        config = gan_config.resolve(gan_config.Generate(**flags))
        assert gan_config.resolve(config) == config
    lazy = {"path_length_weight": 2.0, "penalty": "none", "penalty_every": 4}
    assert gan_config.resolve(gan_config.Generate(generator="stylegan2", **lazy)).penalty_every == 4


def test_fields_of_the_networks_are_those_of_the_flags():
    config = gan_config.Generate(
        data="digits",
        generator_attention=(1,),
        discriminator_attention=(2,),
        spectral_norm=True,
        generator_fields=("embedding_size=5",),
        discriminator_fields=("dropout=0.5", "norm=none"),
    )
    generator, discriminator = gan_step.networks(gan_config.resolve(config), data.load("digits"))
    assert (generator.attention, discriminator.attention) == ((1,), (2,))
    assert discriminator.spectral_norm
    assert generator.embedding_size == 5 and discriminator.dropout == 0.5
    for fields in (("blocks",), ("=3",), ("embedding_size=1", "embedding_size=2")):
        with pytest.raises(UserError, match="NAME=VALUE, each name once"):
            gan_step.networks(
                gan_config.resolve(gan_config.Generate(generator_fields=fields)),
                data.load("digits"),
            )


def test_schedules_of_both_networks_are_over_the_images_seen():
    config = gan_config.resolve(
        gan_config.Generate(
            optimizer="sgd",
            generator_learning_rate="1:3",
            discriminator_learning_rate="1:3",
            discriminator_steps=5,
            batch_size=10,
            ramp_images=1000.0,
        )
    )
    generator, discriminator = gan_step.Numbers(config, 100, {}).optimizers()
    # Half of the ramp: 500 images are 10 steps of 50, and 50 updates of 10.
    for optimizer, updates in ((generator, 10), (discriminator, 50)):
        params, now = jnp.zeros(()), optimizer.init(jnp.zeros(()))
        for _ in range(updates):
            _, now = optimizer.update(jnp.zeros(()), now, params)
        change, _ = optimizer.update(jnp.ones(()), now, params)
        assert float(change) == pytest.approx(-2.0)


def test_a_sweep_has_a_member_for_each_value_and_seed():
    config = gan_config.resolve(gan_config.Generate(sweep="gamma=0.1,1", seeds=2, seed=5))
    assert populations.seeds(config) == [5, 6, 5, 6]
    names = populations.names(config)
    assert names[0] == "penalty_weight=0.1,seed-5" and names[3] == "penalty_weight=1,seed-6"
    start = populations.init(config, lambda member: tiny.gan()[0])
    np.testing.assert_allclose(start.extra["sweep/penalty_weight"], [0.1, 0.1, 1.0, 1.0])
    numbers = {f"frechet/{name}": float(i) for i, name in enumerate(names)}
    numbers |= {f"samples_recall/{name}": float(i) for i, name in enumerate(names)}
    (header, *rows), told = sweeps.winners(config, names, numbers)
    assert header == ["penalty_weight", "Frechet distance", "recall"]
    assert rows[0][1].startswith("0.5 +-")
    assert told == [
        "penalty_weight = 0.1 has the least Frechet distance, 0.5",
        "penalty_weight = 1 has the greatest recall, 2.5",
    ]
    alike = numbers | {f"frechet/{names[0]}": 5.0}
    alike |= dict.fromkeys([f"samples_recall/{name}" for name in names], 0.0)
    assert sweeps.winners(config, names, alike)[1] == [
        "penalty_weight = 1 has the least Frechet distance, 2.5 (not significantly better than "
        "0.1)",
        "none has the greatest recall: all have 0",
    ]


def test_a_sweep_of_one_seed_says_that_it_may_be_chance():
    config = gan_config.resolve(gan_config.Generate(sweep="gamma=0.1,1"))
    names = populations.names(config)
    numbers = {f"frechet/{name}": float(i) for i, name in enumerate(names)}
    (told,) = sweeps.winners(config, names, numbers)[1]
    assert told.endswith("0 (of one seed each: --seeds 3 says whether that is chance)")


def test_members_are_named_by_seed_or_value():
    swept = gan_config.Generate(sweep="gamma=0.1,1", seeds=2, seed=5)
    known = {"gamma=0.10,seed-6": 1, "penalty_weight=1,seed-5": 2, "--penalty-weight=1,seed-6": 3}
    names = populations.names(swept)
    for text, number in known.items():
        assert names.index(populations.name_of(text)) == number
    for text in ("5", "gamma=2,seed-5", "gamma=0.1", "b1=1,seed-5", ""):
        assert populations.name_of(text) not in names
    assert populations.name_of("007") == populations.name_of("seed-7") == "seed-7"


def test_a_report_shows_the_best_member_of_a_sweep():
    config = gan_config.Generate(sweep="gamma=0.1,1,2")
    names = populations.names(config)
    found = dict(zip((f"frechet/{name}" for name in names), (3.0, float("nan"), 1.0), strict=True))
    best, why = sweeps.best_member(config, names, found)
    assert best == 2 and "penalty_weight=2, which has the least Frechet" in why
    assert sweeps.best_member(config, names, {})[0] == 0
    assert sweeps.best_member(gan_config.Generate(seeds=2), ["a", "b"], found) == (0, "")


def test_a_sweep_takes_the_place_of_a_presets_ramp():
    config = gan_config.resolve(gan_config.Generate(preset="r3gan_64", sweep="gamma=0.5,2"))
    assert config.penalty_weight == 0.5 and config.b2 == "0.9:0.99"
    assert gan_config.resolve(config) == config
    with pytest.raises(UserError, match="leave it out"):
        gan_config.resolve(gan_config.Generate(penalty_weight="1:0.1", sweep="gamma=0.5,2"))


def test_flags_of_a_swept_term_are_taken(tmp_path):
    cnn = gan_config.Generate(teacher=tmp_path, sweep="teacher_weight=0.1,1")
    assert gan_config.resolve(cnn).teacher_weight == 5


def test_a_wasserstein_critic_does_not_say_how_sure_it_is():
    with pytest.raises(UserError, match="critic does not say"):
        gan_config.resolve(
            gan_config.Generate(loss="wasserstein", augment="flip", adaptive_augment=True)
        )


def test_members_of_a_sweep_are_runs_with_that_value():
    def made(swept):
        return tiny.gan(gamma=swept.get("penalty_weight", 0.5))

    config = gan_config.Generate(sweep="gamma=0.1,2")
    start = populations.init(config, lambda member: made({})[0])  # type: ignore[arg-type]
    step = populations.step(config, lambda swept: made(swept)[1])
    batch = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), tiny.batch())
    after, metrics = jax.jit(step)(start, batch)
    other, member = (
        jax.tree.leaves(each.nets["discriminator"].params)
        for each in populations.members(config, after)
    )
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(other, member, strict=True))
    alone, of_one = jax.jit(made({"penalty_weight": 2.0})[1])(made({})[0], tiny.batch())
    of_alone = jax.tree.leaves(alone.nets["discriminator"].params)
    for a, b in zip(member, of_alone, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    name = f"d_loss/{populations.names(config)[1]}"
    assert metrics[name].compute() == pytest.approx(of_one["d_loss"].compute(), rel=1e-5)


def test_a_sweep_of_the_average_keeps_one():
    config = gan_config.resolve(gan_config.Generate(ema_half_life=0.0, sweep="ema_half_life=1,9"))
    assert gan_step.keeps_average(config)
    assert not gan_step.keeps_average(gan_config.resolve(gan_config.Generate(ema_half_life=0.0)))
