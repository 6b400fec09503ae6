"""Measure a result of the README again: several seeds, mean and spread."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.configs import Reproduce
from jaxnets.commands import classify, common, generate, quickstart
from jaxnets.commands.configs import constraints
from jaxnets.commands.configs.classify import Classify
from jaxnets.commands.configs.generate import Generate
from jaxnets.commands.configs.quickstart import Quickstart
from jaxnets.commands.session import Session
from jaxnets.errors import UserError
from jaxnets.files import check_writable, write_json
from jaxnets.registry import Registry

#: name -> (config, command). Each config is what its command's defaults give, but for the data.
RESULTS: Registry[tuple[Any, Callable[[Any, Session], Path]]] = Registry(
    "result",
    {
        "classify-fashion_mnist": (Classify(), classify.run),
        "classify-digits": (Classify(data="digits"), classify.run),
        "generate-fashion_mnist": (Generate(), generate.run),
        "quickstart": (Quickstart(), quickstart.run),
    },
)


def run(config: Reproduce, session: Session) -> Path:
    """The command."""
    constraints.check(config)
    base, command = RESULTS[config.name]
    if config.judge is not None:
        if not isinstance(base, Generate):
            raise UserError(f"--judge is for results of `generate`, not for {config.name}")
        base = dataclasses.replace(base, judge=config.judge)
    out = config.out or Path(__file__).parent / "results" / f"{config.name}.json"
    check_writable(out, "--out")
    root = config.run_dir or Path("runs") / f"reproduce-{config.name}"
    check_writable(root / "seed-0" / "config.json", "--run-dir")
    summaries = []
    for seed in range(config.seeds):
        folder = root / f"seed-{seed}"
        command(dataclasses.replace(base, run_dir=folder, seed=seed), session)
        summaries.append(json.loads((folder / "summary.json").read_text()))
    numbers, machine = spreads(summaries), summaries[0]["machine"]
    write_json(
        out, {"name": config.name, "numbers": numbers, "runs": summaries, "machine": machine}
    )
    rows = [(name, f"{v['mean']:.4f} +- {v['std']:.4f}") for name, v in numbers.items()]
    common.print_table(f"{config.name}: {config.seeds} seeds, mean and standard deviation", rows)
    print(f"  {out}")
    return out


def spreads(summaries: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean, sample standard deviation, least and greatest of every number that all runs have."""
    found = {}
    for name in summaries[0]:
        values = [summary.get(name) for summary in summaries]
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
            numbers = [float(v) for v in values if v is not None]
            found[name] = spread(numbers)
    return found


def spread(numbers: list[float]) -> dict[str, float]:
    """Mean, sample standard deviation, least and greatest."""
    return {
        "mean": statistics.fmean(numbers),
        "std": statistics.stdev(numbers) if len(numbers) > 1 else 0.0,
        "min": min(numbers),
        "max": max(numbers),
    }
