"""`game_step`: players' updates in turn, each against the others as they now are."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import chex
import jax
import optax
from jax.typing import ArrayLike

from jaxnets.errors import UserError
from jaxnets.losses.terms import Play, Term
from jaxnets.train.descent import descend, merge_over_first_axis, split_batch, value_at
from jaxnets.train.state import Net, TrainState
from jaxnets.typing import Array, Batch, Metrics, PRNGKey, PyTree

__all__ = ["Game", "Move", "Objective", "Stateful", "add_terms", "game_step", "terms_of"]

#: `(params, model_state, batch, key, state) -> (loss of each example [B], (model_state, metrics))`;
#: `state` has the other networks as they now are, the terms' numbers and the number of the step.
Objective = Callable[
    [PyTree, PyTree, Batch, PRNGKey, TrainState], tuple[Array, tuple[PyTree, Metrics]]
]


class Move(NamedTuple):
    """One player's update.

    Attributes:
      player: which of `state.nets` it updates.
      objective: what the player minimises.
      optimizer: the one that the player was initialised with.
      times: how often in a step, each time on its own share of the batch.
      prefix: of `grad_norm` among the step's metrics.
      frozen: see `descend`.
    """

    player: str
    objective: Objective
    optimizer: optax.GradientTransformation
    times: int = 1
    prefix: str = ""
    frozen: PyTree = None


class Stateful(Protocol):
    """What keeps numbers in the state: a `jaxnets.losses.Term`, or `Adaptive` augmentation."""

    @property
    def extra(self) -> Mapping[str, ArrayLike]:
        """Name -> first value, of any shape, equal on every device."""
        ...

    def after(self, extra: Mapping[str, Array], metrics: Metrics) -> Mapping[str, Array]:
        """Their next values, given all numbers of the state and all metrics of the step."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Game:
    """A step `(state, batch) -> (state, metrics)`; see `game_step`."""

    moves: Sequence[Move]
    stateful: Sequence[Stateful]
    ema_decay: Array | float | optax.Schedule | None
    micro_batches: int
    num_classes: int | None = None

    @property
    def extra(self) -> dict[str, ArrayLike]:
        """The terms' numbers as they begin, for `TrainState.create(key, nets, step.extra)`."""
        return {name: value for each in self.stateful for name, value in each.extra.items()}

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """The state after one more step, and the metrics of all moves."""
        if missing := self.extra.keys() - state.extra.keys():
            raise UserError(
                f"this step keeps {', '.join(map(repr, sorted(missing)))} in the state: make it "
                "with TrainState.create(key, nets, step.extra)"
            )
        key = jax.random.fold_in(state.key, state.step)
        keys = jax.random.split(key, len(self.moves)) if len(self.moves) > 1 else [key]
        shares = max(move.times for move in self.moves)
        parts = split_batch(batch, shares) if shares > 1 else batch
        now, metrics = state, {}
        for move, key in zip(self.moves, keys, strict=True):
            own = batch
            if shares > 1:
                which = -1 if move.times == 1 else slice(-move.times, None)
                own = jax.tree.map(lambda leaf, which=which: leaf[which], parts)
            net, of_move = self._moved(move, now, own, key)
            now = dataclasses.replace(now, nets={**now.nets, move.player: net})
            if twice := sorted(metrics.keys() & of_move.keys()):
                raise ValueError(f"two moves have the metric {twice[0]!r}; give each its own name")
            metrics |= of_move
        extra = dict(state.extra)
        for each in self.stateful:
            extra |= each.after(state.extra, metrics)
        shown = {name: value for name, value in metrics.items() if not name.startswith("_")}
        return dataclasses.replace(now, step=state.step + 1, extra=extra), shown

    def _moved(
        self, move: Move, now: TrainState, batch: Batch, key: PRNGKey
    ) -> tuple[Net, Metrics]:
        """The player after its updates; of several, the batch is [times, B, ...]."""
        decay = value_at(self.ema_decay, now.step)

        def objective(params: PyTree, model_state: PyTree, part: Batch, key: PRNGKey):
            return move.objective(params, model_state, part, key, now)

        def update(net: Net, given: tuple[Batch, PRNGKey]) -> tuple[Net, Metrics]:
            return descend(
                net,
                objective,
                *given,
                name=move.player,
                optimizer=move.optimizer,
                prefix=move.prefix,
                ema_decay=decay,
                micro_batches=self.micro_batches,
                frozen=move.frozen,
            )

        net = now.nets[move.player]
        if move.times == 1:
            return update(net, (batch, key))
        net, metrics = jax.lax.scan(update, net, (batch, jax.random.split(key, move.times)))
        return net, merge_over_first_axis(metrics)


def game_step(
    moves: Sequence[Move],
    *,
    stateful: Sequence[Stateful] = (),
    ema_decay: Array | float | optax.Schedule | None = None,
    micro_batches: int = 1,
    num_classes: int | None = None,
) -> Game:
    """A step made of moves in turn, each against the other networks as they now are.

    The batch is dealt out into as many shares as the greatest `times`. A move that is made n times
    takes the last n of them, one an update, so that every update sees equally many examples.

    Args:
      moves: in their order. All random numbers of a move follow from its own key.
      stateful: what keeps numbers in the state; moved once a step, after the last move.
      ema_decay: of the moving average of each network that was initialised with one, a number or a
        function of the step.
      micro_batches: see `descend`; applies to every update.
      num_classes: K of a game whose targets are classes; `jaxnets.fit` then looks whether all
        labels lie in 0 .. K - 1 before it trains.

    Returns:
      A step with the metrics of all objectives, and each move's `grad_norm` and `finite/...` (see
      `descend`). A metric whose name starts with "_" is for `Stateful.after` alone; it may be any
      tree of arrays that add up over devices and updates.

    Raises:
      UserError: if two of `stateful` keep a number of one name, or, when the step is traced, if the
        state lacks one.
    """
    names = [name for each in stateful for name in each.extra]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"two terms of one step keep {twice[0]!r} in the state; choose one of them")
    return Game(tuple(moves), tuple(stateful), ema_decay, micro_batches, num_classes)


def terms_of(player: str, terms: Sequence[Term], key: PRNGKey) -> list[tuple[Term, PRNGKey]]:
    """The terms of one player, each with its key; the first has the given one."""
    own = [term for term in terms if term.player == player]
    return [(term, jax.random.fold_in(key, i) if i else key) for i, term in enumerate(own)]


def add_terms(
    terms: Sequence[tuple[Term, PRNGKey]], play: Play, step: Array, values: Array, metrics: Metrics
) -> tuple[Array, Metrics]:
    """A player's loss with its terms: `values + sum_i weight_i term_i`.

    Args:
      terms: the player's, see `terms_of`.
      play: what they see.
      step: for weights that are functions of it.
      values: [B], the loss without them.
      metrics: those of the objective.

    Returns:
      The loss [B], and the metrics with those of the terms.

    Raises:
      UserError: if two terms have a metric of one name.
    """
    for term, key in terms:
        added, told = term(play, key)
        chex.assert_equal_shape([values, added])
        factor: Any = value_at(term.weight, step)
        values = values + factor * added
        if twice := sorted(metrics.keys() & told.keys()):
            raise UserError(f"two terms of one player are called {twice[0]!r}; choose one of them")
        metrics = {**metrics, **told}
    return values, metrics
