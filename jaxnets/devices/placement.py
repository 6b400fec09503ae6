"""Where arrays lie: a mesh of the devices of all processes, and trees put on it.

Every process has a view of the same global arrays. What it may touch by itself is its own part of
them: `own_rows` of a batch, or its copy of what is replicated (`own_copy`).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxnets.devices import axis
from jaxnets.errors import UserError
from jaxnets.typing import DATA_AXIS, PyTree

__all__ = [
    "bytes_per_device",
    "gathered",
    "make_mesh",
    "on_one_device",
    "own_copy",
    "own_places",
    "own_rows",
    "place",
    "replicate",
    "shares",
    "spread",
]


def make_mesh(devices: int | Sequence[Any] | None = None) -> Mesh:
    """A mesh with one axis, `data`; the devices of each process lie side by side in it.

    Args:
      devices: how many of the devices at hand, those of all processes counted, or which; by
        default all.

    Raises:
      UserError: for a number that there is not, or that the processes do not divide.
    """
    # What a process is fed must be one piece of the batch; jax numbers the devices of a TPU slice
    # by where they are.
    at_hand = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if devices is None:
        chosen: Sequence[Any] = at_hand
    elif isinstance(devices, int):
        if not 1 <= devices <= len(at_hand):
            raise UserError(
                f"{devices} devices were asked for, and this machine has {len(at_hand)} "
                f"({at_hand[0].platform}); choose 1 to {len(at_hand)}"
            )
        chosen = at_hand[:devices]
        if (processes := jax.process_count()) > 1:
            share, rest = divmod(devices, processes)
            if rest:
                raise UserError(
                    f"{devices} devices were asked for, and the {processes} processes do not "
                    f"divide them; choose a multiple of {processes}"
                )
            of_each = [[d for d in at_hand if d.process_index == p] for p in range(processes)]
            least = min(len(of_one) for of_one in of_each)
            if share > least:
                raise UserError(
                    f"{devices} devices were asked for, {share} of each process, and one of them "
                    f"has {least}; choose at most {least * processes}"
                )
            chosen = [device for of_one in of_each for device in of_one[:share]]
    else:
        chosen = devices
    # Auto, and not the default of jax.make_mesh: linen's modules don't run under Explicit axes.
    return Mesh(np.asarray(chosen), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """The tree with every leaf replicated on every device of the mesh.

    Of several processes, each gives the same values.
    """
    if jax.process_count() > 1:
        return _put(tree, jax.tree.map(lambda leaf: NamedSharding(mesh, PartitionSpec()), tree))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def _put(tree: PyTree, shardings: PyTree) -> PyTree:
    """`jax.device_put`, for values that every process has.

    It would send each of them from process 0 to all others first, to compare them.
    """

    def put(leaf: Any, where: NamedSharding) -> jax.Array:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.device_put(leaf, where)
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            words = put(jax.random.key_data(leaf), where)
            return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, where, lambda part: host[part])

    return jax.tree.map(put, tree, shardings)


def place(state: PyTree, mesh: Mesh, *, shard_params: bool = False) -> PyTree:
    """A state on the devices of a mesh, as `compile_step` with the same `shard_params` takes it.

    Args:
      state: arrays on any devices.
      mesh: the devices.
      shard_params: divide what is large in it (parameters, the optimiser's state, averages) among
        the devices, each array along one axis; else all of it is replicated.
    """
    if not shard_params:
        return replicate(state, mesh)
    put = jax.device_put if jax.process_count() == 1 else _put
    return put(state, shares(state, mesh))


def shares(state: PyTree, mesh: Mesh) -> PyTree:
    """The shardings of a state that `place` divides among the devices."""
    return jax.tree.map(
        lambda leaf: NamedSharding(mesh, axis.share_of(leaf.shape, mesh.size)), state
    )


def gathered(tree: PyTree) -> PyTree:
    """The tree, with every leaf that is divided among devices replicated on all of them."""

    def gather(leaf: Any) -> Any:
        where = getattr(leaf, "sharding", None)
        if not isinstance(where, NamedSharding) or where.is_fully_replicated:
            return leaf
        return jax.jit(jnp.copy, out_shardings=NamedSharding(where.mesh, PartitionSpec()))(leaf)

    return jax.tree.map(gather, tree)


def own_copy(tree: PyTree) -> PyTree:
    """The tree gathered, on the first of this process's devices; all processes must call it.

    What is computed from it is this process's own business: the others need not do the same.
    """

    def own(leaf: Any) -> Any:
        several = isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1
        return _first_copy(leaf) if several else leaf

    return jax.tree.map(own, gathered(tree))


def on_one_device(tree: PyTree) -> PyTree:
    """The tree with what is replicated on this process's devices as it is on the first of them.

    What is divided, or lies on other processes' devices too, stays as it is.
    """

    def first(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or not leaf.is_fully_addressable:
            return leaf
        several = len(leaf.sharding.device_set) > 1
        return _first_copy(leaf) if several and leaf.is_fully_replicated else leaf

    return jax.tree.map(first, tree)


def _first_copy(leaf: jax.Array) -> jax.Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        words = jax.random.key_data(leaf).addressable_data(0)
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
    return leaf.addressable_data(0)


@lru_cache(maxsize=8)
def own_places(mesh: Mesh) -> list[int]:
    """Where in a mesh the devices of this process are."""
    own = jax.process_index()
    return [i for i, device in enumerate(mesh.devices.flat) if device.process_index == own]


def own_rows(mesh: Mesh, batch_size: int) -> slice:
    """Which rows of a batch lie on the devices of this process.

    Args:
      mesh: see `make_mesh`.
      batch_size: rows over all processes; a multiple of the devices.
    """
    places, share = own_places(mesh), batch_size // mesh.size
    return slice(places[0] * share, (places[-1] + 1) * share)


def spread(array: np.ndarray, mesh: Mesh) -> jax.Array:
    """An array that every process has, divided over the devices of a mesh along its first axis."""
    where = NamedSharding(mesh, PartitionSpec(DATA_AXIS))
    if jax.process_count() == 1:
        return jax.device_put(array, where)
    own = array[own_rows(mesh, len(array))]
    return jax.make_array_from_process_local_data(where, own, array.shape)


def bytes_per_device(tree: PyTree) -> int:
    """What the arrays of a tree take of each device's memory."""

    def size(leaf: Any) -> int:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        return leaf.dtype.itemsize * int(np.prod(leaf.sharding.shard_shape(leaf.shape)))

    return sum(map(size, jax.tree.leaves(tree)))
