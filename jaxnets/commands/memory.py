"""How much memory there is, and whether something fits into it."""

from __future__ import annotations

import os
import re
import resource
import sys
from pathlib import Path
from typing import Any

from jaxnets.errors import UserError


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
        free = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
        if free:
            limits.append(int(free[1]) * 1024)
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
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def check_fits(needed: int, at_hand: int | None, what: str) -> None:
    """Refuses, before anything is computed, what can't be held.

    Raises:
      UserError: with both sizes.
    """
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
