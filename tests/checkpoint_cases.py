"""States to save, and how those that come back are looked at."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.devices import parallel
from jaxnets.train.state import Net, TrainState


def state(step=0, *, features=4, size=16, mesh=None, **nets):
    """A state with every type of array that a run may hold, the same for the same step."""
    rng = np.random.default_rng(step)
    net = Net(
        params={"dense": {"kernel": jnp.asarray(rng.normal(size=(size, features)), jnp.float32)}},
        model_state={"batch_stats": {"mean": jnp.full(features, float(step))}},
        opt_state=(
            jnp.asarray(step, jnp.int32),
            {"m": jnp.asarray(rng.normal(size=features), jnp.bfloat16)},
            (),
        ),
        ema=None,
    )
    whole = TrainState.create(jax.random.key(step + 5), {"net": net, **nets})
    whole = dataclasses.replace(
        whole,
        step=jnp.asarray(step, jnp.int32),
        extra={"strength": jnp.float32(0.5), "flag": jnp.array(True)},
    )
    return parallel.replicate(whole, mesh or parallel.make_mesh(1))


def plain(of):
    return jax.device_get(dataclasses.replace(of, key=jax.random.key_data(of.key)))


def assert_same(a, b):
    chex.assert_trees_all_equal_structs(a, b)
    chex.assert_trees_all_equal_dtypes(plain(a), plain(b))
    chex.assert_trees_all_equal(plain(a), plain(b))


#: Orbax leaves coroutines behind when a read or a write fails, and Python complains of them. That
#: is ignored in such a test, which takes the fixture `quiet` too, so that it comes in no later one.
noisy = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def flip(path):
    """Changes one bit in the middle of a file."""
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1 << 4
    path.write_bytes(raw)


def one_line(error):
    message = str(error.value)
    assert "\n" not in message and len(message) < 700, message
    return message
