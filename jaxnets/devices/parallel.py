"""One way onto devices: a step compiled for a mesh, by `jit` or by `pmap`."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxnets.devices import axis
from jaxnets.devices.placement import bytes_per_device as bytes_per_device
from jaxnets.devices.placement import gathered as gathered
from jaxnets.devices.placement import make_mesh as make_mesh
from jaxnets.devices.placement import own_copy as own_copy
from jaxnets.devices.placement import own_places, shares
from jaxnets.devices.placement import own_rows as own_rows
from jaxnets.devices.placement import place as place
from jaxnets.devices.placement import replicate as replicate
from jaxnets.devices.placement import spread as spread
from jaxnets.errors import UserError
from jaxnets.registry import check_name
from jaxnets.typing import DATA_AXIS, Batch, Metrics, PyTree

__all__ = ["CompiledStep", "Mode", "compile_step"]

Mode = Literal["jit", "pmap"]

#: `(state, batch) -> (state, metrics)`. The state is any tree of arrays; the metrics are sums.
Step = Callable[[Any, Batch], tuple[Any, Metrics]]

#: (source, what the pipeline feeds for one step) -> batch; runs on the device.
Fetch = Callable[[PyTree, PyTree], Batch]


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """A step on the devices of a mesh: `(state, feed, source=None) -> (state, metrics)`.

    The leaves of `feed` are [B, ...], with a further leading axis of K where `steps_per_call` is
    K > 1; the metrics are those of all K steps, merged. Of several processes, each feeds its own
    rows of the batch (see `own_rows`). `source` is whole on every device (see
    `replicate`). The state that is passed in is donated: use the one that comes back.

    Attributes:
      mesh: where it runs.
      steps_per_call: K.
      program: what `jax.jit` or `jax.pmap` made; its arguments are (state, `arrange(feed)`,
        source).
      arrange: brings a feed into the form that the program takes.
      shard_params: whether the state is divided among the devices.
    """

    mesh: Mesh
    steps_per_call: int
    program: Any
    arrange: Callable[[PyTree], PyTree]
    shard_params: bool = False

    def __call__(
        self, state: PyTree, feed: PyTree, source: PyTree = None
    ) -> tuple[PyTree, Metrics]:
        """Runs the step; compiles it when it first sees such shapes.

        Raises:
          UserError: for a batch that the number of devices does not divide.
        """
        _check(feed, self.mesh, self.steps_per_call)
        return self.program(state, self.arrange(feed), source)

    def lower(self, state: PyTree, feed: PyTree, source: PyTree = None) -> jax.stages.Lowered:
        """The step as XLA gets it for such arguments, to be compiled and looked at.

        Arguments may be `jax.ShapeDtypeStruct`s. What `lower(...).compile()` gives is called with
        (state, `arrange(feed)`, source).
        """
        return self.program.lower(self._placed_shapes(state), self._arranged_shapes(feed), source)

    def trace(self, state: PyTree, feed: PyTree, source: PyTree = None) -> jax.stages.Traced | None:
        """What comes before lowering, where it is a stage of its own; None under pmap."""
        shapes = self._arranged_shapes(feed)
        trace = getattr(self.program, "trace", None)
        return None if trace is None else trace(self._placed_shapes(state), shapes, source)

    def _placed_shapes(self, state: PyTree) -> PyTree:
        if not self.shard_params:
            return state
        return jax.tree.map(
            lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
            state,
            shares(state, self.mesh),
        )

    def _arranged_shapes(self, feed: PyTree) -> PyTree:
        _check(feed, self.mesh, self.steps_per_call)
        return jax.eval_shape(self.arrange, feed)


def compile_step(
    step: Step | Sequence[Step],
    mesh: Mesh,
    mode: Mode = "jit",
    *,
    steps_per_call: int = 1,
    fetch: Fetch | None = None,
    shard_params: bool = False,
) -> CompiledStep:
    """Compiles a step for the devices of a mesh.

    Each device runs the step on its own share of the batch, and the sums that must cross devices
    are those of `jaxnets.devices.axis`: by "jit" through `jax.shard_map`, with global arrays and
    for any number of hosts; by "pmap" through `jax.pmap`. Both give the same numbers, and those of
    one device up to the order of sums.

    The state that is passed in is donated: use the one that comes back.

    Args:
      step: `(state, batch) -> (state, metrics)`; or one for each step of a call, in their order
        (see `jaxnets.run.task.Lazily`).
      mesh: one axis, named `data`.
      mode: "jit" or "pmap".
      steps_per_call: K steps in one call, by `lax.scan`; saves K - 1 dispatches.
      fetch: makes the batch of one step, inside the compiled program, out of the resident
        `source` and that step's feed. Without it, what is fed is the batch.
      shard_params: takes and gives a state that is divided among the devices (see `place`), for
        networks whose parameters, optimiser state and averages are too large to be whole on each.
        A step then gathers the parameters that it needs, and each device updates its share
        (Rajbhandari et al. 2020, arXiv:1910.02054, stage 3). The numbers are the same.

    Returns:
      A function `(state, feed, source=None) -> (state, metrics)`, see `CompiledStep`.

    Raises:
      UserError: for an unknown mode, for a divided state or several processes by "pmap", and, when
        called, for a batch that the number of devices does not divide.
    """
    check_name("mode", mode, get_args(Mode))
    if shard_params and mode != "jit":
        raise UserError(f'parameters are divided among devices by "jit" only, not by {mode!r}')
    if mode == "pmap" and jax.process_count() > 1:
        raise UserError('several processes compile a step by "jit" only, not by "pmap"')
    if steps_per_call < 1:
        raise UserError(f"steps per call must be at least 1, got {steps_per_call}")
    made = [step] * steps_per_call if callable(step) else list(step)
    if len(made) != steps_per_call:
        raise ValueError(f"{len(made)} steps were given for {steps_per_call} steps a call")
    batch_axis = 0 if steps_per_call == 1 else 1

    def batch_of(source: PyTree, feed: PyTree) -> Batch:
        return feed if fetch is None else fetch(source, feed)

    def call(state: PyTree, feed: PyTree, source: PyTree) -> tuple[PyTree, Metrics]:
        if steps_per_call == 1:
            return made[0](state, batch_of(source, feed))
        merged: Metrics = {}
        first = 0
        for one, alike in itertools.groupby(made):
            last = first + len(list(alike))
            part = jax.tree.map(lambda leaf, a=first, b=last: leaf[a:b], feed)
            state, metrics = jax.lax.scan(
                lambda s, f, one=one: one(s, batch_of(source, f)), state, part
            )
            for name, value in jax.tree.map(lambda leaf: leaf.sum(axis=0), metrics).items():
                old = merged.get(name)
                merged[name] = value if old is None else jax.tree.map(jnp.add, old, value)
            first = last
        return state, merged

    way = _by_pmap if mode == "pmap" else _divided_by_jit if shard_params else _by_jit
    return CompiledStep(mesh, steps_per_call, *way(call, mesh, batch_axis), shard_params)


def _check(feed: PyTree, mesh: Mesh, steps_per_call: int) -> None:
    leaf = jax.tree.leaves(feed)[0]
    if steps_per_call > 1 and leaf.shape[0] != steps_per_call:
        raise ValueError(
            f"compiled for {steps_per_call} steps a call, but was fed a leading axis of "
            f"{leaf.shape[0]}"
        )
    here = len(own_places(mesh))
    batch = leaf.shape[0 if steps_per_call == 1 else 1]
    if batch % here:
        batch = batch * mesh.size // here
        raise UserError(
            f"batch size {batch} is not divisible by the {mesh.size} devices; "
            f"choose a multiple of {mesh.size}"
        )


_Placed = tuple[Any, Callable[[PyTree], PyTree]]  # CompiledStep's `program` and `arrange`


def _by_jit(call: Callable[..., Any], mesh: Mesh, batch_axis: int) -> _Placed:
    replicated, split = PartitionSpec(), PartitionSpec(*(None,) * batch_axis, DATA_AXIS)
    if mesh.size > 1:
        call = jax.shard_map(
            call,
            mesh=mesh,
            in_specs=(replicated, split, replicated),
            out_specs=(replicated, replicated),
            check_vma=False,  # what is equal on all devices is so by psum, which it can't see
        )
    on_mesh = [NamedSharding(mesh, spec) for spec in (replicated, split)]
    program = jax.jit(
        call,
        in_shardings=(on_mesh[0], on_mesh[1], on_mesh[0]),
        out_shardings=(on_mesh[0], on_mesh[0]),
        donate_argnums=0,
    )
    return program, _global_feed(on_mesh[1])


def _divided_by_jit(call: Callable[..., Any], mesh: Mesh, batch_axis: int) -> _Placed:
    replicated = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec(*(None,) * batch_axis, DATA_AXIS))

    def on_global_arrays(state: PyTree, feed: PyTree, source: PyTree) -> Any:
        with axis.on_global_arrays(mesh):
            state, metrics = call(axis.divided(state), feed, source)
            return axis.divided(state), jax.lax.with_sharding_constraint(metrics, replicated)

    # The state comes as `place` has put it, and goes as `divided` says: the same.
    program = jax.jit(on_global_arrays, in_shardings=(None, split, replicated), donate_argnums=0)
    return program, _global_feed(split)


def _global_feed(split: NamedSharding) -> Callable[[PyTree], PyTree]:
    batch_axis = len(split.spec) - 1

    def share(leaf: Any) -> Any:
        shape = list(leaf.shape)
        shape[batch_axis] = shape[batch_axis] * split.mesh.size // len(own_places(split.mesh))
        return jax.make_array_from_process_local_data(split, np.asarray(leaf), tuple(shape))

    one_process = jax.process_count() == 1
    return lambda feed: feed if one_process else jax.tree.map(share, feed)


def _by_pmap(call: Callable[..., Any], mesh: Mesh, batch_axis: int) -> _Placed:
    devices = list(mesh.devices.flat)
    program = jax.pmap(
        call,
        axis_name=DATA_AXIS,
        in_axes=(None, 0, None),
        out_axes=(None, None),
        devices=devices,
        donate_argnums=0,
    )

    def shares(leaf: Any) -> Any:
        """[..., B, ...] -> [devices, ..., B / devices, ...]."""
        shape = leaf.shape
        leaf = leaf.reshape(*shape[:batch_axis], len(devices), -1, *shape[batch_axis + 1 :])
        xp = np if isinstance(leaf, np.ndarray) else jnp
        return xp.moveaxis(leaf, batch_axis, 0)

    return program, lambda feed: jax.tree.map(shares, feed)
