"""What the training commands need for `--seeds`: members by seed, and their numbers together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiments import common

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from jaxnets.data import Split
    from jaxnets.state import TrainState
    from jaxnets.steps import Step
    from jaxnets.task import Feeder


def seeds(config: common.RunOptions) -> list[int]:
    """The seeds of a run's members; of an ordinary run, its one seed."""
    return [config.seed + i for i in range(config.seeds)]


def names(config: common.RunOptions) -> list[str]:
    """The members' names, as in `metrics.jsonl`."""
    return [f"seed-{seed}" for seed in seeds(config)]


def pipeline(config: Any, splits: Sequence[Split], batch_size: int, mesh: Mesh) -> Feeder:
    """What feeds the run: `splits` are the training images of each member."""
    from jaxnets import data, parallel, population

    budget = config.memory_budget_mb << 20
    rows = parallel.own_rows(mesh, batch_size)
    if config.seeds == 1:
        return data.make_pipeline(
            splits[0], batch_size, config.seed, memory_budget_bytes=budget, rows=rows
        )
    return population.make_population_pipeline(
        splits, batch_size, seeds(config), memory_budget_bytes=budget, rows=rows
    )


def step(config: common.RunOptions, of_one: Step) -> Step:
    """The run's step, made of that of one member."""
    from jaxnets import population

    return (
        of_one if config.seeds == 1 else population.population_step(lambda _: of_one, names(config))
    )


def init(config: common.RunOptions, of_one: Callable[[int], TrainState]) -> TrainState:
    """The run's first state, made of that of each member (a number from 0 on)."""
    from jaxnets import population

    if config.seeds == 1:
        return of_one(0)
    return population.population_state([of_one(i) for i in range(config.seeds)])


def members(config: common.RunOptions, state: TrainState) -> list[TrainState]:
    """The states of the members."""
    from jaxnets import population

    if config.seeds == 1:
        return [state]
    return [population.member_state(state, i) for i in range(config.seeds)]


def member(config: common.RunOptions, state: TrainState, seed: int | None) -> TrainState:
    """The state of the member with a seed, by default the first."""
    from jaxnets.errors import UserError

    asked = config.seed if seed is None else seed
    if asked not in seeds(config):
        known = ", ".join(map(str, seeds(config)))
        raise UserError(f"the run has no member with the seed {asked}; it has {known}")
    return members(config, state)[asked - config.seed]


def numbers(
    config: common.RunOptions, state: TrainState, of_one: Callable[[TrainState, int], Mapping]
) -> dict[str, Any]:
    """Numbers of the run: those of its one network, or mean, spread and each member's.

    Args:
      config: of the run.
      state: of the run.
      of_one: (member's state, number of the member) -> name -> number.
    """
    return together(config, [of_one(one, i) for i, one in enumerate(members(config, state))])


def together(config: common.RunOptions, each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The members' numbers as those of the run: of counts and texts no mean is taken."""
    from jaxnets import population

    if config.seeds == 1:
        return dict(each[0])
    measured = [name for name, value in each[0].items() if isinstance(value, float)]
    rest = {name: [one[name] for one in each] for name in each[0] if name not in measured}
    found = population.mean_and_spread(
        names(config), [{name: one[name] for name in measured} for one in each]
    )
    return {**found, **{k: v[0] if len(set(v)) == 1 else v for k, v in rest.items()}}


def curves(config: common.RunOptions, *shown: str) -> list[str]:
    """Names of the curves to draw: each member's, where a reader can tell them apart."""
    if config.seeds == 1 or config.seeds * len(shown) > 8:
        return list(shown)
    return [f"{name}/{of_member}" for name in shown for of_member in names(config)]


def shown(numbers: Mapping[str, Any], name: str, form: str) -> str:
    """A number for a table: alone, or as mean and standard deviation."""
    text = format(numbers[name], form)
    spread = numbers.get(f"{name}_std")
    return text if spread is None else f"{text} +- {format(spread, form)}"


def suffix(config: common.RunOptions) -> str:
    """What a run's title says of its members."""
    return "" if config.seeds == 1 else f", {config.seeds} seeds"
