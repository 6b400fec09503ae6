"""Where a time was measured, and on how many devices."""

from __future__ import annotations

import datetime
import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from jaxnets.commands import common
from jaxnets.devices import parallel
from jaxnets.errors import UserError

#: What must be equal for two times to be comparable.
SAME = ("backend", "device", "devices", "cores", "cpu")

#: Of one process; jax would begin to make whatever number of CPU devices it is asked for.
_MOST = 4096


def environment() -> dict[str, Any]:
    """The machine, the versions and the settings, and how busy the machine is."""
    return {
        **common.machine(),
        **{name: metadata.version(name) for name in ("jaxlib", "numpy", "optax")},
        "cpu": _cpu(),
        "threads": cores(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "matmul_precision": getattr(jax.config, "jax_default_matmul_precision", None) or "default",
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def cores() -> int:
    """Cores that this process may use; XLA's pool has as many threads."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def start(devices: int, *, share: bool = False) -> Any:
    """A mesh of so many devices; on a CPU, they are made if jax has not started yet.

    Args:
      devices: how many.
      share: leaves another library its share of a GPU's memory, most of which jax would take at
        its start.

    Raises:
      UserError: if there are fewer.
    """
    if devices < 1:
        raise UserError(f"--devices must be at least 1, got {devices}")
    if devices > _MOST:
        raise UserError(f"--devices must be at most {_MOST}, got {devices}")
    if share:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    too_late = False
    forced = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if devices > 1 and not forced:
        try:
            jax.config.update("jax_num_cpu_devices", devices)
        except RuntimeError:
            too_late = True
    at_hand = jax.devices()
    if devices > len(at_hand) and at_hand[0].platform == "cpu":
        why = ""
        if forced:
            why = "; XLA_FLAGS has xla_force_host_platform_device_count: change it or leave it out"
        elif too_late:
            why = "; jax had started before they could be made: use a process of its own"
        raise UserError(f"{devices} CPU devices were asked for and jax has {len(at_hand)}{why}")
    return parallel.make_mesh(devices)


def _cpu() -> str:
    """The processor's name."""
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()
