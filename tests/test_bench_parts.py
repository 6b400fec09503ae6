"""The parts of `bench`: copies, memory, timing, the machine, and tables."""

import math
import types
import warnings

import jax
import jax.numpy as jnp
import pytest

from experiments.benchmarks import plans, timing
from jaxnets import errors
from jaxnets.commands import memory
from jaxnets.devices import parallel


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

    call = timing.chain(program, jnp.zeros((), jnp.int32), 3)
    runner = timing.Runner(call, units=2, min_seconds=0.02)
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


@pytest.mark.parametrize("devices", [1, 2])
def test_the_peak_is_of_products_on_every_device(devices):
    runner, size = timing.matmul_peak(parallel.make_mesh(devices), (4, 64), "bfloat16", 1e-4)
    assert size == 64  # 4096 times as many operations, in less than that many times the seconds
    product, _ = runner._call()
    assert product.shape == (size * devices, size)
    assert product.dtype == jnp.bfloat16
    assert math.isfinite(float(abs(product).max()))


def test_a_step_is_compiled_though_the_cache_has_it(tmp_path):
    before = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        step = parallel.compile_step(lambda state, batch: (state, {}), parallel.make_mesh(1))
        _, seconds = timing.stages(step, jnp.zeros(8), {"inputs": jnp.zeros(8)})
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert set(seconds) == {"trace", "lower", "compile"} and min(seconds.values()) > 0
    assert not list(tmp_path.iterdir())
    assert jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
