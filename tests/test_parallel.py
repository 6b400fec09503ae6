"""One curve, whatever the devices and the way onto them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from jaxnets import errors, parallel
from jaxnets.metrics import Mean
from jaxnets.task import Lazily

STEPS = 5


def train(make, devices, mode, steps_per_call=1):
    state, step = make()
    mesh = parallel.make_mesh(devices)
    state = parallel.replicate(state, mesh)
    compiled = parallel.compile_step(step, mesh, mode, steps_per_call=steps_per_call)
    batches = [tiny.batch(seed=i) for i in range(STEPS)]
    metrics = {}
    for start in range(0, STEPS, steps_per_call):
        feed = batches[start]
        if steps_per_call > 1:
            group = batches[start : start + steps_per_call]
            feed = jax.tree.map(lambda *leaves: np.stack(leaves), *group)
        state, metrics = compiled(state, feed)
    return jax.device_get((state.nets, {k: v.compute() for k, v in metrics.items()}))


def assert_close(a, b, tolerance):
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
    assert_close(train(CASES[name], 8, mode), on_one_device(name), 1e-5)


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
    assert_close(nets, on_one_device(name)[0], 1e-5)


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
    batches = [tiny.batch(seed=i) for i in range(6)]

    def run(lengths):
        of = parallel.replicate(jax.tree.map(jnp.copy, state), mesh)
        at, terms = 0, 0.0
        for length in lengths:
            compiled = parallel.compile_step(
                lazily.steps(at, length), mesh, mode, steps_per_call=length
            )
            feed = batches[at]
            if length > 1:
                group = batches[at : at + length]
                feed = jax.tree.map(lambda *leaves: np.stack(leaves), *group)
            of, metrics = compiled(of, feed)
            terms += float(metrics["term"].count) if "term" in metrics else 0.0
            at += length
        return jax.device_get(of.nets), terms

    (alone, terms), (grouped, grouped_terms) = run([1] * 6), run([4, 2])
    assert_close(alone, grouped, 1e-5)
    assert terms == grouped_terms > 0
    plain, _ = train(tiny.classifier, 2, mode)
    assert np.abs(jax.tree.leaves(plain)[0] - jax.tree.leaves(alone)[0]).max() > 1e-3


def test_as_many_steps_as_there_are_steps_a_call():
    _, step = tiny.classifier()
    with pytest.raises(ValueError, match="2 steps were given for 3"):
        parallel.compile_step((step, step), parallel.make_mesh(1), steps_per_call=3)
