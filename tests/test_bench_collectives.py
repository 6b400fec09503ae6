"""What crosses devices in a step: exactly what must, as the compiled program shows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from experiments.benchmarks import cases, collectives
from experiments.benchmarks.collectives import BACKWARD, FORWARD, GRADIENTS, OTHER
from jaxnets.devices import axis, parallel
from jaxnets.train import state

DEVICES = 8


def sent(made, mode, steps_per_call=1):
    """What one step sends, out of its compiled program, and the networks that it is of."""
    of, step, batch = made
    if steps_per_call > 1:
        batch = jax.tree.map(lambda leaf: np.stack([leaf] * steps_per_call), batch)
    mesh = parallel.make_mesh(DEVICES)
    program = parallel.compile_step(step, mesh, mode, steps_per_call=steps_per_call)
    text = program.lower(of, batch).compile().as_text()
    return collectives.per_step(collectives.read(text), steps_per_call)


def of_tiny(make, **options):
    return lambda: (*make(**options), tiny.batch())


def of_case(case):
    def make():
        work, shapes = cases.abstract(case)
        return shapes, work.step, work.batch

    return make


SMALL = {"batch_size": 8, "image_size": 8, "width": 0.1}

#: A state, step and batch, and the sums for gradients and metrics, for BatchNorms forwards and
#: backwards. Those of a network are one, however many arrays they are of.
STEPS = {
    "classifier": (of_tiny(tiny.classifier), 1, 1, 1),
    "micro-batches": (of_tiny(tiny.classifier, micro_batches=2), 1, 2, 2),
    # Its generator has a BatchNorm, which either update takes forwards, and its own backwards.
    "gan": (of_tiny(tiny.gan), 2, 2, 1),
    # Reals and fakes apart pass the discriminator's, and fakes again in the generator's update.
    "norms in both": (of_tiny(tiny.gan, norm=True, penalty=None), 2, 2 + 3, 1 + 3),
    "two updates": (of_tiny(tiny.gan, loss="relativistic", discriminator_steps=2), 3, 3, 1),
    # One in the stem, two in each of six blocks, one in each of two shortcuts.
    "resnet_3x2": (of_case(cases.ClassifierCase(network="resnet_3x2", **SMALL)), 1, 15, 15),
    "dcgan": (of_case(cases.GanCase(**SMALL)), 2, 2 * 2, 2),
    "dcgan with classes and R1": (
        of_case(cases.GanCase(**SMALL, conditional=True, penalty="r1")),
        *(2, 2 * 2, 2),
    ),
}


#: What stands for the others, which run with the slow tests.
QUICK = {("jit", "classifier"), ("jit", "norms in both"), ("pmap", "micro-batches")}


@pytest.mark.parametrize(
    "mode,name",
    [
        pytest.param(mode, name, marks=[pytest.mark.slow] * ((mode, name) not in QUICK))
        for mode in ("jit", "pmap")
        for name in STEPS
    ],
)
def test_a_step_sends_what_it_must_and_nothing_else(mode, name):
    make, *counts = STEPS[name]
    of, *_ = made = make()
    (row,) = sent(made, mode)
    assert row["kind"] == "all-reduce"
    found = {purpose: counted["sums"] for purpose, counted in row["purposes"].items()}
    assert found == dict(zip((GRADIENTS, FORWARD, BACKWARD), counts, strict=True))
    assert row["count"] <= row["sums"] == sum(counts)
    if name not in ("micro-batches", "two updates"):
        assert collectives.least(of.nets) == found
    # The gradients of each update, and no more beside them than the metrics' sums and counts.
    params = {key: jax.tree.leaves(net.params) for key, net in of.nets.items()}
    numbers = {key: sum(leaf.size for leaf in leaves) for key, leaves in params.items()}
    if name == "two updates":
        numbers["discriminator"] *= 2
    rest = row["purposes"][GRADIENTS]["bytes"] - 4 * sum(numbers.values())
    assert 0 < rest < 100 * counts[0]


@pytest.mark.parametrize("mode", ["jit", pytest.param("pmap", marks=pytest.mark.slow)])
def test_three_steps_in_a_call_send_three_times_as_much(mode):
    make, *_ = STEPS["classifier"]
    (alone,), (row,) = sent(make(), mode), sent(make(), mode, steps_per_call=3)
    assert {**row, "count": 0} == {**alone, "count": 0}
    assert row["count"] <= row["sums"]


def with_a_stray_sum(of, step, batch):
    def stray(state, batch):
        state, metrics = step(state, batch)
        loss = metrics["loss"]
        return state, {**metrics, "loss": dataclasses.replace(loss, total=axis.psum(loss.total))}

    return of, stray, batch


@pytest.mark.parametrize("mode", ["jit", pytest.param("pmap", marks=pytest.mark.slow)])
def test_a_sum_too_many_shows(mode):
    make, *counts = STEPS["classifier"]
    (row,) = sent(with_a_stray_sum(*make()), mode)
    assert row["purposes"][OTHER] == {"sums": 1, "bytes": 4}
    assert row["sums"] == sum(counts) + 1


def test_sums_that_are_not_joined_show(monkeypatch):
    monkeypatch.setattr(axis, "psum_as_one", axis.psum)
    make, *_ = STEPS["classifier"]
    of, *_ = made = make()
    (row,) = sent(made, "jit")
    arrays = len(jax.tree.leaves(of.nets["classifier"].params))
    assert row["purposes"][GRADIENTS]["sums"] > arrays > 1


def test_each_type_of_number_has_its_own_sum():
    net = state.Net({"a": jnp.zeros(2), "b": jnp.zeros(2, jnp.bfloat16)}, {}, ())
    assert collectives.least({"classifier": net}) == {GRADIENTS: 2}
