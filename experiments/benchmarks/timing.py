"""Times of a compiled step: each stage apart, and the steady state in interleaved rounds."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jaxnets.files import cleaning


@dataclasses.dataclass(frozen=True)
class Stages:
    """Seconds that a step takes before it runs.

    Attributes:
      trace: Python to jaxpr; None where it can't be told from lowering (pmap).
      lower: jaxpr to StableHLO.
      compile: XLA, from nothing.
      compile_cached: the same out of the persistent compilation cache; None where the backend
        puts nothing there.
    """

    trace: float | None
    lower: float
    compile: float
    compile_cached: float | None


def stages(make: Callable[[], Any], *arguments: Any) -> tuple[Any, Stages]:
    """Compiles a step, and then again with the compilation cache at hand.

    The second time nothing is left in this process that the first has left. The first includes
    writing the cache's entry, which takes milliseconds.

    Args:
      make: gives the `jaxnets.parallel.CompiledStep`.
      *arguments: state and feed; arrays or their shapes.

    Returns:
      What `jax.stages.Lowered.compile` gives, and the times.
    """
    import jax

    def once() -> tuple[Any, float | None, float, float]:
        program = make()
        traced, trace = _timed(lambda: program.trace(*arguments))
        lowered, lower = _timed(traced.lower if traced else lambda: program.lower(*arguments))
        compiled, compiling = _timed(lowered.compile)
        return compiled, trace if traced else None, lower, compiling

    with _cache_of_its_own() as folder:
        compiled, trace, lower, cold = once()
        written = any(folder.iterdir())
        jax.clear_caches()
        cached = once()[3] if written else None
    return compiled, Stages(trace, lower, cold, cached)


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.perf_counter()
    result = function()
    return result, time.perf_counter() - begin


@contextlib.contextmanager
def _cache_of_its_own() -> Iterator[Path]:
    """An empty persistent compilation cache that takes every program."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    from jaxnets.compilation import OPTIONS

    wanted = {**OPTIONS, "jax_enable_compilation_cache": True}
    names = [*wanted, "jax_compilation_cache_dir"]
    before = {name: getattr(jax.config, name) for name in names}
    with (
        tempfile.TemporaryDirectory(prefix="jaxnets-bench-") as folder,
        cleaning(partial(shutil.rmtree, folder, ignore_errors=True)),
    ):
        for name, value in {**wanted, "jax_compilation_cache_dir": folder}.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        try:
            yield Path(folder)
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()


class Runner:
    """A compiled program with its arguments; what it returns first is its next first argument.

    So each call waits for the one before, and a window of calls needs one wait at its end.

    Attributes:
      first_seconds: what the very first call took.
      calls: how many calls fill a window.
    """

    def __init__(
        self,
        program: Callable[..., Any],
        state: Any,
        *others: Any,
        units: int = 1,
        min_seconds: float,
    ):
        """Runs it twice, to warm up and to see how many calls fill `min_seconds`.

        Args:
          program: `(state, *others) -> (state, rest)`.
          state: is donated.
          *others: are not.
          units: steps that a call makes.
          min_seconds: least length of a window.
        """
        self._program, self._state, self._others = program, state, others
        self._units = units
        self.calls = 1
        self.first_seconds = self.window() * units
        self.calls = max(1, math.ceil(min_seconds / max(1e-9, self.window() * units)))

    def window(self) -> float:
        """Runs one window; seconds a step."""
        import jax

        rest = None
        jax.block_until_ready(self._state)
        begin = time.perf_counter()
        for _ in range(self.calls):
            self._state, rest = self._program(self._state, *self._others)
        jax.block_until_ready((self._state, rest))
        return (time.perf_counter() - begin) / (self.calls * self._units)


def interleave(runners: Mapping[str, Runner], rounds: int) -> dict[str, list[float]]:
    """A window of each in every round, each round beginning with another: seconds a step."""
    names = list(runners)
    times: dict[str, list[float]] = {name: [] for name in names}
    for round_ in range(rounds):
        shift = round_ % len(names)
        for name in names[shift:] + names[:shift]:
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


@dataclasses.dataclass(frozen=True)
class Peak:
    """The rate of the fastest product of square matrices that was found.

    Attributes:
      size: of the matrices.
      tried: size -> operations a second, over all devices, when the sizes were compared.
      runner: of the best size, to be interleaved with what is measured against it.
      flops: of one product, over all devices.
    """

    size: int
    tried: Mapping[int, float]
    runner: Runner
    flops: int


def matmul_peak(mesh: Any, sizes: Sequence[int], dtype: str, min_seconds: float) -> Peak:
    """Finds the size at which products of square matrices run fastest.

    Every device multiplies matrices of its own, with nothing to send.

    Args:
      mesh: the devices.
      sizes: to be tried.
      dtype: of the matrices.
      min_seconds: length of a window.
    """
    best: Peak | None = None
    tried: dict[int, float] = {}
    for size in sizes:
        runner = _products(mesh, size, dtype, min_seconds)
        flops = 2 * size**3 * mesh.size
        tried[size] = flops / min(runner.window() for _ in range(2))
        if best is None or tried[size] > tried[best.size]:
            best = Peak(size, tried, runner, flops)
    assert best is not None
    return best


def _products(mesh: Any, size: int, dtype: str, min_seconds: float) -> Runner:
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

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
    return Runner(program, a, b, min_seconds=min_seconds)
