"""A population in one program against its members, one after the other."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from experiments.benchmarks import cases
from jaxnets.commands import checks, common
from jaxnets.commands.configs import constraints
from jaxnets.commands.configs.constraints import COUNT, MAX_MEMBERS, Range
from jaxnets.errors import UserError

if TYPE_CHECKING:
    from jaxnets.data import Split

#: Images to train on, as many batches as this: the gather of a step is part of what is timed.
_BATCHES = 4


@dataclasses.dataclass(frozen=True)
class Population:
    """Time a step of a population in one program against the same steps in turn.

    Both ways start from the same weights, see the same images in the same order, and run in turn
    in every round.
    """

    kinds: tuple[Literal["classifier", "gan"], ...] = ("classifier", "gan")
    """What to train: classifier, gan or both."""
    members: Annotated[int, Range(least=1, most=MAX_MEMBERS)] = 8
    """Networks, or GANs, in the population."""
    network: str = "lenet5"
    """The classifier: any network of `classify`."""
    width: float = 0.25
    """Factor on every number of channels; 1 is the published size."""
    batch_size: Annotated[int, COUNT] = 32
    """Images a step of one member."""
    image_size: Annotated[int, COUNT] = 28
    """Height and width of the images."""
    steps_per_call: Annotated[int, COUNT] = 4
    """Training steps in one call of the compiled program."""
    calls: Annotated[int, COUNT] = 4
    """Calls in one round, of each way."""
    rounds: Annotated[int, COUNT] = 5
    """Rounds, after one that compiles."""
    json: Path | None = None
    """A JSON file to keep the numbers in."""


def run(config: Population) -> dict[str, Any]:
    """The benchmark: for each kind the seconds of a step of all members, both ways, in each round.

    `ratio` is that of the medians: how many times faster the population is. `least_ratio` and
    `greatest_ratio` are those of single rounds.
    """
    from jaxnets.files import write_json

    _check(config)
    numbers = {
        "members": config.members,
        "batch_size": config.batch_size,
        "steps_per_call": config.steps_per_call,
        "results": [_compare(config, _case(config, kind)) for kind in config.kinds],
        "machine": common.machine(),
    }
    if config.json is not None:
        write_json(config.json, numbers)
    print(json.dumps(numbers, indent=2))
    return numbers


def _check(config: Population) -> None:
    """Fails, before anything is built, for numbers that no population can be made of."""
    from jaxnets.commands import memory

    constraints.check(config)
    if not config.kinds:
        raise UserError("--kinds names nothing to train; choose among classifier, gan")
    images = (_BATCHES + config.members) * config.batch_size * config.image_size**2
    what = f"{config.members} members with images of {config.image_size}x{config.image_size}"
    memory.check_fits(12 * images, memory.host_available(), what)
    checks.json_file(config)


def _case(config: Population, kind: str) -> cases.Case:
    size = {
        "width": config.width,
        "batch_size": config.batch_size,
        "image_size": config.image_size,
    }
    if kind == "classifier":
        return cases.ClassifierCase(network=config.network, **size)
    return cases.GanCase(**size)


def _compare(config: Population, case: cases.Case) -> dict[str, Any]:
    together, in_turn = _ways(config, case)
    for way in (together, in_turn):
        way()  # compiles
    seconds: dict[str, list[float]] = {"together": [], "in_turn": []}
    for _ in range(config.rounds):
        for name, way in (("together", together), ("in_turn", in_turn)):
            begin = time.perf_counter()
            way()
            steps = config.calls * config.steps_per_call
            seconds[name].append((time.perf_counter() - begin) / steps)
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "case": case.name,
        "seconds_together": seconds["together"],
        "seconds_in_turn": seconds["in_turn"],
        "ratio": medians["in_turn"] / medians["together"],
        "least_ratio": min(ratios),
        "greatest_ratio": max(ratios),
    }


def _ways(config: Population, case: cases.Case) -> tuple[Callable[[], None], Callable[[], None]]:
    """Two functions that make `calls` calls for all members and wait for what they give."""
    import jax

    from jaxnets import data, parallel, population
    from jaxnets.task import take_feed

    mesh = parallel.make_mesh(1)
    seeds = range(config.members)
    works = [cases.build(dataclasses.replace(case, seed=seed)) for seed in seeds]
    split = _images(case)

    def program(step: Any, pipeline: Any) -> Any:
        return parallel.compile_step(
            step, mesh, steps_per_call=config.steps_per_call, fetch=pipeline.fetch
        )

    whole = population.make_population_pipeline([split] * config.members, case.batch_size, seeds)
    names = [str(seed) for seed in seeds]
    step_of_all = program(population.population_step(lambda _: works[0].step, names), whole)
    all_state = parallel.replicate(population.population_state([w.state for w in works]), mesh)
    pipelines = [data.make_pipeline(split, case.batch_size, seed) for seed in seeds]
    step_of_one = program(works[0].step, pipelines[0])  # one program serves all members
    states = [parallel.replicate(work.state, mesh) for work in works]
    source = parallel.replicate(whole.source, mesh)
    done = {"together": 0, "in turn": 0}

    def together() -> None:
        nonlocal all_state
        for _ in range(config.calls):
            feed = take_feed(whole, done["together"], config.steps_per_call)
            all_state, _ = step_of_all(all_state, feed, source)
            done["together"] += config.steps_per_call
        jax.block_until_ready(all_state)

    def in_turn() -> None:
        for i, pipeline in enumerate(pipelines):
            for call in range(config.calls):
                first = done["in turn"] + call * config.steps_per_call
                feed = take_feed(pipeline, first, config.steps_per_call)
                states[i], _ = step_of_one(states[i], feed, source)
            jax.block_until_ready(states[i])
        done["in turn"] += config.calls * config.steps_per_call

    return together, in_turn


def _images(case: cases.Case) -> Split:
    import numpy as np

    from jaxnets.data import Split

    rng = np.random.default_rng(case.seed)
    count = _BATCHES * case.batch_size
    shape = (count, case.image_size, case.image_size, case.channels)
    return Split(
        rng.integers(0, 256, shape, np.uint8),
        rng.integers(0, cases.NUM_CLASSES, count).astype(np.int32),
    )
