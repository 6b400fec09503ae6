"""What a compiled step keeps in memory, whether it will fit, and whether donation took."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device, as XLA has planned them.

    Attributes:
      arguments: state, batch and source.
      outputs: state and metrics.
      aliased: of the outputs, those that are written over donated arguments.
      temporaries: everything in between.
      code: the program itself; 0 where the backend does not tell.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int

    @property
    def peak(self) -> int:
        """All that must be there at once."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


@dataclasses.dataclass(frozen=True)
class Donation:
    """Which leaves of the state are updated in place.

    Attributes:
      leaves: how many the state has.
      bytes: how large they are together.
      copied: names of those that the program writes to a new place.
      unused: names of those that the program neither reads nor writes.
    """

    leaves: int
    bytes: int
    copied: tuple[str, ...]
    unused: tuple[str, ...]

    @property
    def took(self) -> bool:
        """Whether nothing is copied."""
        return not self.copied


def planned(compiled: Any) -> Memory | None:
    """The plan of a compiled program; None where the backend tells nothing."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    return Memory(
        arguments=analysis.argument_size_in_bytes,
        outputs=analysis.output_size_in_bytes,
        aliased=analysis.alias_size_in_bytes,
        temporaries=analysis.temp_size_in_bytes,
        code=analysis.generated_code_size_in_bytes,
    )


def donation(text: str, state: Any) -> Donation:
    """Reads, out of the text of a compiled step, what became of each leaf of the state.

    Args:
      text: `compiled.as_text()` of a step whose first argument is named `state` (jit), or whose
        flat arguments begin with the state's (pmap).
      state: the state that it was compiled for; arrays or shapes.
    """
    import jax

    header, _, rest = text.partition("\n")
    entry = rest[rest.rindex("\nENTRY ") :]
    found = re.findall(r" parameter\((\d+)\).*?op_name=\"((?:[^\"\\]|\\.)*)\"", entry)
    numbers = {re.sub(r"\\(.)", r"\1", name): int(number) for number, name in found}
    aliases = re.search(r"input_output_alias=\{(.*?)\}, \w+=", header)
    kept = {int(n) for n in re.findall(r": \((\d+), \{\}", aliases[1])} if aliases else set()
    leaves = jax.tree_util.tree_leaves_with_path(state)
    copied, unused = [], []
    for place, (path, _) in enumerate(leaves):
        name = jax.tree_util.keystr(path)
        number = numbers.get(f"state{name}", numbers.get(f"flat_args[{place}]"))
        if number is None:
            unused.append(name.lstrip("."))
        elif number not in kept:
            copied.append(name.lstrip("."))
    size = sum(size_of(leaf) for _, leaf in leaves)
    return Donation(len(leaves), size, tuple(copied), tuple(unused))


def available(device: Any) -> int | None:
    """Bytes that a device still has; None where nothing tells."""
    statistics = None if device.platform == "cpu" else device.memory_stats()
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)
    return host_available() if device.platform == "cpu" else None


def host_available() -> int | None:
    """Bytes that this process may still take of the machine's memory; None where nothing tells.

    The least of what the system has and what a container is allowed.
    """
    limits = []
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
        if found:
            limits.append(int(found[1]) * 1024)
    except OSError:
        if {"SC_AVPHYS_PAGES", "SC_PAGE_SIZE"} <= set(os.sysconf_names):
            limits.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    version_1 = "/sys/fs/cgroup/memory/memory"
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (f"{version_1}.limit_in_bytes", f"{version_1}.usage_in_bytes"),
    ):
        try:
            limits.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no such version of cgroups, or "max"
            continue
    return max(0, min(limits)) if limits else None


def process_peak() -> int:
    """The most bytes of memory that this process has had so far, mapped files included."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def check_fits(needed: int, at_hand: int | None, what: str) -> None:
    """Refuses, before anything is computed, what can't be held.

    Raises:
      UserError: with both sizes.
    """
    from jaxnets.errors import UserError

    if at_hand is not None and needed > at_hand:
        raise UserError(
            f"{what} needs {amount(needed)} of memory and {amount(at_hand)} are free; take a "
            "smaller --batch-size, --width or --image-size"
        )


def amount(size: float) -> str:
    """Bytes for people: "1.5 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB" if size < 1000 else f"{size:,.0f} TB"


def size_of(leaf: Any) -> int:
    """Bytes of an array, or of what `jax.eval_shape` says of one."""
    import jax
    import jax.numpy as jnp

    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return leaf.size * leaf.dtype.itemsize
