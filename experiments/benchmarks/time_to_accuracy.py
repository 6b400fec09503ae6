"""How long a training takes to reach a test accuracy, here and in PyTorch."""

# pyright: reportMissingImports=false

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any, Protocol

import jax
from jax.sharding import Mesh

from experiments.benchmarks import machine, torch_rivals
from experiments.benchmarks.configs import TimeToAccuracy
from experiments.benchmarks.own_training import OwnTraining
from experiments.reproduce import spread
from jaxnets.commands import checks, classify, common
from jaxnets.commands.configs import constraints
from jaxnets.commands.configs.classify import Classify, resolve
from jaxnets.commands.configs.options import PROCESS_FIELDS
from jaxnets.data import DataSet
from jaxnets.errors import UserError
from jaxnets.files import read_json, write_json
from jaxnets.run import runs

SIDES = ("jaxnets", "torch")


class Training(Protocol):
    """What can be timed."""

    def warm_up(self) -> float:
        """Compiles, leaves no trace, and returns the seconds that it took."""
        ...

    def advance(self, first: int, last: int) -> None:
        """Makes the steps `first` to `last` - 1, and waits for them."""
        ...

    def accuracy(self) -> float:
        """Share of the test images that are classified rightly."""
        ...


def run(config: TimeToAccuracy) -> dict[str, Any]:
    """The command; returns what `--json` gets.

    Raises:
      UserError: a flag is out of range, or torch is missing.
    """
    constraints.check(config)
    checks.json_file(config)
    before = None if config.json is None or not config.json.exists() else read_json(config.json)
    recipe = _recipe(config, seed=0)
    mesh = machine.start(config.devices, share=True)
    dataset = common.load_data(recipe, recipe.data)
    torch = torch_rivals.require_torch()
    trainings: list[dict[str, Any]] = []
    result: dict[str, Any] = {
        "what": f"speed_net on {dataset.name} to {config.target:.2%}",
        "recipe": runs.config_values(
            recipe, leave_out=("seed", "run_dir", "data_dir", *PROCESS_FIELDS)
        ),
        "rival": config.rival,
        "runs": trainings,
        "machine": {
            **common.machine(),
            "torch": torch.__version__,
            "threads": machine.cores(),
        },
    }
    if before is not None:
        trainings += _trainings_before(before, result, config.json)
    there = {(one["side"], one["seed"]) for one in trainings}
    for seed in range(config.seeds):
        for side in SIDES:
            if (side, seed) in there:
                continue
            made = _one(config, dataset, mesh, side, seed)
            trainings.append({"side": side, "seed": seed, **made})
            result["summary"] = summary(trainings)
            if config.json is not None:
                write_json(config.json, result)
    result["summary"] = summary(trainings)
    seeds = len({one["seed"] for one in trainings})
    common.print_table(f"{result['what']}, {seeds} seeds", _rows(result["summary"]))
    if config.json is not None:
        print(f"  {config.json}")
    return result


def _trainings_before(found: Any, now: Mapping[str, Any], file: Any) -> list[dict[str, Any]]:
    """The trainings of a file of results, which must be such as are made now."""

    def differs(a: Any, b: Any) -> str | None:
        """Where they differ, in what both know of: a version may have learnt to say more."""
        if isinstance(a, dict) and isinstance(b, dict):
            wheres = ((key, differs(a[key], b[key])) for key in sorted(a.keys() & b.keys()))
            return next((f"{key} {where}" for key, where in wheres if where), None)
        return None if a == b else f"is {a!r} there and {b!r} now"

    names = ("what", "rival", "recipe", "machine")
    if not (isinstance(found, dict) and {*names, "runs"} <= found.keys()):
        raise UserError(f"{file} is there, and holds no results of time-to-accuracy; name another")
    where = differs({name: found[name] for name in names}, {name: now[name] for name in names})
    if where is not None:
        raise UserError(f"{file} is there, and holds other trainings: {where}; name another")
    return found["runs"]


def _recipe(config: TimeToAccuracy, seed: int) -> Classify:
    """The config of `classify` that both sides follow."""
    shared = {f.name for f in dataclasses.fields(config)} - {"target", "seeds", "rival", "json"}
    values = {name: getattr(config, name) for name in shared}
    return resolve(Classify(seed=seed, **values))


def _one(
    config: TimeToAccuracy, dataset: DataSet, mesh: Mesh, side: str, seed: int
) -> dict[str, Any]:
    """One training of one side."""
    recipe = _recipe(config, seed)
    built = classify.build(recipe, dataset, mesh)

    def timed(training: Training) -> dict[str, Any]:
        return to_accuracy(
            training,
            config.target,
            built.task.total_steps,
            built.steps_per_epoch,
            config.steps_per_call,
            name=f"{side}, seed {seed}",
        )

    if side == "jaxnets":
        return timed(OwnTraining(recipe, built, dataset, mesh))
    import torch

    from experiments.benchmarks import torch_steps
    from experiments.benchmarks.torch_training import TorchTraining

    device = torch_rivals.torch_device(jax.default_backend())
    # A second seed would find the program of the first, and not compile.
    torch.compiler.reset()
    uncached: Any = torch.compiler.config
    with (
        torch_rivals.torch_threads(machine.cores()),
        torch_rivals.tensor_cores(allowed=True),
        uncached.patch(force_disable_caches=True),
    ):
        test, form = dataset.splits["test"], torch_steps.FORMS[config.rival]
        return timed(TorchTraining(recipe, built, test, form, device))


