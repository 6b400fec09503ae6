"""Two files of benchmarks side by side: a gate against becoming slower."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.benchmarks import machine, report, tables
from jaxnets.errors import UserError
from jaxnets.files import read_json

#: What tells cases of one file apart, and must be equal in the other.
_KEY = ("name", "devices", "mode", "steps_per_call", "plain")


def run(before: Path, after: Path, max_ratio: float) -> int:
    """Prints what changed; 1 if anything became worse by more than `max_ratio`, else 0.

    On one machine that is the time of a step; on different ones, whose times do not compare, the
    ratio to another library's time and the share of the machine's own peak.

    Raises:
      UserError: if a file is missing or not a benchmark's, or the two have no case in common.
    """
    if not (math.isfinite(max_ratio) and max_ratio > 0):
        raise UserError(f"--max-ratio must be above 0, got {max_ratio}")
    files = [_read(before), _read(after)]
    old, new = ({_key(case): case for case in file["cases"]} for file in files)
    common = [key for key in old if key in new]
    if not common:
        raise UserError(
            f"{before} and {after} have no case in common: one has {_names(old)}, the other "
            f"{_names(new)}"
        )
    machines = [file["machine"] for file in files]
    different = [name for name in machine.SAME if machines[0].get(name) != machines[1].get(name)]
    if different:
        values = ", ".join(
            f"{name} {machines[0].get(name)} and {machines[1].get(name)}" for name in different
        )
        print(f"measured on different machines ({values}): only ratios are compared")
    rows, worse = [], []
    for key in common:
        for what, first, second, ratio in _changes(old[key], new[key], bool(different)):
            verdict = "worse" if ratio > max_ratio else "better" if ratio < 1 / max_ratio else ""
            name = report.title(new[key])
            rows.append([name, what, first, second, f"{ratio:.3f}", verdict])
            if verdict == "worse":
                worse.append(f"{name}, {what}")
    print(tables.table(["case", "what", "before", "after", "times", ""], rows))
    for name, others in ((before, old), (after, new)):
        missing = [report.title(others[key]) for key in others if key not in common]
        if missing:
            print(f"only in {name}: {'; '.join(missing)}")
    if worse:
        print(f"worse by more than {max_ratio:g} times: {'; '.join(worse)}")
    return 1 if worse else 0


def _changes(
    old: Mapping[str, Any], new: Mapping[str, Any], other_machine: bool
) -> Iterator[tuple[str, str, str, float]]:
    """(what, before, after, how many times worse)."""
    if not other_machine:
        first, second = (case["step_seconds"]["median"] for case in (old, new))
        yield "step", tables.seconds(first), tables.seconds(second), second / first
        return
    first, second = (case["share_of_peak"]["median"] for case in (old, new))
    yield "share of the peak", f"{first:.1%}", f"{second:.1%}", first / second
    if "against" in old and "against" in new:
        first, second = (case["against"]["ratio"] for case in (old, new))
        name = f"time / {new['against']['name']}'s"
        yield name, f"{first:.2f}", f"{second:.2f}", second / first


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"there is no file {path}; write one by `bench --json {path}`")
    try:
        content = read_json(path)
        if content["format"] == report.FORMAT and isinstance(content["machine"], dict):
            for case in content["cases"]:
                _check(case)
            return content
    except (UserError, TypeError, KeyError, AttributeError):
        pass
    raise UserError(f"{path} was not written by `bench --json` of this version of jaxnets")


def _check(case: Any) -> None:
    """Fails, with one of several errors, for what is no case as `bench` writes it."""
    numbers = [case["step_seconds"]["median"], case["share_of_peak"]["median"]]
    if "against" in case:
        numbers.append(case["against"]["ratio"])
        hash(case["against"]["name"])
    if not all(isinstance(number, int | float) and number > 0 for number in numbers):
        raise TypeError
    hash(_key(case))
    report.title(case)


def _key(case: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(case[name] for name in _KEY)


def _names(found: Mapping[Any, Mapping[str, Any]]) -> str:
    return "; ".join(report.title(case) for case in found.values())
