"""Games of moves: their order, their shares of a batch, and terms with weights and numbers."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tiny
from jaxnets import losses
from jaxnets.devices import axis, parallel
from jaxnets.errors import UserError
from jaxnets.metrics import Mean
from jaxnets.train import state
from jaxnets.train.game import Move, game_step

RATE, PLAYERS = 0.5, {"a": 4, "b": 2, "c": 1}
WAYS = [(1, "jit"), (8, "jit"), (8, "pmap")]


def follow(player):
    """An objective: the player's number goes to the data's mean plus the others' numbers."""

    def objective(params, model_state, batch, key, state):
        others = sum(net.params["w"] for name, net in state.nets.items() if name != player)
        values = 0.5 * jnp.square(params["w"] - (batch["inputs"] + others))
        metrics = {f"{player}_loss": Mean.of(values, batch["mask"])}
        metrics[f"{player}_draw"] = Mean.of(jax.random.uniform(key, (1,)))
        return values, (model_state, metrics)

    return objective


def three_players():
    sgd = optax.sgd(RATE)
    nets = {
        name: state.Net({"w": jnp.float32(i)}, {}, sgd.init({"w": jnp.float32(i)}))
        for i, name in enumerate(PLAYERS)
    }
    moves = [Move(p, follow(p), sgd, times, prefix=f"{p}_") for p, times in PLAYERS.items()]
    return state.TrainState.create(jax.random.key(0), nets), game_step(moves)


def by_hand(numbers, x):
    """The same game in numpy: four shares, of which each player takes the last."""
    for player, times in PLAYERS.items():
        for share in range(4 - times, 4):
            goal = x[share::4].mean() + sum(v for name, v in numbers.items() if name != player)
            numbers[player] -= RATE * (numbers[player] - goal)
    return numbers


@pytest.mark.parametrize("devices,mode", WAYS)
def test_three_players_move_in_turn_each_on_its_shares(devices, mode):
    start, step = three_players()
    mesh = parallel.make_mesh(devices)
    now, numbers = parallel.replicate(start, mesh), {"a": 0.0, "b": 1.0, "c": 2.0}
    compiled = parallel.compile_step(step, mesh, mode)
    for seed in range(2):
        x = np.random.default_rng(seed).normal(size=32).astype(np.float32)
        now, metrics = compiled(now, {"inputs": x, "mask": np.ones(32, bool)})
        numbers = by_hand(numbers, x)
        assert {p: float(metrics[f"{p}_loss"].count) for p in PLAYERS} == {"a": 32, "b": 16, "c": 8}
    found = {name: float(net.params["w"]) for name, net in now.nets.items()}
    assert found == pytest.approx(numbers, rel=1e-5) and int(now.step) == 2


def test_every_move_has_its_own_key():
    start, step = three_players()
    step = game_step([move._replace(times=1) for move in step.moves])
    _, metrics = step(start, {"inputs": jnp.zeros(4), "mask": jnp.ones(4, bool)})
    assert len({metrics[f"{p}_draw"].compute() for p in PLAYERS}) == 3


def test_two_moves_with_one_name_for_two_metrics_are_refused():
    start, step = three_players()
    step = game_step([move._replace(prefix="") for move in step.moves])
    batch = {"inputs": jnp.zeros(32), "mask": jnp.ones(32, bool)}
    with pytest.raises(ValueError, match="two moves have the metric 'grad_norm'"):
        jax.eval_shape(step, start, batch)


SLOTS = 4


