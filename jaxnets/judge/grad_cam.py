"""Where a classifier looks: Grad-CAM, for any Flax module, without a change to it."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxnets.errors import UserError
from jaxnets.judge.sampling import apply
from jaxnets.typing import Array, PyTree

__all__ = ["grad_cam"]

#: Maps with fewer places a side show nothing; the last layer with at least so many is looked at.
_FEWEST = 4

Tap = Callable[[str, Array], Array]


def grad_cam(module: nn.Module, variables: PyTree, inputs: Array, labels: Array) -> Array:
    """How much each place of an image speaks for a class.

    relu(sum_c w_c A_c), where A are the maps of the last layer that still has places, and w_c the
    mean over places of the class' logit's derivative in A_c; resized to the image, and divided by
    its greatest value.

    Args:
      module: `(inputs, train) -> (logits, features)`.
      variables: its weights and statistics.
      inputs: [B, H, W, C] as the module takes them.
      labels: [B] integers, the classes that are asked about.

    Returns:
      [B, H, W] float32 in [0, 1]; zeros where nothing speaks for the class.

    Raises:
      UserError: for a module none of whose layers has places.

    Reference:
      Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
      Localization", arXiv:1610.02391.
    """
    layers: dict[str, tuple[int, ...]] = {}

    def note(path: str, maps: Array) -> Array:
        layers.pop(path, None)  # in the order in which layers end
        layers[path] = maps.shape
        return maps

    jax.eval_shape(lambda x: _tapped(module, variables, x, note), inputs)
    wide = [path for path, shape in layers.items() if min(shape[1:3]) >= _FEWEST]
    if not wide:
        raise UserError("none of the network's layers has places to look at")
    layer = wide[-1]

    def logit(change: Array) -> tuple[Array, Array]:
        seen = []

        def add(path: str, maps: Array) -> Array:
            if path != layer:
                return maps
            seen.append(maps)
            return maps + change.astype(maps.dtype)

        logits = _tapped(module, variables, inputs, add)
        return jnp.take_along_axis(logits, labels[:, None], axis=1).sum(), seen[-1]

    slopes, maps = jax.grad(logit, has_aux=True)(jnp.zeros(layers[layer]))
    weights = slopes.mean(axis=(1, 2), keepdims=True)
    heat = nn.relu((weights * maps.astype(jnp.float32)).sum(axis=-1))
    heat = jax.image.resize(heat, (len(heat), *inputs.shape[1:3]), "linear")
    greatest = heat.max(axis=(1, 2), keepdims=True)
    return heat / jnp.where(greatest > 0, greatest, 1)


def _tapped(module: nn.Module, variables: PyTree, inputs: Array, tap: Tap) -> Array:
    """The logits, where every layer's maps [B, h, w, C] go through `tap` with the layer's path."""

    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        output = call(*args, **kwargs)
        path = "/".join(context.module.path)
        if path and context.method_name == "__call__" and getattr(output, "ndim", 0) == 4:
            return tap(path, output)
        return output

    with nn.intercept_methods(intercept):
        return apply(module, variables, inputs)[0]
