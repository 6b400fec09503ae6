"""Checkpoints whose files were damaged: none may be loaded as good."""

from __future__ import annotations

import dataclasses
import random
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.chaos.damage import ALONE, DAMAGES, damage
from experiments.chaos.faults import Fault, dealt, lose, shares
from experiments.chaos.trainee import Stage
from experiments.chaos.undisturbed import Reference
from jaxnets.errors import UserError

if TYPE_CHECKING:
    from jaxnets.train.state import TrainState

#: A restore that takes longer is taken for stuck; one takes a fraction of a second.
_HANG_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Damage:
    """A planned fault.

    Attributes:
      run: whose checkpoints are damaged.
      kinds: what is done, and to which: the newest checkpoint is 0, the one before it 1.
      seed: decides what exactly happens.
    """

    run: str
    kinds: tuple[tuple[str, int], ...]
    seed: int


def plan(seed: int, count: int, runs: Sequence[str]) -> list[Damage]:
    """What is damaged and how: the same for the same seed.

    Mostly it is the newest checkpoint; of six, one is the older one, and one is both.
    """
    planned = []
    for run, share in shares(count, runs).items():
        rng = random.Random(f"corruptions {run} {seed}")
        kinds, both = dealt(list(DAMAGES), rng), dealt(ALONE, rng)
        places = dealt(((0,), (0,), (0,), (0,), (1,), (0, 1)), rng)
        for _ in range(share):
            which = next(places)
            done = tuple((next(kinds if len(which) == 1 else both), index) for index in which)
            planned.append(Damage(run, done, rng.randrange(2**32)))
    return planned


@dataclasses.dataclass(frozen=True)
class Target:
    """A finished run whose checkpoints are copied and damaged.

    Attributes:
      folder: of the checkpoints.
      about: what its checkpoints say of their run.
      like: a state of the same network.
      good: step -> the arrays and notes of its checkpoint before any damage.
    """

    folder: Path
    about: dict[str, Any]
    like: TrainState
    good: dict[int, tuple[list[bytes], dict[str, Any]]]


def target(reference: Reference) -> Target:
    """The checkpoints of an undisturbed run, read while they are good."""
    from jaxnets.commands import classify, common, generate
    from jaxnets.commands.configs.reading import config_from
    from jaxnets.devices import parallel
    from jaxnets.run.checkpoint import Checkpoints
    from jaxnets.run.runs import read_run

    found = read_run(reference.folder)
    mesh = parallel.make_mesh(1)
    module, kind = {
        "classify": (classify, classify.Classify),
        "generate": (generate, generate.Generate),
    }[found["experiment"]]
    config = config_from(kind, found["config"])
    built = module.build(config, common.load_data(config, config.data), mesh)  # type: ignore[arg-type]
    built.task.pipeline.close()
    like = parallel.replicate(built.task.init(), mesh)
    folder = reference.folder / "checkpoints"
    good = {}
    with Checkpoints(folder) as checkpoints:
        steps = checkpoints.steps()
    assert len(steps) > 1, "one checkpoint is damaged, and the other is to be used"
    for step in steps:
        alone = folder.with_name(f"only-{step}")
        shutil.copytree(folder / str(step), alone / str(step))
        with Checkpoints(alone, about=found) as checkpoints:
            state, notes = checkpoints.restore(like)
        shutil.rmtree(alone)
        assert int(state.step) == step
        good[step] = (bits(state), notes)
    return Target(folder, found, like, good)


def bits(state: TrainState) -> list[bytes]:
    """Every bit of a state, its random key included."""
    import jax
    import numpy as np

    plain = dataclasses.replace(state, key=jax.random.key_data(state.key))
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(plain)]


def strike(stage: Stage, aim: Target, planned: Damage, number: int) -> Fault:
    """Damages a copy of a run's checkpoints and restores from it."""
    place = stage.folder / f"corrupted-{planned.run}-{number}"
    copy = place / "checkpoints"
    shutil.copytree(aim.folder, copy)
    shutil.copy(aim.folder.with_name("checkpoints.json"), place)
    steps = sorted(aim.good, reverse=True)
    rng = random.Random(planned.seed)
    done = [damage(kind, copy, steps[index], rng) for kind, index in planned.kinds]
    names = " and ".join(f"{k} of step {steps[i]}" for k, i in planned.kinds)
    fault = Fault("corruptions", planned.run, f"{names}: {'; '.join(done)}")
    begin = time.monotonic()
    fault.outcome, why = _within(_HANG_SECONDS, lambda: verdict(aim, copy))
    fault.seconds = time.monotonic() - begin
    if why is None:
        shutil.rmtree(place)
    else:
        lose([fault], why, place)
        stage.say(f"{place.name}: LOST, {fault.what}: {why}")
    return fault


def verdict(aim: Target, folder: Path) -> tuple[str, str | None]:
    """Restores from a folder of checkpoints, and judges what came of it.

    Returns:
      What happened, and what is wrong with that; None if nothing.
    """
    from jaxnets.run.checkpoint import Checkpoints

    told: list[str] = []
    try:
        with Checkpoints(folder, about=aim.about, say=told.append) as checkpoints:
            state, notes = checkpoints.restore(aim.like, repair=True)
    except UserError as error:
        text = str(error)
        return f"refused: {text[:200]}", None if "\n" not in text else "the error has several lines"
    except Exception as error:
        return "failed", f"restoring raised {type(error).__name__}: {str(error)[:200]}"
    step = int(state.step)
    if step not in aim.good:
        return f"step {step} loaded", "no such step was saved"
    arrays, kept = aim.good[step]
    if bits(state) != arrays:
        return f"step {step} loaded", "wrong arrays were loaded as good"
    if notes != kept:
        return f"step {step} loaded", "wrong notes were loaded as good"
    if step == max(aim.good):
        return f"step {step} loaded, to the bit", None
    if not told:
        return f"step {step} loaded", "an older step was used, and nothing was said"
    return f"passed over, step {step} loaded, to the bit", None


def _within(seconds: float, judge: Callable[[], tuple[str, str | None]]) -> tuple[str, str | None]:
    """What a function returns, if it does so in time."""
    found: list[tuple[str, str | None]] = []
    thread = threading.Thread(target=lambda: found.append(judge()), daemon=True)
    thread.start()
    thread.join(seconds)
    if found:
        return found[0]
    what = "it hung" if thread.is_alive() else "its thread died"
    return "failed", f"restoring did not end within {seconds:.0f} s: {what}"