def to_accuracy(
    training: Training,
    target: float,
    total_steps: int,
    steps_per_epoch: float,
    steps_per_call: int = 1,
    *,
    name: str = "training",
) -> dict[str, Any]:
    """Trains until the accuracy is reached or the schedule ends.

    Args:
      training: what is trained.
      target: accuracy at which it stops.
      total_steps: the end of the schedule.
      steps_per_epoch: steps after which it is evaluated, rounded up to a whole call.
      steps_per_call: of a call.
      name: for the lines that show the progress.

    Returns:
      A dict: `compile_seconds`; `epochs`, a list of `epoch`, `step`, `accuracy`, `seconds` (on
      the clock so far: training alone) and `evaluation_seconds` (of this evaluation);
      `train_seconds` and `steps` in all; `final_accuracy`; `seconds_to_target` and
      `seconds_to_target_with_compile`, None where it was not reached.
    """
    compile_seconds = training.warm_up()
    step, seconds, epochs = 0, 0.0, []
    while step < total_steps:
        due = (len(epochs) + 1) * steps_per_epoch
        last = min(total_steps, max(step + 1, math.ceil(due / steps_per_call) * steps_per_call))
        begin = time.perf_counter()
        training.advance(step, last)
        seconds += time.perf_counter() - begin
        step, begin = last, time.perf_counter()
        accuracy = training.accuracy()
        epochs.append(
            {
                "epoch": step / steps_per_epoch,
                "step": step,
                "accuracy": accuracy,
                "seconds": seconds,
                "evaluation_seconds": time.perf_counter() - begin,
            }
        )
        print(f"{name}: {accuracy:.2%} after {seconds:.1f} s ({step} steps)", flush=True)
        if accuracy >= target:
            break
    reached = epochs[-1]["accuracy"] >= target
    return {
        "compile_seconds": compile_seconds,
        "epochs": epochs,
        "train_seconds": seconds,
        "steps": step,
        "final_accuracy": epochs[-1]["accuracy"],
        "seconds_to_target": seconds if reached else None,
        "seconds_to_target_with_compile": seconds + compile_seconds if reached else None,
    }


def summary(trainings: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and spread over the seeds, and the ratio ours / torch seed by seed.

    Args:
      trainings: of `to_accuracy`, each with its `side` and `seed`.

    Returns:
      side -> `trainings`, `reached` (how many got there) and the spread of each number over the
      trainings that have it, or None where there are none; and `ratio`: name -> the spread of
      ours / torch over the seeds for which both sides have the number, or None.
    """
    names = ("seconds_to_target", "seconds_to_target_with_compile", "seconds_a_step")
    rows = [{**one, "seconds_a_step": one["train_seconds"] / one["steps"]} for one in trainings]
    found: dict[str, Any] = {}
    for side in SIDES:
        mine = [row for row in rows if row["side"] == side]
        found[side] = {
            "trainings": len(mine),
            "reached": sum(row["seconds_to_target"] is not None for row in mine),
            **{
                name: _spread([row[name] for row in mine])
                for name in (*names, "compile_seconds", "final_accuracy")
            },
        }
    ours, theirs = ({row["seed"]: row for row in rows if row["side"] == side} for side in SIDES)
    pairs = [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]
    found["ratio"] = {
        name: _spread([None if None in (a[name], b[name]) else a[name] / b[name] for a, b in pairs])
        for name in names
    }
    return found


def _spread(values: list[float | None]) -> dict[str, float] | None:
    numbers = [value for value in values if value is not None]
    return spread(numbers) if numbers else None


def _rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    def text(of: dict[str, float] | None, form: str) -> str:
        return "never" if of is None else f"{form.format(of['mean'])} +- {form.format(of['std'])}"

    forms = {
        "seconds_to_target": ("seconds to it", "{:.2f}"),
        "seconds_to_target_with_compile": ("with compilation", "{:.2f}"),
        "seconds_a_step": ("seconds a step", "{:.4f}"),
        "final_accuracy": ("last accuracy", "{:.4f}"),
    }
    rows = []
    for side in SIDES:
        mine = found[side]
        rows.append((f"{side}: reached it", f"{mine['reached']} of {mine['trainings']}"))
        rows += [(f"{side}: {what}", text(mine[n], form)) for n, (what, form) in forms.items()]
    for name in ("seconds_to_target", "seconds_a_step"):
        rows.append((f"jaxnets / torch, {forms[name][0]}", text(found["ratio"][name], "{:.3f}")))
    return rows
