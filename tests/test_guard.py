"""Numbers that are not finite: which network's, which term, in which step."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tiny
from jaxnets.devices import parallel
from jaxnets.metrics.mean import Mean
from jaxnets.run import guard
from jaxnets.run.guard import Fault, find_faults
from jaxnets.train.game import Move, game_step
from jaxnets.train.state import Net, TrainState

TERMS = ("penalty", "loss", "gradient", "update", "model_state")

# --------------------------------------------------------------------- faults out of the flags


def flags(steps=1, member="", /, **first_bad):
    """The flags of a call: `net_term` -> the first of its steps in which that was not finite.

    From there on nothing of that term is, as it is in a network whose parameters are lost.
    """
    found = {}
    for name, bad in first_bad.items():
        net, term = name.split("_", 1)
        of_term = "/".join(["finite", net, term, *([member] if member else [])])
        found[of_term] = (min(bad, steps)) / steps
    return found


def test_nothing_is_found_where_all_is_finite():
    values = {**flags(4, classifier_loss=4, classifier_gradient=4), "loss": 1.0, "d_loss": -3.0}
    assert find_faults(values, 8, 4) == []
    assert find_faults({"loss": float("nan")}, 8, 4) == []  # only flags are heeded
    assert guard.members(values) == set()


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("term", TERMS)
def test_the_step_and_the_term_are_named(term, steps):
    for bad in {0, steps // 3, steps - 1}:
        worse = dict.fromkeys(TERMS[TERMS.index(term) :], bad)
        # What comes before it in a step is found only in the next one.
        better = dict.fromkeys(TERMS[: TERMS.index(term)], bad + 1)
        every = {f"generator_{name}": at for name, at in {**worse, **better}.items()}
        others = {f"discriminator_{name}": bad + 1 for name in TERMS}
        values = flags(steps, **every, **others)
        assert find_faults(values, 40, steps) == [Fault(40 + bad + 1, "generator", term)]


def test_of_one_step_the_discriminator_comes_first():
    values = flags(2, generator_loss=1, discriminator_gradient=1, discriminator_update=1)
    (found,) = find_faults(values, 0, 2)
    assert found == Fault(2, "discriminator", "gradient")
    assert str(found) == "the discriminator's gradient is not finite in step 2"
    assert "model state is" in str(Fault(1, "classifier", "model_state"))


def test_several_updates_in_a_step_count_as_that_step():
    """Three discriminator updates a step, four steps a call: 12 flags, the first 7 of them good."""
    (found,) = find_faults({"finite/discriminator/loss": 7 / 12}, 20, 4)
    assert found.step == 20 + 3


def test_a_lazy_penalty_is_counted_in_steps_of_the_call():
    """Its share is one of the costly steps: here of the second and the fifth of six."""
    # At the second: the penalty is bad in both, the loss in all but the first.
    values = flags(6, discriminator_loss=1) | {"finite/discriminator/penalty": 0.0}
    assert find_faults(values, 0, 6) == [Fault(2, "discriminator", "penalty")]
    # At the fifth.
    values = flags(6, discriminator_loss=4) | {"finite/discriminator/penalty": 0.5}
    assert find_faults(values, 0, 6) == [Fault(5, "discriminator", "penalty")]
    # The loss was lost at the third, and the penalty after it.
    values = flags(6, discriminator_loss=2) | {"finite/discriminator/penalty": 0.5}
    assert find_faults(values, 0, 6) == [Fault(3, "discriminator", "loss")]


def test_each_member_of_a_population_has_its_own_fault():
    values = {
        **flags(4, classifier_loss=1),  # the mean over all
        **flags(4, "seed-0", classifier_loss=4, classifier_gradient=4),
        **flags(4, "seed-1", classifier_loss=2, classifier_gradient=1),
        **flags(4, "seed-2", classifier_loss=3, classifier_penalty=3),
    }
    assert sorted(find_faults(values, 4, 4), key=lambda fault: fault.member) == [
        Fault(6, "classifier", "gradient", "seed-1"),
        Fault(8, "classifier", "penalty", "seed-2"),
    ]
    assert guard.members(values) == {"seed-0", "seed-1", "seed-2"}


def test_flags_are_not_written_down():
    values = {**flags(4, classifier_loss=1), "loss": 1.0, "finite_difference": 2.0}
    assert guard.without_flags(values) == {"loss": 1.0, "finite_difference": 2.0}


# --------------------------------------------------------------------- flags out of the update


def linear(kind, *, where=None, optimizer=None, model_state=None, **options):
    """One update of three numbers, with a fault of one kind in the example at `where`."""
    optimizer = optimizer or optax.sgd(0.1)
    params = {"w": jnp.ones(3)}
    net = Net(params, {"m": jnp.zeros(2)} if model_state else {}, optimizer.init(params))

    def objective(params, model_state, batch, key, state):
        values = batch["inputs"] @ params["w"]
        struck = jnp.zeros_like(values, bool) if where is None else batch["target"] == where
        size = jnp.zeros_like(values)
        if kind == "loss":  # whose gradient is none the worse for it
            values = values + jnp.where(struck, jnp.inf, 0.0)
        elif kind == "gradient":  # of a root at zero; the value is 0
            values = values + jnp.sqrt(jnp.where(struck, 0.0, 1.0) * params["w"][0])
        elif kind == "penalty":
            size = jnp.where(struck, jnp.nan, size)
            values = values + size
        if model_state:
            sums = jnp.where(struck, jnp.float32(3e38), 1.0).sum()
            model_state = {"m": model_state["m"] + jnp.array([10.0, 1.0]) * sums}
        mask = batch["mask"]
        return values, (model_state, {"penalty": Mean.of(size, mask)})

    step = game_step([Move("x", objective, optimizer)], **options)
    return TrainState.create(jax.random.key(0), {"x": net}), step


def bad_terms(kind, *, devices=1, mode="jit", mask=None, where=5, **options):
    """The terms whose flag says that they were not finite, after one step."""
    state, step = linear(kind, where=where, **options)
    rng = np.random.default_rng(0)
    batch = {
        "inputs": rng.normal(size=(16, 3)).astype(np.float32),
        "target": np.arange(16, dtype=np.int32),
        "mask": np.ones(16, bool) if mask is None else mask,
    }
    mesh = parallel.make_mesh(devices)
    _, metrics = parallel.compile_step(step, mesh, mode)(parallel.replicate(state, mesh), batch)
    values = {name: mean.compute() for name, mean in jax.device_get(metrics).items()}
    found = {name.split("/")[2]: v for name, v in values.items() if name.startswith("finite/x/")}
    assert set(found.values()) <= {0.0, 1.0}
    assert {"penalty", "loss", "gradient", "update"} <= set(found)
    assert ("model_state" in found) == bool(options.get("model_state"))
    return {term for term, share in found.items() if share == 0.0}


def overflow(scale):
    """An optimiser whose update is finite, or not, and too much in any case."""
    return optax.stateless(lambda updates, params: jax.tree.map(lambda p: p * scale, params))


LOST = {"gradient", "update"}
# A penalty of NaN that no parameter enters leaves the gradient finite.
TERMS_OF = {"none": set(), "loss": {"loss"}, "gradient": LOST, "penalty": {"penalty", "loss"}}
MASK = np.arange(16) != 5
FLAGGED = [
    *((kind, {}, terms) for kind, terms in TERMS_OF.items()),
    *((kind, {"micro_batches": 4}, terms) for kind, terms in TERMS_OF.items()),
    # Example 5 is on the third of eight devices; what comes back is the first one's.
    ("loss", {"devices": 8}, {"loss"}),
    ("loss", {"devices": 8, "mode": "pmap"}, {"loss"}),
    ("gradient", {"devices": 8}, LOST),
    ("gradient", {"devices": 8, "mode": "pmap"}, LOST),
    ("loss", {"mask": MASK}, set()),
    ("penalty", {"mask": MASK}, set()),
    ("none", {"optimizer": overflow(np.float32(np.inf))}, {"update"}),
    ("none", {"optimizer": overflow(np.float32(3e38))}, {"update"}),
    ("none", {"model_state": True}, {"model_state"}),  # where nothing else overflows
    ("none", {"model_state": True, "where": None}, set()),
]


@pytest.mark.parametrize("kind,options,terms", FLAGGED)
def test_what_is_not_finite_is_flagged_and_nothing_else(kind, options, terms):
    assert bad_terms(kind, **options) == terms


def test_parameters_that_finite_updates_have_made_too_large_are_flagged():
    """Each update is of a size that a norm can hold, and the sum of two is not."""
    big = jnp.float32(1.5e19)

    def update(updates, params):
        return jax.tree.map(lambda p: jnp.full_like(p, big) * jnp.array([1.0, 0, 0]), params)

    optimizer = optax.stateless(update)
    state, step = linear("none", optimizer=optimizer)
    batch = {"inputs": jnp.zeros((2, 3)), "target": jnp.zeros(2, jnp.int32)}
    shares = []
    for _ in range(2):
        state, metrics = step(state, batch)
        shares.append(metrics["finite/x/update"].compute())
    assert shares == [1.0, 0.0]


def test_the_flags_of_a_gan_name_both_networks():
    state, step = tiny.gan(norm=True)
    _, metrics = jax.eval_shape(step, state, tiny.batch())
    names = {name for name in metrics if name.startswith("finite/")}
    both = ("loss", "gradient", "update", "model_state")
    expected = {f"finite/{net}/{t}" for net in ("generator", "discriminator") for t in both}
    assert names == expected | {"finite/discriminator/penalty"}


# ------------------------------------------------------------------------------ a classifier


def told_of(watch, *records) -> list[str]:
    return [kind for record in records for kind in watch(record)]


def test_a_classifier_that_guesses_is_told():
    watch = guard.LearningWatch(0.1, 1000, after_epochs=5, last_epoch=10)
    early, late = ({"test_accuracy": 0.11, "epoch": epoch} for epoch in (1.0, 5.0))
    assert told_of(watch, early) == [] and told_of(watch, late) == ["chance"]
    assert "no better than guessing" in watch(late)["chance"]
    learned = {"test_accuracy": 0.6, "epoch": 2.0}
    assert told_of(watch, learned, early) == ["chance"]  # it fell back, however early
    assert "after 60% before" in watch(early)["chance"]
    assert told_of(watch, {"accuracy": 0.1}, {"test_accuracy": math.nan}) == []


def test_a_classifier_that_knows_its_images_by_heart_is_told_at_the_end():
    watch = guard.LearningWatch(0.1, 1000, after_epochs=5, last_epoch=10)
    train = {"accuracy": 0.99, "epoch": 9.0}
    good, bad = ({"test_accuracy": accuracy, "epoch": 10.0} for accuracy in (0.9, 0.75))
    assert told_of(watch, train, good, {**bad, "epoch": 8.0}) == []
    assert told_of(watch, bad) == ["by heart"]
    assert "99% of the training images are right and 75% of the test" in watch(bad)["by heart"]
