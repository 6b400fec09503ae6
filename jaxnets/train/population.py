"""Several networks, or several GANs, trained at once by one compiled program.

The members of a population differ in their seed and in scalar hyper-parameters; networks, data and
batch size are the same. Their states are one state, with a leading axis of N members, and their
step is any step under `jax.vmap`. So whatever runs a step runs a population: `compile_step`, the
loop, checkpoints.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.data import Split, make_pipeline
from jaxnets.errors import UserError
from jaxnets.train.state import TrainState
from jaxnets.train.steps import Step
from jaxnets.typing import Array, Batch, Feeder, Metrics, PyTree

__all__ = [
    "PopulationPipeline",
    "make_population_pipeline",
    "mean_and_spread",
    "member_state",
    "population_state",
    "population_step",
]

#: Where the axis of members lies. All members are at the same step.
_AXES: Any = TrainState(step=None, key=0, nets=0, extra=0)  # type: ignore[arg-type]


def population_state(
    states: Sequence[TrainState], hypers: Mapping[str, Sequence[float]] | None = None
) -> TrainState:
    """The states of N members as one.

    Args:
      states: of equal structure, shapes and step, one for each member.
      hypers: name -> N numbers, one for each member. They become part of the state, in `extra`,
        so that other numbers need no other program.

    Returns:
      A state whose `step` is that of all members; every other leaf has a leading axis of N.

    Raises:
      UserError: if there are no members, or not one number for each.
      ValueError: if the members are not at the same step.
    """
    if not states:
        raise UserError("a population needs at least one member")
    steps = {int(state.step) for state in states}
    if len(steps) > 1:
        raise ValueError(f"members of a population must be at one step, not at {sorted(steps)}")
    for name, values in (hypers or {}).items():
        if len(values) != len(states):
            raise UserError(f"{name} has {len(values)} values for {len(states)} members")
    first = states[0]
    together: TrainState = jax.tree.map(
        lambda *leaves: jnp.stack(leaves),
        *(dataclasses.replace(state, step=first.step) for state in states),
    )
    added = {name: jnp.asarray(values, jnp.float32) for name, values in (hypers or {}).items()}
    extra = {**together.extra, **added}
    return dataclasses.replace(together, step=jnp.copy(first.step), extra=extra)


def member_state(state: TrainState, index: int) -> TrainState:
    """The state of one member, as its own run would have it."""
    one: TrainState = jax.tree.map(lambda leaf: leaf[index], dataclasses.replace(state, step=None))
    return dataclasses.replace(one, step=state.step)


def population_step(
    make_step: Callable[[Mapping[str, Array]], Step],
    names: Sequence[str],
    *,
    batch_axis: int | None = 0,
) -> Step:
    """The step of a population: `jax.vmap` of a step over its members.

    >>> def make_step(hypers):
    ...     optimizer = make_optimizer("adam", hypers["learning_rate"])
    ...     return classifier_step(model, cross_entropy, optimizer)

    Args:
      make_step: builds a member's step out of its hyper-parameters: the `extra` of its state, name
        -> traced scalar. They may go wherever a number enters the computation (a learning rate or
        the peak of a schedule, weight decay, the weight of a penalty), not where one decides what
        is computed (a width, a number of steps).
      names: of the members, each its own.
      batch_axis: where the axis of members lies in the leaves of a batch; None if all members see
        the same batch.

    Returns:
      A step. Of every metric of a member's step it gives the mean over all members under its name,
      and each member's own under `name/member`.

    Raises:
      ValueError: if two members have one name.
    """
    if len(set(names)) != len(names):
        raise ValueError(f"two members of the population have one name: {', '.join(names)}")

    def one(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        return make_step(state.extra)(state, batch)

    mapped = jax.vmap(one, in_axes=(_AXES, batch_axis), out_axes=(_AXES, 0), axis_size=len(names))

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        state, metrics = mapped(state, dict(batch))
        shown = {}
        for name, of_all in metrics.items():
            shown[name] = jax.tree.map(lambda leaf: leaf.sum(axis=0), of_all)
            for i, member in enumerate(names):
                shown[f"{name}/{member}"] = jax.tree.map(lambda leaf, i=i: leaf[i], of_all)
        return state, shown

    return step


class PopulationPipeline:
    """The batches of N members, each in the order of its own seed.

    The axis of members follows the batch axis in what is fed, so that the batch axis is where the
    devices expect it, and leads in the batches that are fetched.

    Attributes:
      batch_size: examples in the batches of all members together.
      num_examples: examples in an epoch of all members together.
      source: what all members share, or with a leading axis of N where they have images of their
        own.
    """

    def __init__(self, members: Sequence[Feeder], *, shared: bool):
        """Joins pipelines of one kind; `shared` if they all have the same source.

        Raises:
          UserError: if their sizes differ.
        """
        sizes = {(p.num_examples, p.batch_size) for p in members}
        if len(sizes) != 1:
            raise UserError(
                "members of a population need equal numbers of images and equal batches; these "
                f"have (images, batch) {sorted(sizes)}"
            )
        ((num_examples, batch_size),) = sizes
        self.num_examples, self.batch_size = num_examples * len(members), batch_size * len(members)
        self._members, self._shared = members, shared
        self.source: PyTree = members[0].source
        if not shared:
            self.source = jax.tree.map(lambda *x: np.stack(x), *(p.source for p in members))

    def feed(self, first_step: int, steps: int) -> PyTree:
        """What the members are fed, leaves [steps, B, N, ...]."""
        feeds = [member.feed(first_step, steps) for member in self._members]
        return jax.tree.map(lambda *leaves: np.stack(leaves, axis=2), *feeds)

    def fetch(self, source: PyTree, feed: PyTree) -> Batch:
        """The members' batches of one step, leaves [N, B, ...]."""
        fetch = jax.vmap(self._members[0].fetch, in_axes=(None if self._shared else 0, 1))
        return fetch(source, feed)

    def check_classes(self, num_classes: int) -> None:
        """Fails for a label of any member outside 0 .. K - 1."""
        for member in self._members:
            member.check_classes(num_classes)

    def close(self) -> None:
        """Ends reader threads."""
        for member in self._members:
            member.close()


