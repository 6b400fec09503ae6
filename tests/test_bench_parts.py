"""The parts of `bench`: copies, memory, timing, the machine, and tables."""

import math
import os
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import machine, plans, tables, timing
from jaxnets import errors, parallel
from jaxnets.commands import memory


def test_what_a_step_copies_is_named():
    """A state of which one leaf changes its type can't be updated in place, nor one not used."""

    def step(state, x):
        return {"kept": state["kept"] + x, "grown": state["grown"].astype(jnp.int32)}, x

    state = {
        "grown": jnp.zeros(5, jnp.bool_),
        "idle": jnp.zeros(2),
        "kept": jnp.zeros(3),
        "key": jax.random.key(0),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the buffers that are not usable, where jax tells
        compiled = jax.jit(step, donate_argnums=0).lower(state, jnp.ones(3)).compile()
    found = plans.donation(compiled.as_text(), state)
    assert found == plans.Donation(4, 5 + 8 + 12 + 8, ("['grown']",), ("['idle']", "['key']"))
    assert not found.took
    plan = plans.planned(compiled)
    assert plan is not None
    assert plan.aliased == 12
    assert plan.peak >= 5 + 12 + 12 + 5 * 4


def test_memory_at_hand():
    free = memory.host_available()
    assert free is not None and 1e7 < free < 1e15
    assert memory.available(jax.devices()[0]) == pytest.approx(free, rel=0.5)
    gpu = types.SimpleNamespace(
        platform="gpu", memory_stats=lambda: {"bytes_limit": 10, "bytes_in_use": 4}
    )
    assert memory.available(gpu) == 6
    gpu.memory_stats = lambda: None
    assert memory.available(gpu) is None
    memory.check_fits(10, None, "x")
    memory.check_fits(10, 10, "x")
    with pytest.raises(errors.UserError, match=r"x needs 1.5 GB of memory and 2 MB are free"):
        memory.check_fits(1_500_000_000, 2_000_000, "x")


def test_a_window_chains_its_calls_and_is_long_enough():
    seen = []

    def program(state, add):
        seen.append(int(state))
        return state + add, state

    runner = timing.Runner(program, jnp.zeros((), jnp.int32), 3, units=2, min_seconds=0.02)
    assert runner.calls > 1
    assert 0 < runner.window() < 0.02
    assert seen == [3 * i for i in range(len(seen))]  # each call is fed what the last one gave


def test_rounds_take_turns():
    order = []

    class Turn:
        def __init__(self, name):
            self.name = name

        def window(self):
            order.append(self.name)
            return float(len(order))

    times = timing.interleave({name: Turn(name) for name in "abc"}, 4)  # type: ignore[arg-type]
    assert "".join(order) == "abcbcacababc"
    assert times["a"] == [1.0, 6.0, 8.0, 10.0]


def test_spreads_are_those_of_numpy():
    values = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0]
    found = timing.spread(values)
    assert found["median"] == np.median(values)
    assert found["quartiles"] == pytest.approx(np.quantile(values, [0.25, 0.75]).tolist())
    assert (found["min"], found["max"], found["values"]) == (1.0, 9.0, values)
    assert timing.spread([2.0])["quartiles"] == [2.0, 2.0]


@pytest.mark.parametrize("devices", [1, 2])
def test_the_peak_is_of_products_on_every_device(devices):
    peak = timing.matmul_peak(parallel.make_mesh(devices), (16, 64), "bfloat16", 1e-4)
    assert peak.size == max(peak.tried, key=lambda size: peak.tried[size])
    assert peak.flops == 2 * peak.size**3 * devices
    product = peak.runner._state
    assert product.shape == (peak.size * devices, peak.size)
    assert product.dtype == jnp.bfloat16
    assert math.isfinite(float(abs(product).max()))


def test_the_compilation_cache_of_the_user_is_left_alone():
    before = {
        name: getattr(jax.config, name)
        for name in ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    }
    with timing._cache_of_its_own() as folder:
        assert jax.config.jax_compilation_cache_dir == str(folder)
    assert not folder.exists()
    assert {name: getattr(jax.config, name) for name in before} == before


def test_devices_that_come_too_late_are_told(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    with pytest.raises(errors.UserError, match="jax had started before"):
        machine.start(99)


def test_memory_is_left_to_another_library(monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "true")  # so that it is put back
    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE")
    machine.start(1)
    assert "XLA_PYTHON_CLIENT_PREALLOCATE" not in os.environ
    machine.start(1, share=True)
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"


def test_tables_line_up():
    text = tables.table(["name", "n"], [["a", "5"], ["long name", "12"]])
    assert text.splitlines() == ["name        n", "---------  --", "a           5", "long name  12"]
    assert [tables.seconds(t) for t in (None, 2.0, 0.0123, 4.5e-6)] == [
        "-",
        "2 s",
        "12.3 ms",
        "4.5 us",
    ]
    assert tables.operations(56.71e9) == "56.7 GFLOP"
    assert tables.operations(1.2e13) == "12 TFLOP"
    assert [memory.amount(n) for n in (0, 999, 1234, 5.6e9, 9.4e15)] == [
        "0 B",
        "999 B",
        "1.23 kB",
        "5.6 GB",
        "9,400 TB",
    ]
