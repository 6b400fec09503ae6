"""A state that is divided among the devices: the same numbers in a share of the memory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import tiny
from jaxnets import axis, errors, loop, models, optimizers, parallel, population
from jaxnets import state as states
from jaxnets.data import ResidentPipeline, Split
from jaxnets.task import FitOptions, Task

STEPS = 4
CASES = {
    "classifier": tiny.classifier,
    "in micro-batches, by lamb, clipped": lambda: tiny.classifier(
        tiny.TinyClassifier(norm=False),
        optimizer=optimizers.make_optimizer("lamb", 0.05, weight_decay=0.01, clip_norm=0.1),
        micro_batches=2,
    ),
    "gan with k = 2": lambda: tiny.gan("relativistic", discriminator_steps=2, penalty=None),
}


@pytest.fixture
def everything_divides(monkeypatch):
    """Networks of tests are too small to be worth it."""
    monkeypatch.setattr(axis, "_WORTH_DIVIDING", 1)


def train(make, devices, steps_per_call=1, **options):
    state, step = make()
    mesh = parallel.make_mesh(devices)
    state = parallel.place(state, mesh, **options)
    compiled = parallel.compile_step(step, mesh, steps_per_call=steps_per_call, **options)
    batches = [tiny.batch(seed=i) for i in range(STEPS)]
    metrics = {}
    for start in range(0, STEPS, steps_per_call):
        feed = batches[start]
        if steps_per_call > 1:
            group = batches[start : start + steps_per_call]
            feed = jax.tree.map(lambda *leaves: np.stack(leaves), *group)
        state, metrics = compiled(state, feed)
    return state, {name: float(value.compute()) for name, value in metrics.items()}


def assert_close(a, b, tolerance=1e-5):
    a, b = jax.device_get((a, b))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=tolerance), a, b)


@pytest.mark.parametrize(
    "name",
    # The classifier is that of the test below.
    [pytest.param(name, marks=[pytest.mark.slow] * (name == "classifier")) for name in CASES],
)
def test_the_numbers_are_those_of_one_device(name, everything_divides):
    one, metrics = train(CASES[name], 1)
    many, found = train(CASES[name], 4, shard_params=True)
    assert_close(many.nets, one.nets)
    assert found == pytest.approx(metrics, abs=1e-5)
    for leaf in jax.tree.leaves(many.nets):
        expected = axis.share_of(leaf.shape, 4)
        assert leaf.sharding.spec == expected
        assert leaf.sharding.is_fully_replicated == (expected == PartitionSpec())
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(many.nets))


def test_several_steps_in_a_call(everything_divides):
    one, _ = train(tiny.classifier, 1)
    many, _ = train(tiny.classifier, 4, steps_per_call=STEPS, shard_params=True)
    assert_close(many.nets, one.nets)


@pytest.mark.slow
def test_a_population_is_divided_too(everything_divides):
    members = [tiny.classifier() for _ in range(2)]
    whole = population.population_state([state for state, _ in members])
    step = population.population_step(lambda _: members[0][1], ["a", "b"], batch_axis=None)
    one, _ = train(lambda: (jax.tree.map(jnp.copy, whole), step), 1)
    many, _ = train(lambda: (jax.tree.map(jnp.copy, whole), step), 4, shard_params=True)
    assert_close(many.nets, one.nets)


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


def images(count=40):
    rng = np.random.default_rng(0)
    return Split(
        rng.integers(0, 256, (count, tiny.SIZE, tiny.SIZE, 1), np.uint8),
        rng.integers(0, tiny.CLASSES, count).astype(np.int32),
    )


def test_a_run_goes_on_divided_or_not(tmp_path, everything_divides, capsys):
    """Checkpoints know nothing of it."""

    def fit(folder, devices, until, divided):
        _, step = tiny.classifier()
        task = Task(
            name="tiny",
            init=lambda: tiny.classifier()[0],
            step=step,
            pipeline=ResidentPipeline(images(), 16, 3),
            total_steps=until,
            evaluate=lambda s: {},
        )
        options = FitOptions(shard_params=divided)
        return loop.fit(task, folder, parallel.make_mesh(devices), options).state

    whole = fit(tmp_path / "one", 1, 6, False)
    fit(tmp_path / "many", 2, 2, True)
    assert "MB on each of 2 devices" in capsys.readouterr().err
    fit(tmp_path / "many", 8, 4, False)
    found = fit(tmp_path / "many", 4, 6, True)
    assert_close(found.nets, whole.nets)
    assert int(found.step) == 6
    assert parallel.bytes_per_device(found.nets) < parallel.bytes_per_device(whole.nets)


def test_predictions_of_a_divided_network(everything_divides):
    from jaxnets import evaluate

    mesh = parallel.make_mesh(4)
    model = tiny.TinyClassifier()
    state, _ = tiny.classifier(model)
    predict = evaluate.make_predict(model, mesh)
    of = images(10)
    plain = predict(state.nets["classifier"].averaged, of)
    placed = parallel.place(state, mesh, shard_params=True)
    for a, b in zip(predict(placed.nets["classifier"].averaged, of), plain, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    back = parallel.whole(placed)
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