@dataclasses.dataclass(frozen=True)
class History(losses.Term):
    """Fakes are drawn to those of the last step, of which the state keeps four means."""

    weight: losses.Weight = 1.0
    player = "generator"
    extra: ClassVar = {"history": np.zeros((SLOTS, tiny.SIZE, tiny.SIZE, 1)), "seen": 0.0}

    def __call__(self, play, key):
        fakes = play.fake.inputs
        slots = jax.nn.one_hot(axis.example_index(len(fakes)) % SLOTS, SLOTS)
        sums = jnp.einsum("bn,bhwc->nhwc", slots, fakes), slots.sum(axis=0)
        means = play.extra["history"].mean(axis=0)
        values = jnp.square(fakes - means[None]).mean(axis=(1, 2, 3))
        told = {"history": play.mean(values), "pixel": play.mean(fakes.mean(axis=(1, 2, 3)))}
        return values, {**told, "_fakes": sums}

    def after(self, extra, metrics):
        total, count = metrics["_fakes"]
        history = total / count[:, None, None, None]
        return {"history": history, "seen": extra["seen"] + count.sum()}


@dataclasses.dataclass(frozen=True)
class Drift(losses.Term):
    """`D(x)^2`, as in Karras et al. 2018, and a draw of its own for each example."""

    weight: losses.Weight = 0.1

    def __call__(self, play, key):
        draws = jax.vmap(jax.random.uniform)(axis.example_keys(key, len(play.real.logits)))
        values = draws * jnp.square(play.real.logits)
        return values, {"drift": play.mean(values)}


@functools.cache
def two_steps(devices, mode):
    terms = [Drift(), losses.LeCam(0.5), losses.FeatureMatching(2.0), History(2.0)]
    start, step = tiny.gan(terms=terms, discriminator_steps=2)
    mesh = parallel.make_mesh(devices)
    now = parallel.replicate(start, mesh)
    compiled = parallel.compile_step(step, mesh, mode)
    told = []
    for seed in range(2):
        now, metrics = compiled(now, tiny.batch(32, seed))
        told.append({name: value.compute() for name, value in metrics.items()})
    return jax.device_get((now.nets, now.extra)), told


def test_a_term_keeps_an_array_and_sees_it_in_the_next_step():
    (_, extra), (first, second) = two_steps(1, "jit")
    assert (
        extra["history"].shape == (SLOTS, tiny.SIZE, tiny.SIZE, 1) and extra["seen"] == 32
    )  # of two updates
    np.testing.assert_allclose(extra["history"].mean(), second["pixel"], rtol=1e-4)
    assert "_fakes" not in first and {"drift", "penalty", "history"} <= first.keys()
    assert first["history"] > 0 and first["matching"] > 0


@pytest.mark.parametrize("devices,mode", [(8, "jit"), (8, "pmap")])
def test_terms_of_both_players_are_the_same_on_eight_devices(devices, mode):
    one, eight = two_steps(1, "jit"), two_steps(devices, mode)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), one, eight)


def test_a_weight_is_a_number_a_schedule_or_a_traced_array():
    def norms(weight, drift=True):
        start, step = tiny.gan(terms=[Drift(weight)] if drift else [], penalty=None)
        _, metrics = step(start, tiny.batch())
        return metrics["d_grad_norm"].total

    number = jax.jit(lambda: norms(0.5))()
    np.testing.assert_allclose(jax.jit(norms)(jnp.float32(0.5)), number, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(lambda: norms(lambda t: 0.5 + t))(), number, rtol=1e-6)
    assert abs(jax.jit(lambda: norms(0.0, drift=False))() - number) > 1e-4


def test_a_state_without_a_terms_numbers_is_refused_in_one_sentence():
    start, step = tiny.gan(terms=[losses.LeCam()])
    bare = state.TrainState.create(start.key, start.nets)
    with pytest.raises(UserError, match=r"'lecam_fake', 'lecam_real' .* step\.extra\)"):
        step(bare, tiny.batch())


def test_two_terms_for_one_thing_are_refused():
    with pytest.raises(UserError, match="two terms of one step keep 'lecam_fake'"):
        tiny.gan(terms=[losses.LeCam(0.1), losses.LeCam(0.2)])
    start, step = tiny.gan(terms=[losses.penalty("r2")])  # beside R1
    with pytest.raises(UserError, match="two terms of one player are called 'penalty'"):
        jax.eval_shape(step, start, tiny.batch())
