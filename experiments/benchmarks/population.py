"""A population in one program against its members, one after the other."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.benchmarks import cases, report, timing
from experiments.benchmarks.configs import Population
from jaxnets import data
from jaxnets.commands import memory
from jaxnets.data import Split
from jaxnets.devices import parallel
from jaxnets.errors import UserError
from jaxnets.run.task import take_feed
from jaxnets.train import population

#: Images to train on, as many batches as this: the gather of a step is part of what is timed.
_BATCHES = 4


def run(config: Population) -> dict[str, Any]:
    """The benchmark: for each kind the seconds of a step of all members, both ways, in each round.

    `ratio` is that of the medians: how many times faster the population is. `least_ratio` and
    `greatest_ratio` are those of single rounds.
    """
    _check(config)
    numbers = {
        "members": config.members,
        "batch_size": config.batch_size,
        "steps_per_call": config.steps_per_call,
        "results": [_compare(config, cases.of_flags(kind, config)) for kind in config.kinds],
    }
    return report.end(config, numbers)


def _check(config: Population) -> None:
    """Fails, before anything is built, for numbers that no population can be made of."""
    report.begin(config)
    if not config.kinds:
        raise UserError("--kinds names nothing to train; choose among classifier, gan")
    images = (_BATCHES + config.members) * config.batch_size * config.image_size**2
    what = f"{config.members} members with images of {config.image_size}x{config.image_size}"
    memory.check_fits(12 * images, memory.host_available(), what)


def _compare(config: Population, case: cases.Case) -> dict[str, Any]:
    seconds = timing.interleave(_ways(config, case), config.rounds)
    together, in_turn = seconds["together"], seconds["in_turn"]
    ratios = [b / a for a, b in zip(together, in_turn, strict=True)]
    return {
        "case": case.name,
        "seconds_together": together,
        "seconds_in_turn": in_turn,
        "ratio": statistics.median(in_turn) / statistics.median(together),
        "least_ratio": min(ratios),
        "greatest_ratio": max(ratios),
    }


def _ways(config: Population, case: cases.Case) -> dict[str, timing.Runner]:
    """What makes a call for all members, in one program and one after the other."""
    mesh = parallel.make_mesh(1)
    seeds = range(config.members)
    works = [cases.build(dataclasses.replace(case, seed=seed)) for seed in seeds]
    split, steps = _images(case), config.steps_per_call

    def program(step: Any, pipeline: Any) -> Any:
        return parallel.compile_step(step, mesh, steps_per_call=steps, fetch=pipeline.fetch)

    whole = population.make_population_pipeline([split] * config.members, case.batch_size, seeds)
    source = parallel.replicate(whole.source, mesh)

    def calls(program: Any, state: Any, pipeline: Any) -> Callable[[], Any]:
        state, done = parallel.replicate(state, mesh), 0

        def call() -> Any:
            nonlocal state, done
            state, _ = program(state, take_feed(pipeline, done, steps), source)
            done += steps
            return jax.block_until_ready(state)

        return call

    step_of_all = population.population_step(lambda _: works[0].step, list(map(str, seeds)))
    all_state = population.population_state([work.state for work in works])
    together = calls(program(step_of_all, whole), all_state, whole)
    pipelines = [data.make_pipeline(split, case.batch_size, seed) for seed in seeds]
    step_of_one = program(works[0].step, pipelines[0])  # one program serves all members
    members = [
        calls(step_of_one, work.state, pipeline)
        for work, pipeline in zip(works, pipelines, strict=True)
    ]
    ways = {"together": together, "in_turn": lambda: [call() for call in members]}
    return {
        name: timing.Runner(way, units=steps, min_seconds=config.min_seconds)
        for name, way in ways.items()
    }


def _images(case: cases.Case) -> Split:
    rng = np.random.default_rng(case.seed)
    count = _BATCHES * case.batch_size
    shape = (count, case.image_size, case.image_size, case.channels)
    return Split(
        rng.integers(0, 256, shape, np.uint8),
        rng.integers(0, cases.NUM_CLASSES, count).astype(np.int32),
    )
