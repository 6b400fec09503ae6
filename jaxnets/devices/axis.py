"""What a layer, a step or a random number needs to know of the device axis, and nothing more.

Under `jit` over a mesh an array is global: a mean over the batch already is the mean over every
device, and nothing here does anything. Under `pmap` and `shard_map` the code sees one device's
share, with the axis `DATA_AXIS` bound: sums must cross it, and an example's place in the *global*
batch must be worked out, because all randomness hangs on that place. The functions below ask
whether the axis is bound, so one model and one step serve both ways without a field that has to
be set right. JAX keys its trace caches on the bound axes, so the answer is never a stale one.

Where the state itself is divided among the devices (`on_global_arrays`), a step sees global arrays,
and only what looks at examples goes to the single devices (`per_device`): XLA brings the parameters
together for it, and updates each device's share of them.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxnets.typing import DATA_AXIS, Array, PRNGKey, PyTree

__all__ = [
    "GRADIENTS",
    "MOMENTS",
    "divided",
    "example_index",
    "example_keys",
    "is_bound",
    "on_global_arrays",
    "per_device",
    "pmean",
    "psum",
    "psum_as_one",
    "share_of",
]

#: Names under which the compiled program's text shows what crosses devices for a network's update,
#: and what for its BatchNorms. All else that crosses them is a mistake, and shows as that.
GRADIENTS = "gradients_and_metrics"
MOMENTS = "batch_moments"

#: Arrays of fewer elements are whole on every device: nothing is gained by dividing them.
_WORTH_DIVIDING = 1024

_global: ContextVar[Mesh | None] = ContextVar("mesh of global arrays", default=None)


def is_bound() -> bool:
    """Whether this code is being traced for one device of `DATA_AXIS`."""
    try:
        jax.lax.axis_index(DATA_AXIS)
    except NameError:  # the documented answer for an axis that no pmap or shard_map has bound
        return False
    return True


def psum(tree: PyTree) -> PyTree:
    """Sums every leaf over the devices of `DATA_AXIS` where it is bound."""
    return jax.lax.psum(tree, DATA_AXIS) if is_bound() else tree


def psum_as_one(tree: PyTree) -> PyTree:
    """`psum` with one all-reduce for all leaves of a type, however many there are.

    Every all-reduce costs a round of messages, whatever its size, and XLA joins them on some
    backends only. So the leaves are laid end to end first.
    """
    if not is_bound():
        return tree
    leaves, form = jax.tree.flatten(tree)
    sums = list(leaves)
    for kind in {leaf.dtype for leaf in leaves}:
        which = [i for i, leaf in enumerate(leaves) if leaf.dtype == kind]
        joined = jax.lax.psum(jnp.concatenate([leaves[i].ravel() for i in which]), DATA_AXIS)
        start = 0
        for i in which:
            stop = start + leaves[i].size
            sums[i] = joined[start:stop].reshape(leaves[i].shape)
            start = stop
    return jax.tree.unflatten(form, sums)


def pmean(tree: PyTree) -> PyTree:
    """Averages every leaf over the devices of `DATA_AXIS` where it is bound."""
    return jax.lax.pmean(tree, DATA_AXIS) if is_bound() else tree


def example_index(count: int) -> Array:
    """Places in the global batch of the `count` examples that this code sees.

    Returns:
      [count] int32; starts at zero unless an axis is bound and this is not its first device.
    """
    index = jnp.arange(count, dtype=jnp.int32)
    if is_bound():
        index = index + count * jax.lax.axis_index(DATA_AXIS)
    return index


def example_keys(key: PRNGKey, count: int) -> Array:
    """One key per global example, the same on any number of devices.

    Args:
      key: a key that is equal on every device.
      count: how many examples this code sees.

    Returns:
      [count] typed keys.
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, example_index(count))


@contextlib.contextmanager
def on_global_arrays(mesh: Mesh) -> Iterator[None]:
    """What is traced in here sees global arrays that are divided among the devices of a mesh."""
    token = _global.set(mesh)
    try:
        yield
    finally:
        _global.reset(token)


def share_of(shape: tuple[int, ...], devices: int) -> PartitionSpec:
    """How an array of the state is divided: along its longest axis that the devices divide.

    Args:
      shape: of the whole array.
      devices: how many; small arrays, and those with no such axis, are whole on each of them.
    """
    size = 1
    for length in shape:
        size *= length
    fitting = [i for i, length in enumerate(shape) if length and length % devices == 0]
    if size < _WORTH_DIVIDING or not fitting:
        return PartitionSpec()
    longest = max(fitting, key=lambda i: shape[i])
    return PartitionSpec(*(None,) * longest, DATA_AXIS)


def divided(tree: PyTree) -> PyTree:
    """Divides every leaf as `share_of` says, on global arrays; elsewhere the tree as it is."""
    mesh = _global.get()
    if mesh is None or is_bound():
        return tree

    def divide(leaf: Array) -> Array:
        return jax.lax.with_sharding_constraint(
            leaf, NamedSharding(mesh, share_of(leaf.shape, mesh.size))
        )

    return jax.tree.map(divide, tree)


def per_device(function: Callable[..., Any], *, batch: int) -> Callable[..., Any]:
    """The function on each device's share of the batch, where the caller sees global arrays.

    Args:
      function: what it returns must be equal on every device (by `psum`).
      batch: the position of the argument whose leaves are divided along their first axis; every
        other argument is whole on each device.

    Returns:
      A function of the same arguments; where nothing is global, `function` itself.
    """
    mesh = _global.get()
    if mesh is None or is_bound():
        return function

    def spread(*arguments: Any) -> Any:
        replicated, split = PartitionSpec(), PartitionSpec(DATA_AXIS)
        return jax.shard_map(
            function,
            mesh=mesh,
            in_specs=tuple(split if i == batch else replicated for i in range(len(arguments))),
            out_specs=replicated,
            check_vma=False,  # what is equal on all devices is so by psum, which it can't see
        )(*arguments)

    return spread
