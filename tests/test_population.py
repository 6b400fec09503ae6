"""Members of a population learn what they would learn alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tiny
from jaxnets.data import ResidentPipeline, StreamingPipeline
from jaxnets.devices import parallel
from jaxnets.errors import UserError
from jaxnets.metrics import mean as metrics_mean
from jaxnets.run import loop
from jaxnets.run.log import read_records
from jaxnets.train import optimizers, population
from jaxnets.train.state import TrainState
from small_runs import Crash, images

STEPS, BATCH = 6, 16

#: Sums in another order under vmap: what float32 leaves of six steps of a loss around one.
TOLERANCE = 2e-5


def tuned_classifier(hypers):
    schedule = optimizers.make_schedule("linear", hypers["learning_rate"], STEPS, 0.3)
    decay = hypers["weight_decay"]
    optimizer = optimizers.make_optimizer("nesterov", schedule, weight_decay=decay)
    return tiny.classifier(optimizer=optimizer)


def tuned_gan(hypers):
    return tiny.gan(rate=hypers["learning_rate"], gamma=hypers["gamma"])


#: kind -> (hypers -> (state, step), hypers of two members)
KINDS = {
    "classifier": (tuned_classifier, {"learning_rate": [0.2, 0.02], "weight_decay": [0.01, 0.3]}),
    "gan": (tuned_gan, {"learning_rate": [1e-2, 1e-3], "gamma": [0.1, 5.0]}),
}
SEEDS = (3, 11)


def seeded(state, seed):
    """The tiny networks' states with other keys and other weights."""
    nets = jax.tree.map(lambda x: x * (1 + 0.01 * seed), state.nets)
    return dataclasses.replace(state, key=jax.random.key(seed), nets=nets)


def hypers_of(kind, i):
    return {name: values[i] for name, values in KINDS[kind][1].items()}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def runs(kind):
    """(state, metrics of the last two steps) of each member alone, without vmap and scan."""
    make = KINDS[kind][0]
    # Traced numbers, so that one program serves both.
    step = jax.jit(lambda hypers, state, batch: make(hypers)[1](state, batch))
    found = []
    for i, seed in enumerate(SEEDS):
        state, metrics = seeded(make(hypers_of(kind, i))[0], seed), []
        pipeline = ResidentPipeline(images(), BATCH, seed)
        source = jax.tree.map(jnp.asarray, pipeline.source)
        for n in range(STEPS):
            batch = pipeline.fetch(source, pipeline.feed(n, 1)[0])
            state, new = step(hypers_of(kind, i), state, batch)
            metrics.append(new)
        ends = {name: (metrics[-2][name] + metrics[-1][name]).compute() for name in metrics[0]}
        found.append((state, ends))
    return found


def population_of(kind):
    make, hypers = KINDS[kind]
    states = [seeded(make(hypers_of(kind, i))[0], seed) for i, seed in enumerate(SEEDS)]
    step = population.population_step(lambda of_one: make(of_one)[1], ["a", "b"])
    return population.population_state(states, hypers), step


def together(kind, devices, mode):
    """(state, metrics of the last two steps) of both members at once."""
    state, step = population_of(kind)
    split = images()
    pipeline = population.make_population_pipeline([split] * 2, BATCH, SEEDS)
    mesh = parallel.make_mesh(devices)
    compiled = parallel.compile_step(step, mesh, mode, steps_per_call=2, fetch=pipeline.fetch)
    state, source = parallel.replicate((state, pipeline.source), mesh)
    metrics = {}
    for n in range(0, STEPS, 2):
        state, metrics = compiled(state, pipeline.feed(n, 2), source)
    return state, {name: mean.compute() for name, mean in metrics.items()}


WAYS = [
    ("classifier", 1, "jit"),
    pytest.param("gan", 4, "jit", marks=pytest.mark.slow),
    pytest.param("classifier", 4, "pmap", marks=pytest.mark.slow),
    pytest.param("gan", 4, "pmap", marks=pytest.mark.slow),
]


def assert_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=TOLERANCE), a, b)


@pytest.mark.parametrize("kind,devices,mode", WAYS, indirect=["kind"], scope="module")
def test_a_member_learns_what_it_would_alone(kind, devices, mode, runs):
    state, found = together(kind, devices, mode)
    assert int(state.step) == STEPS
    for i, name in enumerate("ab"):
        alone, ends = runs[i]
        assert_close({metric: found[f"{metric}/{name}"] for metric in ends}, ends)
        member = population.member_state(state, i)
        assert int(member.step) == STEPS
        assert_close(member.nets, alone.nets)
    for metric in runs[0][1]:
        both = (found[f"{metric}/a"], found[f"{metric}/b"])
        assert found[metric] == pytest.approx(np.mean(both), rel=1e-5)
    name = {"classifier": "loss", "gan": "d_loss"}[kind]
    assert abs(found[f"{name}/a"] - found[f"{name}/b"]) > 100 * TOLERANCE  # they are two runs


def test_streamed_members_see_the_same_images():
    split = images()
    batches = []
    for budget in (0, 1 << 30):
        pipeline = population.make_population_pipeline(
            [split] * 2, BATCH, SEEDS, memory_budget_bytes=budget
        )
        feed = jax.tree.map(lambda leaf: leaf[1], pipeline.feed(2, 2))
        source = jax.tree.map(jnp.asarray, pipeline.source)
        batches.append(pipeline.fetch(source, feed))
        pipeline.close()
    assert batches[0]["inputs"].shape == (2, BATCH, tiny.SIZE, tiny.SIZE, 1)
    jax.tree.map(np.testing.assert_array_equal, *batches)


