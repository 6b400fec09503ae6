"""A training of a classifier by this library, to be timed beside PyTorch's."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxnets.commands.classify import Built
from jaxnets.commands.configs.classify import Classify
from jaxnets.data import DataSet
from jaxnets.devices import parallel
from jaxnets.run.task import Lazily, take_feed


class OwnTraining:
    """Our side, as the loop of `jaxnets.run.loop` would run it, without logs and checkpoints."""

    def __init__(self, recipe: Classify, built: Built, dataset: DataSet, mesh: Mesh):
        self.recipe, self.built, self.mesh = recipe, built, mesh
        self.test = dataset.splits["test"]
        self.state = parallel.replicate(built.task.init(), mesh)
        self.source = parallel.replicate(built.task.pipeline.source, mesh)
        self.programs: dict[int, Any] = {}

    def warm_up(self) -> float:
        """Compiles the program of a whole call, and that of the rest at the end."""
        total, per_call = self.built.task.total_steps, self.recipe.steps_per_call
        seconds, begun = 0.0, self.state
        for steps in {min(per_call, total), total % per_call} - {0}:
            self.state = jax.tree.map(jnp.copy, begun)
            tries = []
            for _ in range(2):
                begin = time.perf_counter()
                self.advance(0, steps)
                tries.append(time.perf_counter() - begin)
            seconds += max(tries[0] - tries[1], 0.0)
        self.state = begun
        return seconds

    def advance(self, first: int, last: int) -> None:
        """See `time_to_accuracy.Training`."""
        task = self.built.task
        assert not isinstance(task.step, Lazily)  # a classifier has one step
        while first < last:
            steps = min(self.recipe.steps_per_call, last - first)
            if steps not in self.programs:
                self.programs[steps] = parallel.compile_step(
                    task.step,
                    self.mesh,
                    self.recipe.mode,
                    steps_per_call=steps,
                    fetch=task.pipeline.fetch,
                )
            feed = take_feed(task.pipeline, first, steps)
            self.state, _ = self.programs[steps](self.state, feed, self.source)
            first += steps
        jax.block_until_ready(self.state)

    def accuracy(self) -> float:
        """See `time_to_accuracy.Training`."""
        return self.built.judge(self.state, self.test).metrics["accuracy"]
