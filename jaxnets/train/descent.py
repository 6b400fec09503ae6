"""`descend`: the one place that takes gradients and updates a network."""

from collections.abc import Callable, Mapping
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxnets.devices import axis
from jaxnets.metrics.mean import Mean
from jaxnets.train.state import Net, TrainState
from jaxnets.typing import Array, Batch, Metrics, PRNGKey, PyTree

__all__ = [
    "FINITE",
    "Objective",
    "Step",
    "descend",
    "forward",
    "merge_over_first_axis",
    "split_batch",
    "value_at",
]

#: First part of the names of metrics that say whether a step's numbers were finite.
FINITE = "finite"

Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]

#: (params, model_state, batch, key) -> (loss of each example [B], (model_state, metrics))
Objective = Callable[[PyTree, PyTree, Batch, PRNGKey], tuple[Array, tuple[PyTree, Metrics]]]


def split_batch(batch: Batch, parts: int) -> Batch:
    """Deals a batch out into `parts`, part i taking the examples i, i + parts, i + 2 parts, ...

    Dealing, where slicing would do on one device, leaves every example on the device that it is
    on, and gives the same parts on any number of devices.

    Args:
      batch: leaves [B, ...].
      parts: how many; must divide B.

    Returns:
      Leaves [parts, B / parts, ...].

    Raises:
      ValueError: if `parts` does not divide B.
    """

    def deal(leaf: Array) -> Array:
        if leaf.shape[0] % parts:
            raise ValueError(f"a batch of {leaf.shape[0]} does not divide into {parts} parts")
        return jnp.moveaxis(leaf.reshape(-1, parts, *leaf.shape[1:]), 1, 0)

    return jax.tree.map(deal, dict(batch))


def descend(
    net: Net,
    objective: Objective,
    batch: Batch,
    key: PRNGKey,
    *,
    name: str,
    optimizer: optax.GradientTransformation,
    prefix: str = "",
    ema_decay: Array | float | None = None,
    micro_batches: int = 1,
    frozen: PyTree = None,
) -> tuple[Net, Metrics]:
    """One update of one network: gradient of the mean loss, optimiser, moving average.

    The mean is over the examples that `batch["mask"]` keeps (all, where there is no mask), on
    every device and in every micro-batch: with M micro-batches the gradient is that of the whole
    batch (networks with BatchNorm excepted, whose statistics are those of a micro-batch), in the
    memory of a part.

    Args:
      net: what is updated.
      objective: gives the loss of each example, the new model state and the metrics.
      batch: leaves [B, ...].
      key: equal on every device.
      name: of the network, among the metrics.
      prefix: of `grad_norm` there.
      optimizer: the one that `net.opt_state` belongs to.
      ema_decay: share of the old average that is kept, in [0, 1]; None leaves `net.ema` alone.
      micro_batches: into how many parts the batch is dealt; must divide B.
      frozen: of each variable, by collection, whether objective and optimizer leave it alone: then
        its average stays to the last bit too. None if none is.

    Returns:
      The updated network and the metrics, with `grad_norm` (global L2, before clipping) added, and
      with `finite/<name>/<term>` for the terms of the update: the share of steps in which each was
      finite.
    """
    leaves = jax.tree.leaves(dict(batch))
    chex.assert_equal_shape_prefix(leaves, 1)
    size = leaves[0].shape[0]
    mask = jnp.ones(size, jnp.float32) if (m := batch.get("mask")) is None else m
    batch = {**batch, "mask": mask.astype(jnp.float32)}

    sums = axis.per_device(_sums_of(objective, micro_batches), batch=2)
    grads, metrics, total, count, model_state = sums(net.params, net.model_state, batch, key)
    grads = axis.divided(grads)
    grads = jax.tree.map(lambda g: g / jnp.maximum(count, 1.0).astype(g.dtype), grads)
    updates, opt_state = optimizer.update(grads, net.opt_state, net.params)
    params = optax.apply_updates(net.params, updates)
    ema = net.ema
    if ema is not None and ema_decay is not None:
        ema = optax.incremental_update(
            {"params": params, "model_state": model_state}, ema, 1.0 - ema_decay
        )
        if frozen is not None:
            rest = {name: frozen[name] for name in model_state}
            still = {"params": frozen["params"], "model_state": rest}
            ema = jax.tree.map(lambda keep, a, b: b if keep else a, still, ema, net.ema)
    norm = optax.tree.norm(grads)
    metrics[f"{prefix}grad_norm"] = Mean.of(norm[None])
    # The updated parameters tell of the update, and of an overflow when it was added.
    judged = {"loss": total, "gradient": norm, "update": optax.tree.norm(params)}
    if "penalty" in metrics:
        judged["penalty"] = metrics["penalty"].total
    if leaves := jax.tree.leaves(model_state):  # a variance may overflow where nothing else does
        judged["model_state"] = sum(jnp.abs(leaf).sum() for leaf in leaves)
    for term, value in judged.items():
        metrics[f"{FINITE}/{name}/{term}"] = Mean.of(jnp.isfinite(value)[None])
    return Net(params, model_state, opt_state, ema), metrics


def _sums_of(objective: Objective, micro_batches: int) -> Callable[..., Any]:
    """Sums of the gradient, metrics, loss and mask over all devices, and the model's state."""

    def loss(params: PyTree, model_state: PyTree, part: Batch, key: PRNGKey):
        values, aux = objective(params, model_state, part, key)
        return jnp.where(part["mask"] > 0, values, 0.0).sum(), aux

    gradient = jax.value_and_grad(loss, has_aux=True)

    def sums(params: PyTree, model_state: PyTree, batch: Batch, key: PRNGKey):
        if micro_batches == 1:
            (total, (model_state, metrics)), grads = gradient(params, model_state, batch, key)
        else:

            def accumulate(carry: tuple[PyTree, PyTree], part: tuple[Batch, Array]):
                added, model_state = carry
                (total, (model_state, metrics)), grads = gradient(
                    params, model_state, part[0], jax.random.fold_in(key, part[1])
                )
                return (jax.tree.map(jnp.add, added, (total, grads)), model_state), metrics

            zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
            parts = (split_batch(batch, micro_batches), jnp.arange(micro_batches))
            ((total, grads), model_state), metrics = jax.lax.scan(
                accumulate, (zeros, model_state), parts
            )
            metrics = merge_over_first_axis(metrics)
        # All that must cross the devices does so together, once for each network and step.
        with jax.named_scope(axis.GRADIENTS):
            whole = axis.psum_as_one((grads, dict(metrics), total, batch["mask"].sum()))
        return *whole, model_state

    return sums


def merge_over_first_axis(metrics: PyTree) -> PyTree:
    """Merges metrics that a scan has stacked: they are sums and counts, so they add up."""
    return jax.tree.map(lambda leaf: leaf.sum(axis=0), metrics)


def forward(module: nn.Module, model_state: PyTree, key: PRNGKey) -> Callable[..., Any]:
    """The module in training mode as `(params, *inputs) -> (output, features, model_state)`."""

    def apply(params: PyTree, *inputs: Any) -> tuple[Array, Mapping[str, Array], PyTree]:
        (output, features), after = module.apply(
            {"params": params, **model_state},
            *inputs,
            train=True,
            mutable=list(model_state),
            rngs={"dropout": key},
        )
        return output, features, dict(after)

    return apply


def value_at(value: Array | float | optax.Schedule | None, step: Array) -> Array | float | None:
    """A number, or what a function of the step gives."""
    return value(step) if callable(value) else value  # type: ignore[return-value]
