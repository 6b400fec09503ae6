"""One curve, whatever the devices, the way onto them, and what of the state lies on each."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import small_runs
import tiny
from jaxnets import errors, models
from jaxnets.devices import axis, parallel
from jaxnets.judge import evaluate
from jaxnets.metrics import Mean
from jaxnets.run.task import Lazily
from jaxnets.train import optimizers, population
from jaxnets.train import state as states

STEPS = 5


def train(make, devices, mode="jit", steps_per_call=1, **options):
    state, step = make()
    mesh = parallel.make_mesh(devices)
    state = parallel.place(state, mesh, **options)
    compiled = parallel.compile_step(step, mesh, mode, steps_per_call=steps_per_call, **options)
    metrics = {}
    for start in range(0, STEPS, steps_per_call):
        state, metrics = compiled(state, feed_of(start, steps_per_call))
    return state.nets, {name: float(value.compute()) for name, value in metrics.items()}


def feed_of(first, steps):
    batches = [tiny.batch(seed=i) for i in range(first, first + steps)]
    return batches[0] if steps == 1 else jax.tree.map(lambda *one: np.stack(one), *batches)


def assert_close(a, b, tolerance=1e-5):
    a, b = jax.device_get((a, b))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=tolerance), a, b)


CASES = {
    "classifier": tiny.classifier,
    "gan": tiny.gan,
    "gan with k = 2": lambda: tiny.gan("relativistic", discriminator_steps=2, penalty=None),
}


@functools.cache
def on_one_device(name):
    return train(CASES[name], 1, "jit")


@pytest.mark.parametrize(
    "name", ["classifier", pytest.param("gan", marks=pytest.mark.slow), "gan with k = 2"]
)
@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_eight_devices_give_the_parameters_of_one(name, mode):
    assert_close(train(CASES[name], 8, mode), on_one_device(name))


@pytest.mark.parametrize(
    "mode,name",
    [
        ("jit", "gan with k = 2"),
        pytest.param("pmap", "classifier", marks=pytest.mark.slow),
        pytest.param("jit", "classifier", marks=pytest.mark.slow),
        pytest.param("jit", "gan", marks=pytest.mark.slow),
        pytest.param("pmap", "gan", marks=pytest.mark.slow),
    ],
)
def test_five_steps_in_a_call_equal_five_calls(mode, name):
    nets, _ = train(CASES[name], 2, mode, steps_per_call=STEPS)
    assert_close(nets, on_one_device(name)[0])


@pytest.mark.parametrize("mode", ["jit", pytest.param("pmap", marks=pytest.mark.slow)])
def test_a_lowered_step_does_what_the_step_does(mode):
    """And takes only what `arrange` makes of a feed."""
    made = [tiny.classifier() for _ in range(2)]
    mesh = parallel.make_mesh(2)
    feed = tiny.batch()
    results = []
    for way in ("call", "lower"):
        state, step = made.pop()
        state = parallel.replicate(state, mesh)
        compiled = parallel.compile_step(step, mesh, mode)
        if way == "call":
            state, _ = compiled(state, feed)
        else:
            lowered = compiled.lower(state, feed)
            state, _ = lowered.compile()(state, compiled.arrange(feed), None)
        results.append(jax.device_get(state.nets))
    assert_close(*results, 0)


def test_a_batch_that_devices_do_not_divide_is_refused():
    state, step = tiny.classifier()
    compiled = parallel.compile_step(step, parallel.make_mesh(3))
    for use in (compiled, compiled.lower):
        with pytest.raises(errors.UserError, match="16 is not divisible by the 3 devices"):
            use(state, tiny.batch())


def test_the_costly_steps_are_those_whose_number_n_divides():
    costly, cheap = (tiny.classifier()[1] for _ in range(2))
    lazily = Lazily(costly, cheap, every=3)
    assert lazily.steps(0, 4) == (costly, cheap, cheap, costly)
    assert lazily.steps(2, 5) == (cheap, costly, cheap, cheap, costly)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_lazy_steps_in_calls_of_any_length_are_those_taken_one_by_one(mode):
    """Every third step descends with ten times the weight decay's worth of a term."""
    state, cheap = tiny.classifier()

    def costly(state, batch):
        state, metrics = cheap(state, batch)
        net = state.nets["classifier"]
        params = jax.tree.map(lambda p: 0.9 * p, net.params)
        nets = {"classifier": dataclasses.replace(net, params=params)}
        return dataclasses.replace(state, nets=nets), {**metrics, "term": Mean.of(jnp.ones(2))}

    lazily = Lazily(costly, cheap, every=3)
    mesh = parallel.make_mesh(2)

    def run(lengths):
        of = parallel.replicate(jax.tree.map(jnp.copy, state), mesh)
        at, terms = 0, 0.0
        for length in lengths:
            compiled = parallel.compile_step(
                lazily.steps(at, length), mesh, mode, steps_per_call=length
            )
            of, metrics = compiled(of, feed_of(at, length))
            terms += float(metrics["term"].count) if "term" in metrics else 0.0
            at += length
        return jax.device_get(of.nets), terms

    (alone, terms), (grouped, grouped_terms) = run([1] * 6), run([4, 2])
    assert_close(alone, grouped)
    assert terms == grouped_terms > 0
    plain, _ = train(tiny.classifier, 2, mode)
    assert np.abs(jax.tree.leaves(plain)[0] - jax.tree.leaves(alone)[0]).max() > 1e-3


def test_as_many_steps_as_there_are_steps_a_call():
    _, step = tiny.classifier()
    with pytest.raises(ValueError, match="2 steps were given for 3"):
        parallel.compile_step((step, step), parallel.make_mesh(1), steps_per_call=3)