def toy(hypers):
    """A step on one number, whose every result can be told in advance."""

    def step(state, batch):
        x = state.nets["x"] - hypers["rate"] * batch["inputs"].sum()
        metrics = {"x": metrics_mean.Mean.of(x[None])}
        return dataclasses.replace(state, step=state.step + 1, nets={"x": x}), metrics

    return step


def toys(rates):
    states = [
        TrainState.create(jax.random.key(0), {"x": jnp.float32(i)}) for i in range(len(rates))
    ]
    return population.population_state(states, {"rate": rates})


def test_members_may_share_a_batch_or_have_their_own():
    names, image = ["a", "b"], jnp.arange(6.0).reshape(2, 3)
    for axis, sums in ((None, (15, 15)), (0, (3, 12)), (1, (3, 12))):
        step = population.population_step(toy, names, batch_axis=axis)
        batch = {"inputs": image.T if axis == 1 else image}
        state, metrics = step(toys([1.0, 10.0]), batch)
        expected = [-sums[0], 1 - 10 * sums[1]]
        np.testing.assert_array_equal(state.nets["x"], expected)
        assert [metrics[f"x/{name}"].compute() for name in names] == expected
        assert metrics["x"].compute() == np.mean(expected) and metrics["x"].count == 2


def test_other_hyperparameters_need_no_other_program():
    step = jax.jit(population.population_step(toy, ["a", "b"], batch_axis=None))
    for rates in ([0.1, 0.2], [0.3, 0.4]):
        step(toys(rates), {"inputs": jnp.ones(3)})
    assert step._cache_size() == 1


def test_members_with_images_of_their_own():
    splits = [images(seed=1), images(seed=2)]
    pipeline = population.make_population_pipeline(splits, BATCH, SEEDS)
    assert pipeline.source["inputs"].shape == (2, 40, tiny.SIZE, tiny.SIZE, 1)
    feed = pipeline.feed(3, 1)
    assert feed.shape == (1, BATCH, 2)
    both = jax.jit(pipeline.fetch)(pipeline.source, feed[0])
    for i, split in enumerate(splits):
        one = ResidentPipeline(split, BATCH, SEEDS[i])
        expected = one.fetch(jax.tree.map(jnp.asarray, one.source), one.feed(3, 1)[0])
        jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a[i], b), both, expected)


def test_images_beyond_the_budget_are_streamed():
    split = images()
    shared = population.make_population_pipeline(
        [split] * 2, BATCH, SEEDS, memory_budget_bytes=split.nbytes
    )
    assert all(type(one) is ResidentPipeline for one in shared._members)
    own = population.make_population_pipeline(
        [split, images(seed=1)], BATCH, SEEDS, memory_budget_bytes=split.nbytes
    )
    assert all(type(one) is StreamingPipeline for one in own._members)


def test_a_population_that_crashed_goes_on_to_the_same_bits(tmp_path, capsys):
    options = loop.FitOptions(steps_per_call=2, log_every=2, save_every=2, eval_every=2)

    def scores(state, fail_at):
        if int(state.step) == fail_at:
            raise Crash
        each = [{"norm": float(optax.tree.norm(of))} for of in members(state)]
        return population.mean_and_spread(["a", "b"], each)

    def members(state):
        return [population.member_state(state, i).nets["classifier"].params for i in range(2)]

    def fit(folder, fail_at=0):
        state, step = population_of("classifier")
        split = images()
        task = loop.Task(
            name="population",
            init=lambda: state,
            step=step,
            pipeline=population.make_population_pipeline([split] * 2, BATCH, SEEDS),
            total_steps=STEPS,
            evaluate=lambda state: scores(state, fail_at),
        )
        return loop.fit(task, folder, parallel.make_mesh(1), options)

    whole = fit(tmp_path / "whole")
    with pytest.raises(Crash):
        fit(tmp_path / "cut", fail_at=4)
    resumed = fit(tmp_path / "cut")
    jax.tree.map(np.testing.assert_array_equal, resumed.state.nets, whole.state.nets)
    assert resumed.state.extra.keys() == KINDS["classifier"][1].keys()
    assert resumed.metrics == whole.metrics
    assert set(whole.metrics) == {"norm", "norm_std", "norm/a", "norm/b"}
    records = read_records(tmp_path / "cut" / "metrics.jsonl")
    assert [r["step"] for r in records if r["split"] == "train"] == [2, 4, 6]
    assert {"loss", "loss/a", "loss/b"} <= set(records[0])
    shown = capsys.readouterr().err
    assert "norm 3." in shown and " +- 0.2" in shown and "/a" not in shown


def test_numbers_of_members_and_their_spread():
    found = population.mean_and_spread(["a", "b"], [{"x": 1.0}, {"x": 3.0}])
    assert found == {"x": 2.0, "x_std": pytest.approx(2**0.5), "x/a": 1.0, "x/b": 3.0}
    assert population.mean_and_spread(["a"], [{"x": 1.0}])["x_std"] == 0


def test_mistakes_are_named():
    state = TrainState.create(jax.random.key(0), {})
    with pytest.raises(UserError, match="at least one member"):
        population.population_state([])
    with pytest.raises(UserError, match="learning_rate has 1 values for 2 members"):
        population.population_state([state, state], {"learning_rate": [0.1]})
    with pytest.raises(ValueError, match=r"not at \[0, 1\]"):
        population.population_state([state, dataclasses.replace(state, step=jnp.int32(1))])
    with pytest.raises(ValueError, match="one name: a, a"):
        population.population_step(lambda h: toy(h), ["a", "a"])
    with pytest.raises(UserError, match="equal numbers of images"):
        population.make_population_pipeline([images(40), images(48)], BATCH, SEEDS)
