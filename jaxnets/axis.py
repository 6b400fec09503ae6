"""What a layer, a step or a random number needs to know of the device axis, and nothing more.

Under `jit` over a mesh an array is global: a mean over the batch already is the mean over every
device, and nothing here does anything. Under `pmap` and `shard_map` the code sees one device's
share, with the axis `DATA_AXIS` bound: sums must cross it, and an example's place in the *global*
batch must be worked out, because all randomness hangs on that place. The functions below ask
whether the axis is bound, so one model and one step serve both ways without a field that has to
be set right. JAX keys its trace caches on the bound axes, so the answer is never a stale one.
"""

import jax
import jax.numpy as jnp

from jaxnets.typing import DATA_AXIS, Array, PRNGKey, PyTree

__all__ = [
    "GRADIENTS",
    "MOMENTS",
    "example_index",
    "example_keys",
    "is_bound",
    "pmean",
    "psum",
    "psum_as_one",
]

#: Names under which the compiled program's text shows what crosses devices for a network's update,
#: and what for its BatchNorms. All else that crosses them is a mistake, and shows as that.
GRADIENTS = "gradients_and_metrics"
MOMENTS = "batch_moments"


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
    found = list(leaves)
    for kind in {leaf.dtype for leaf in leaves}:
        which = [i for i, leaf in enumerate(leaves) if leaf.dtype == kind]
        whole = jax.lax.psum(jnp.concatenate([leaves[i].ravel() for i in which]), DATA_AXIS)
        start = 0
        for i in which:
            stop = start + leaves[i].size
            found[i] = whole[start:stop].reshape(leaves[i].shape)
            start = stop
    return jax.tree.unflatten(form, found)


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
