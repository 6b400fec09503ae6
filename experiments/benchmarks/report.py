"""A benchmark's figures on the terminal and in a file."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.benchmarks import tables
from jaxnets.commands import checks, common, memory
from jaxnets.commands.configs import constraints
from jaxnets.files import write_json

#: Value of `format` in a file.
FORMAT = "jaxnets benchmark 1"

Result = Mapping[str, Any]


def write(
    path: Path, environment: Mapping[str, Any], flags: Mapping[str, Any], found: Sequence[Result]
) -> None:
    """Writes every figure of some cases."""
    write_json(
        path,
        {"format": FORMAT, "machine": environment, "flags": flags, "cases": list(found)},
    )


def begin(config: Any) -> None:
    """Checks the flags of a benchmark that prints JSON, before it measures anything."""
    constraints.check(config)
    checks.json_file(config)


def end(config: Any, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Prints the figures of such a benchmark with the machine, and writes them to --json."""
    numbers = {**numbers, "machine": common.machine()}
    if config.json is not None:
        write_json(config.json, numbers)
    print(json.dumps(numbers, indent=2))
    return numbers


def machine_line(environment: Mapping[str, Any], devices: int) -> str:
    """The machine in one line."""
    load = environment["load_average"]
    busy = f", load {load[0]:.2f}" if load else ""
    return (
        f"{devices} of {environment['devices']} {environment['device']} device(s), "
        f"{environment['cpu']}, {environment['threads']} threads{busy}; "
        f"jax {environment['jax']}, flax {environment['flax']}"
    )


def one(result: Result) -> str:
    """All that is known of a case, a line each."""
    before, step = result["seconds_before_steps"], result["step_seconds"]
    flops, share, peak = result["flops"], result["share_of_peak"], result["peak"]
    rows = [
        ("a step", _spread(step)),
        ("images a second", f"{result['images_per_second']:,.0f}"),
        (
            "useful operations",
            f"{tables.operations(flops['total'])} a step, "
            f"{tables.operations(result['flops_per_second'])}/s"
            + (", loops of unknown length counted once" if flops["open_loops"] else ""),
        ),
        (
            "share of the peak",
            f"{share['median']:.1%} ({share['min']:.1%} to {share['max']:.1%}) of "
            f"{tables.operations(peak['median'])}/s, products of {peak['dtype']} matrices of "
            f"{peak['size']}",
        ),
        ("trace", tables.seconds(before["trace"])),
        ("lower", tables.seconds(before["lower"])),
        ("compile", tables.seconds(before["compile"])),
        ("first call", tables.seconds(before["first_call"])),
        ("memory", _memory(result["memory"])),
        ("state in place", _donation(result["donation"])),
    ]
    for kind, name in (("convolution", "convolutions"), ("dot", "matrix products")):
        lines = [_path(row) for row in result["paths"] if row["kind"] == kind] or ["none"]
        rows += [(name if i == 0 else "", line) for i, line in enumerate(lines)]
    if result["devices"] > 1:
        rows += _collectives(result["collectives"])
    rows += [
        (f"a step, {steps} a call", _spread(times)) for steps, times in result["calls"].items()
    ]
    rows += _against(result.get("against"))
    width = max(len(name) for name, _ in rows)
    lines = [f"  {name:<{width}}  {value}" for name, value in rows]
    return "\n".join([f"\n{title(result)}", *lines])


def title(result: Result) -> str:
    """What sets a case apart from the others."""
    extra = []
    if result["devices"] > 1 or result["mode"] != "jit":
        divided = ", state divided" if result.get("shard_params") else ""
        extra.append(f"{result['devices']} device(s) by {result['mode']}{divided}")
    if result["steps_per_call"] > 1:
        extra.append(f"{result['steps_per_call']} steps a call")
    if result["plain"]:
        extra.append("plain convolutions")
    return ", ".join([result["name"], *extra])


def several(found: Sequence[Result]) -> str:
    """One line a case."""
    header = ["case", "step", "images/s", "of peak", "compile", "temporaries", "loop nests"]
    compared = any("against" in result for result in found)
    rows = []
    for result in found:
        plan = result["memory"]
        row = [
            title(result),
            tables.seconds(result["step_seconds"]["median"]),
            f"{result['images_per_second']:,.0f}",
            f"{result['share_of_peak']['median']:.1%}",
            tables.seconds(result["seconds_before_steps"]["compile"]),
            "-" if plan is None else memory.amount(plan["temporaries"]),
            str(len(result["loop_nests"])),
        ]
        if compared:
            row.append(f"{result['against']['ratio']:.2f}" if "against" in result else "-")
        rows.append(row)
    return "\n" + tables.table(header + ["time / torch's"] * compared, rows)


def _spread(times: Mapping[str, Any]) -> str:
    low, high = times["quartiles"]
    return (
        f"{tables.seconds(times['median'])} (quartiles {tables.seconds(low)} and "
        f"{tables.seconds(high)}, {tables.seconds(times['min'])} to "
        f"{tables.seconds(times['max'])}, {len(times['values'])} rounds)"
    )


def _memory(plan: Mapping[str, int] | None) -> str:
    if plan is None:
        return "the backend tells nothing"
    parts = ["arguments", "temporaries", "outputs", "aliased", "code"]
    return ", ".join(f"{part} {memory.amount(plan[part])}" for part in parts)


def _donation(donation: Mapping[str, Any]) -> str:
    size = memory.amount(donation["bytes"])
    unused = f"; not used: {', '.join(donation['unused'])}" if donation["unused"] else ""
    if donation["took"]:
        return f"all {donation['leaves']} leaves, {size}{unused}"
    copied = donation["copied"]
    return f"{len(copied)} of {donation['leaves']} leaves are copied: {', '.join(copied)}{unused}"


def _path(row: Mapping[str, Any]) -> str:
    cost = f", {tables.operations(row['flops'])}" if row["flops"] else ""
    return f"{row['operations']} {row['path']} ({row['reason']}), {row['runs']} runs{cost}"


def _collectives(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What crosses devices, and what for."""
    least, rows = found["least"], []
    for row in found["per_step"]:
        needed = least if row["kind"] == "all-reduce" else {}
        joined = "" if row["sums"] == row["count"] else f" for {row['sums']:g} arrays"
        size = memory.amount(row["bytes"])
        total = f"{row['count']:g} a step{joined}, at least {sum(needed.values())}, {size}"
        rows.append((f"{row['kind']}s", total))
        for purpose, counted in row["purposes"].items():
            size = memory.amount(counted["bytes"])
            text = f"{counted['sums']:g}, at least {needed.get(purpose, 0)}, {size}"
            rows.append((f"  {purpose}", text))
    return rows


def _against(found: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """The rows of a comparison with another library."""
    if found is None:
        return []
    ratio = (
        f"{found['ratio']:.2f} ({found['ratio_min']:.2f} to {found['ratio_max']:.2f}) of the "
        f"time of {found['rival']}"
    )
    rows = [
        (f"against {found['name']}", ratio),
        ("  ours", tables.seconds(statistics.median(found["ours"]))),
    ]
    for name, times in found["rivals"].items():
        text = times if isinstance(times, str) else tables.seconds(statistics.median(times))
        rows.append((f"  {name}", text))
    return [*rows, ("  outputs differ by", f"{found['outputs_max_error']:.1e} at most")]
