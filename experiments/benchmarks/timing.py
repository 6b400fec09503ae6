"""Times of a compiled step: each stage apart, and the steady state in interleaved rounds."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import NamedSharding, PartitionSpec

from jaxnets.devices.parallel import CompiledStep


def stages(program: CompiledStep, *arguments: Any) -> tuple[Any, dict[str, float | None]]:
    """Compiles a step from nothing: the executable, and the seconds that each stage took.

    `trace` is from Python to jaxpr, and None where it can't be told from lowering (pmap); `lower`
    from there to StableHLO; `compile` is XLA. `bench startup` times what the compilation cache
    saves.

    Args:
      program: the step.
      *arguments: state and feed; arrays or their shapes.
    """
    with _no_compilation_cache():
        traced, trace = timed(lambda: program.trace(*arguments))
        lowered, lower = timed(traced.lower if traced else lambda: program.lower(*arguments))
        compiled, seconds = timed(lowered.compile)
    return compiled, {"trace": trace if traced else None, "lower": lower, "compile": seconds}


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """What a function returns, and its seconds."""
    begin = time.perf_counter()
    result = function()
    return result, time.perf_counter() - begin


@contextlib.contextmanager
def _no_compilation_cache() -> Iterator[None]:
    before = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # which has kept whether it is to be used
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


class Runner:
    """Something that is called again and again, and timed in windows of many calls.

    Attributes:
      first_seconds: what the very first call took.
      calls: how many calls fill a window.
    """

    def __init__(
        self,
        call: Callable[[], Any],
        *,
        units: int = 1,
        min_seconds: float,
        wait: Callable[[Any], object] = jax.block_until_ready,
    ):
        """Calls it three times, to warm up and to see how many calls fill `min_seconds`.

        Args:
          call: what is timed; calls wait for each other by themselves.
          units: steps that a call makes.
          min_seconds: least length of a window.
          wait: until what the last call returned is there.
        """
        self._call, self._wait, self._units = call, wait, units
        self.calls = 1
        self.first_seconds = self.window() * units
        seconds = [self.window() * units for _ in range(2)]
        self.calls = max(1, math.ceil(min_seconds / max(1e-9, seconds[-1])))

    def window(self) -> float:
        """Runs one window; seconds a step."""
        last = None
        begin = time.perf_counter()
        for _ in range(self.calls):
            last = self._call()
        self._wait(last)
        return (time.perf_counter() - begin) / (self.calls * self._units)


def chain(program: Callable[..., Any], state: Any, *others: Any) -> Callable[[], Any]:
    """A program that is fed with what it returned: `(state, *others) -> (state, rest)`.

    So each call waits for the one before, and a window of calls needs one wait at its end.
    """
    jax.block_until_ready((state, others))

    def call() -> Any:
        nonlocal state
        state, rest = program(state, *others)
        return state, rest

    return call


def interleave(
    runners: Mapping[str, Runner], rounds: int, pause: float = 0.0
) -> dict[str, list[float]]:
    """A window of each in every round, each round beginning with another: seconds a step.

    `pause` is slept before each window.
    """
    names = list(runners)
    times: dict[str, list[float]] = {name: [] for name in names}
    for round_ in range(rounds):
        shift = round_ % len(names)
        for name in names[shift:] + names[:shift]:
            time.sleep(pause)
            times[name].append(runners[name].window())
    return times


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, extremes, quartiles and the values themselves."""
    quartiles = (
        statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    )
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "quartiles": [quartiles[0], quartiles[2]],
        "values": list(values),
    }


def matmul_peak(
    mesh: Any, sizes: Sequence[int], dtype: str, min_seconds: float
) -> tuple[Runner, int]:
    """The fastest product of square matrices of these sizes, and its size.

    Every device multiplies matrices of its own, with nothing to send: 2 size^3 operations each.
    """
    runners = {size: _products(mesh, size, dtype, min_seconds) for size in sizes}
    fastest = min(sizes, key=lambda size: min(runners[size].window() for _ in range(2)) / size**3)
    return runners[fastest], fastest


def _products(mesh: Any, size: int, dtype: str, min_seconds: float) -> Runner:
    rng = np.random.default_rng(0)
    whole, rows = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
    # Over the root of its size, such a matrix keeps the size of what it multiplies.
    right = rng.standard_normal((size, size), np.float32) / math.sqrt(size)
    left = np.tile(rng.standard_normal((size, size), np.float32), (mesh.size, 1))
    program = jax.jit(
        lambda a, b: (a @ b, None),
        in_shardings=(rows, whole),
        out_shardings=(rows, None),
        donate_argnums=0,
    )
    a = jax.device_put(left.astype(jnp.dtype(dtype)), rows)
    b = jax.device_put(right.astype(jnp.dtype(dtype)), whole)
    return Runner(chain(program, a, b), min_seconds=min_seconds)
