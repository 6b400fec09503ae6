"""Runs of the loop that take a second, and what goes wrong in them when a test asks for it."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np

import tiny
from jaxnets.data import ResidentPipeline, Split
from jaxnets.devices import parallel
from jaxnets.run import loop
from jaxnets.run.task import FitOptions, Task

TOTAL = 10


class Crash(Exception):
    """Stands for a machine that goes down."""


def crash():
    raise Crash


def nothing():
    """What goes wrong where nothing does."""


class FaultyPipeline(ResidentPipeline):
    """Does something each time that the feed of a certain step is asked for, until it is done."""

    def __init__(self, *args, at, faults):
        super().__init__(*args)
        self.at, self.faults = at, list(faults)

    def feed(self, first_step, steps):
        if self.faults and first_step <= self.at < first_step + steps:
            self.faults.pop(0)()
        return super().feed(first_step, steps)


def images(count=40, seed=0):
    rng = np.random.default_rng(seed)
    return Split(
        rng.integers(0, 256, (count, tiny.SIZE, tiny.SIZE, 1), np.uint8),
        rng.integers(0, tiny.CLASSES, count).astype(np.int32),
    )


MAKE = {"classifier": tiny.classifier, "gan": lambda: tiny.gan(discriminator_steps=2)}


def task(kind, *, at=-1, fault=None, faults=(), scores=None, change=None, **fields):
    """A task of ten steps.

    Its pipeline does `fault`, or one of `faults` after the other, when step `at` is asked for; its
    evaluations give `scores`; `change` makes another step of its step.
    """
    _, step = MAKE[kind]()
    seen = iter(scores or [])
    return Task(
        **{
            "name": kind,
            "init": lambda: MAKE[kind]()[0],
            "step": step if change is None else change(step),
            "pipeline": FaultyPipeline(images(), 16, 3, at=at, faults=[fault] if fault else faults),
            "total_steps": TOTAL,
            "evaluate": lambda s: {"score": next(seen, 0.0)},
            **fields,
        }
    )


def fit(task, folder, *, devices=1, **options):
    options = {"steps_per_call": 2, "log_every": 2, "save_every": 4, **options}
    return loop.fit(task, folder, parallel.make_mesh(devices), FitOptions(**options))


def bits(state):
    leaves = jax.tree.leaves(dataclasses.replace(state, key=jax.random.key_data(state.key)))
    return [np.asarray(leaf).tobytes() for leaf in leaves]


def records(folder, split):
    """The records of a run's `metrics.jsonl` that are of one split."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record for record in found if record["split"] == split]


def poison(at, *, value=np.nan, of_key=None):
    """Makes of a step one that finds a value in the images of step `at` that no image can have.

    Args:
      at: number of the step, from 0.
      value: NaN, or an infinity.
      of_key: the key of the state in which it is found; None means any.
    """

    def change(step):
        def poisoned(state, batch):
            bad = state.step == at
            if of_key is not None:
                bad &= (jax.random.key_data(state.key) == jax.random.key_data(of_key)).all()
            image = jnp.where(bad, value, batch["inputs"])
            return step(state, {**batch, "inputs": image})

        return poisoned

    return change