# --------------------------------------------------------- a state divided among the devices

DIVIDED = {
    "classifier": tiny.classifier,
    "in micro-batches, by lamb, clipped": lambda: tiny.classifier(
        tiny.TinyClassifier(norm=False),
        optimizer=optimizers.make_optimizer("lamb", 0.05, weight_decay=0.01, clip_norm=0.1),
        micro_batches=2,
    ),
    "gan with k = 2": CASES["gan with k = 2"],
}


@pytest.fixture
def everything_divides(monkeypatch):
    """Networks of tests are too small to be worth it."""
    monkeypatch.setattr(axis, "_WORTH_DIVIDING", 1)


@pytest.mark.parametrize(
    "name",
    # The classifier is that of the test below.
    [pytest.param(name, marks=[pytest.mark.slow] * (name == "classifier")) for name in DIVIDED],
)
def test_the_numbers_are_those_of_one_device(name, everything_divides):
    one, metrics = train(DIVIDED[name], 1)
    many, found = train(DIVIDED[name], 4, shard_params=True)
    assert_close(many, one)
    assert found == pytest.approx(metrics, abs=1e-5)
    for leaf in jax.tree.leaves(many):
        expected = axis.share_of(leaf.shape, 4)
        assert leaf.sharding.spec == expected
        assert leaf.sharding.is_fully_replicated == (expected == PartitionSpec())
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(many))


def test_several_steps_in_a_call(everything_divides):
    one, _ = train(tiny.classifier, 1)
    many, _ = train(tiny.classifier, 4, steps_per_call=STEPS, shard_params=True)
    assert_close(many, one)


@pytest.mark.slow
def test_a_population_is_divided_too(everything_divides):
    members = [tiny.classifier() for _ in range(2)]
    whole = population.population_state([state for state, _ in members])
    step = population.population_step(lambda _: members[0][1], ["a", "b"], batch_axis=None)
    one, _ = train(lambda: (jax.tree.map(jnp.copy, whole), step), 1)
    many, _ = train(lambda: (jax.tree.map(jnp.copy, whole), step), 4, shard_params=True)
    assert_close(many, one)


def test_a_share_is_along_the_longest_axis_that_divides():
    spec = axis.share_of
    assert spec((3, 3, 64, 128), 8) == PartitionSpec(None, None, None, "data")
    assert spec((3, 3, 128, 65), 8) == PartitionSpec(None, None, "data")
    assert spec((4096, 10), 8) == PartitionSpec("data")
    assert spec((64,), 8) == spec((), 8) == spec((0, 8), 8) == PartitionSpec()  # too small
    assert spec((33, 35), 8) == PartitionSpec()  # no axis divides


@pytest.mark.slow
def test_a_device_holds_its_share_and_the_program_needs_no_more():
    """State on a device, and what XLA plans for it to hold at the program's start and end."""

    def make():
        model = models.make_classifier("resnet_3x2", num_classes=8, image_shape=(8, 8, 1))
        return tiny.classifier(model, optimizer=optimizers.make_optimizer("adam", 1e-3))

    state, step = make()
    mesh = parallel.make_mesh(8)
    sizes, plans = {}, {}
    for divided in (False, True):
        sizes[divided] = parallel.bytes_per_device(
            parallel.place(state, mesh, shard_params=divided)
        )
        compiled = parallel.compile_step(step, mesh, shard_params=divided)
        shapes = jax.eval_shape(lambda: state)
        plans[divided] = compiled.lower(shapes, tiny.batch()).compile().memory_analysis()
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(jax.device_get(state.nets)))
    assert sizes[False] == pytest.approx(whole, rel=1e-4)
    assert sizes[True] < 0.15 * whole  # an eighth, and what is too small to divide
    for name in ("argument_size_in_bytes", "output_size_in_bytes", "alias_size_in_bytes"):
        assert getattr(plans[True], name) < 0.2 * getattr(plans[False], name), name


def test_a_run_goes_on_divided_or_not(tmp_path, everything_divides, capsys):
    """Checkpoints know nothing of it."""

    def fit(folder, devices, until, divided):
        tiny_task = small_runs.task("classifier", total_steps=until)
        return small_runs.fit(tiny_task, folder, devices=devices, shard_params=divided).state

    whole = fit(tmp_path / "one", 1, 6, False)
    fit(tmp_path / "many", 2, 2, True)
    assert "MB on each of 2 devices" in capsys.readouterr().err
    fit(tmp_path / "many", 8, 4, False)
    found = fit(tmp_path / "many", 4, 6, True)
    assert_close(found.nets, whole.nets)
    assert int(found.step) == 6
    assert parallel.bytes_per_device(found.nets) < parallel.bytes_per_device(whole.nets)


def test_predictions_of_a_divided_network(everything_divides):
    mesh = parallel.make_mesh(4)
    model = tiny.TinyClassifier()
    state, _ = tiny.classifier(model)
    predict = evaluate.make_predict(model, mesh)
    of = small_runs.images(10)
    plain = predict(state.nets["classifier"].averaged, of)
    placed = parallel.place(state, mesh, shard_params=True)
    for a, b in zip(predict(placed.nets["classifier"].averaged, of), plain, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    back = parallel.gathered(placed)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(back))
    assert_close(
        dataclasses.replace(back, key=jax.random.key_data(back.key)),
        dataclasses.replace(state, key=jax.random.key_data(state.key)),
        0,
    )
    assert isinstance(back, states.TrainState)


def test_by_pmap_it_is_refused():
    _, step = tiny.classifier()
    with pytest.raises(errors.UserError, match='divided among devices by "jit" only, not by \'p'):
        parallel.compile_step(step, parallel.make_mesh(2), "pmap", shard_params=True)