def make_population_pipeline(
    splits: Sequence[Split],
    batch_size: int,
    seeds: Sequence[int],
    *,
    memory_budget_bytes: int = 4 << 30,
    **options: Any,
) -> PopulationPipeline:
    """The pipeline of a population, each member fed as `make_pipeline` would feed it alone.

    Args:
      splits: the training images of each member. Where all are the same object they are kept on
        the device once.
      batch_size: images a step of one member, over all devices.
      seeds: of the members' orders.
      memory_budget_bytes: what the images may take of a device's memory; beyond it they are
        streamed.
      **options: further ones of `make_pipeline`, for every member.

    Raises:
      UserError: if the batch is larger than a split, or the splits differ in size.
    """
    shared = all(split is splits[0] for split in splits)
    needed = splits[0].nbytes if shared else sum(split.nbytes for split in splits)
    budget = needed if needed <= memory_budget_bytes else -1
    members = [
        make_pipeline(split, batch_size, seed, memory_budget_bytes=budget, **options)
        for split, seed in zip(splits, seeds, strict=True)
    ]
    return PopulationPipeline(members, shared=shared)


def mean_and_spread(
    names: Sequence[str], numbers: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    """Numbers of the members, and what they say together.

    Returns:
      `name` -> mean, `name_std` -> sample standard deviation (0 for one member; NaN where a value
      is not finite), and `name/member` -> each member's own.
    """
    named: dict[str, float] = {}
    for name in numbers[0]:
        values = [of_one[name] for of_one in numbers]
        named[name] = statistics.fmean(values)
        # Of a value that is not finite, Python's own raises an AttributeError.
        known = all(map(math.isfinite, values))
        spread = statistics.stdev(values) if known and len(values) > 1 else 0.0
        named[f"{name}_std"] = spread if known else math.nan
        named |= {f"{name}/{member}": v for member, v in zip(names, values, strict=True)}
    return named
