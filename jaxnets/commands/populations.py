"""Runs of several members, by `--seeds` or `--sweep`: their names, states and numbers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxnets import data
from jaxnets.commands.configs import sweeps
from jaxnets.commands.configs.options import RunOptions
from jaxnets.data import Split
from jaxnets.devices import parallel
from jaxnets.devices.parallel import own_copy
from jaxnets.errors import UserError
from jaxnets.train import population
from jaxnets.train.state import TrainState
from jaxnets.train.steps import Step
from jaxnets.typing import Feeder


def seeds(config: RunOptions) -> list[int]:
    """The seeds of a run's members; of an ordinary run, its one seed.

    Of a sweep, those of all seeds with its first value come first.
    """
    own = [config.seed + i for i in range(config.seeds)]
    sweep = sweeps.sweep_of(config)
    return own if sweep is None else own * len(sweep.values)


def names(config: RunOptions) -> list[str]:
    """The members' names, as in `metrics.jsonl`."""
    own = [f"seed-{config.seed + i}" for i in range(config.seeds)]
    sweep = sweeps.sweep_of(config)
    if sweep is None:
        return own
    return [name if len(own) == 1 else f"{name},{seed}" for name in sweep.names() for seed in own]


def size(config: RunOptions) -> int:
    """How many networks, or GANs, the run trains."""
    return len(seeds(config))


def folder_of(config: RunOptions, member: int, folder: Path) -> Path:
    """A folder of the run; of several members, the one inside it that has this member's name."""
    return folder if size(config) == 1 else folder / names(config)[member]


def pipeline(config: Any, splits: Sequence[Split], batch_size: int, mesh: Mesh) -> Feeder:
    """What feeds the run: `splits` are the training images of each member."""
    balance = getattr(config, "balance", "none")  # a detector's data have no classes to balance
    options: Any = {
        "memory_budget_bytes": config.memory_budget_mb << 20,
        "workers": config.workers,
        "rows": parallel.own_rows(mesh, batch_size),
        "balanced": balance == "oversample" and "target" in splits[0].arrays,
    }
    if size(config) == 1:
        return data.make_pipeline(splits[0], batch_size, config.seed, **options)
    return population.make_population_pipeline(splits, batch_size, seeds(config), **options)


def step(config: RunOptions, of_one: Callable[[Mapping[str, Any]], Step]) -> Step:
    """The run's step, made of that of one member.

    Args:
      config: of the run.
      of_one: numbers that a sweep varies, by field -> the step of a member with them.
    """
    if size(config) == 1:
        return of_one({})
    return population.population_step(lambda extra: of_one(sweeps.swept(extra)), names(config))


def init(config: RunOptions, of_one: Callable[[int], TrainState]) -> TrainState:
    """The run's first state, made of that of each member (a number from 0 on)."""
    if size(config) == 1:
        return of_one(0)
    sweep = sweeps.sweep_of(config)
    hypers = None
    if sweep is not None:
        hypers = {sweep.key: [value for value in sweep.values for _ in range(config.seeds)]}
    return population.population_state([of_one(i) for i in range(size(config))], hypers)


def members(config: RunOptions, state: TrainState) -> list[TrainState]:
    """The states of the members."""
    if size(config) == 1:
        return [state]
    return [population.member_state(state, i) for i in range(size(config))]


def member(config: RunOptions, state: TrainState, number: int = 0) -> TrainState:
    """The state of one member, by default the first."""
    return members(config, state)[number]


def looked_at(config: RunOptions, numbers: Mapping[str, Any]) -> Sequence[int]:
    """The numbers of the members that a report shows: of a sweep the best alone."""
    best = sweeps.best_member(config, names(config), numbers)[0]
    return [best] if config.sweep else range(size(config))


def name_of(text: str | None) -> str | None:
    """The name of the member that a text stands for: its seed, or its name as anyone writes it."""
    if text is None:
        return None
    if text.isdecimal():
        return f"seed-{text.lstrip('0') or '0'}"
    return sweeps.canonical(text)


def numbers(
    config: RunOptions, state: TrainState, of_one: Callable[[TrainState, int], Mapping]
) -> dict[str, Any]:
    """Numbers of the run: those of its one network, or mean, spread and each member's.

    Of counts and texts no mean is taken: there is one, or a list of each member's.
    A member that has diverged has NaN for every number. So has the mean then: a checkpoint that
    holds such a member is never the best.

    Args:
      config: of the run.
      state: of the run.
      of_one: (member's state, number of the member) -> name -> number.

    Raises:
      UserError: if no member is left.
    """
    if size(config) == 1:
        return dict(of_one(state, 0))
    each = [
        None if has_diverged(one) else of_one(one, i)
        for i, one in enumerate(members(config, state))
    ]
    left = [one for one in each if one is not None]
    if not left:
        raise UserError(
            f"all {size(config)} members have diverged: lower the learning rate, or clip gradients "
            "with --clip-norm, in a new run folder"
        )
    measured = [name for name, value in left[0].items() if isinstance(value, float)]
    rest = {name: [one[name] for one in left] for name in left[0] if name not in measured}
    spreads = population.mean_and_spread(
        names(config),
        [{name: math.nan if one is None else one[name] for name in measured} for one in each],
    )
    return {**spreads, **{k: v[0] if len(set(v)) == 1 else v for k, v in rest.items()}}


def has_diverged(state: TrainState) -> bool:
    """Whether a member's networks hold numbers that are not finite; all processes must ask."""
    weights = [(net.params, net.averaged) for net in state.nets.values()]
    leaves = jax.tree.leaves(own_copy(weights))
    return not all(np.isfinite(leaf).all() for leaf in leaves)


def shown(numbers: Mapping[str, Any], name: str, form: str) -> str:
    """A number for a table: alone, or as mean and standard deviation of the members.

    Those that have diverged are left out, and named.
    """
    mean, spread = numbers[name], numbers.get(f"{name}_std")
    own = {k.partition("/")[2]: v for k, v in numbers.items() if k.startswith(f"{name}/")}
    values = [value for value in own.values() if math.isfinite(value)]
    without = ""
    if values and len(values) < len(own):
        lost = [member for member, value in own.items() if not math.isfinite(value)]
        mean = statistics.fmean(values)
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        without = f" without {', '.join(lost)}, which diverged"
    if not math.isfinite(mean):
        return "not known"
    text = format(mean, form)
    return text if spread is None else f"{text} +- {format(spread, form)}{without}"


def suffix(config: RunOptions) -> str:
    """What a run's title says about its members."""
    if size(config) == 1:
        return ""
    sweep = sweeps.sweep_of(config)
    of_seeds = f", {config.seeds} seeds" if config.seeds > 1 else ""
    return of_seeds if sweep is None else f", {len(sweep.values)} values of {sweep.field}{of_seeds}"
