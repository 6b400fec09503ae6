"""Networks whose first stages stay as they are while the rest learns."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import optax
from flax.traverse_util import flatten_dict

from jaxnets.errors import UserError
from jaxnets.registry import check_name
from jaxnets.typing import PyTree

__all__ = ["Frozen", "all_but", "frozen_up_to"]


def frozen_up_to(module: nn.Module, inputs: Any, stage: str) -> dict[str, Any]:
    """Which variables one of a network's features depends on.

    They are found in the traced program, not by their names: so it holds for every network.

    Args:
      module: `(inputs, train) -> (output, features)`.
      inputs: an example, of which shape and type count.
      stage: name of a feature, such as "stem" or "stage2".

    Returns:
      The structure of the module's variables, with True for those.

    Raises:
      UserError: if there is no such feature, or no weight comes before it.
    """
    apply: Any = partial(module.apply, train=False)
    init = partial(module.init, train=False)
    shapes: Any = dict(jax.eval_shape(init, jax.random.key(0), inputs))
    check_name("stage", stage, jax.eval_shape(apply, shapes, inputs)[1])
    program = jax.make_jaxpr(lambda variables: apply(variables, inputs)[1][stage])(shapes).jaxpr
    needed = set(program.outvars)
    for equation in reversed(program.eqns):
        if needed.intersection(equation.outvars):
            needed |= {var for var in equation.invars if not hasattr(var, "val")}  # no literals
    leaves = [var in needed for var in program.invars]
    if not any(leaves):
        raise UserError(
            f"no weight of the network comes before {stage}: there is nothing to freeze"
        )
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


class Frozen:
    """A module with the same `apply`, in which some variables stay as they are.

    They get no gradient. A layer all of whose variables are frozen works as in evaluation: its
    BatchNorm uses the running statistics and leaves them alone, its dropout is off.
    """

    def __init__(self, module: nn.Module, frozen: Mapping[str, Any]):
        """Wraps a module; `frozen` has the structure of its variables, see `frozen_up_to`."""
        self._module, self._frozen = module, frozen
        still: dict[tuple[str, ...], bool] = {}
        leaves: dict[tuple[str, ...], Any] = flatten_dict(dict(frozen))
        for (_, *layers, _), leaf in leaves.items():
            for depth in range(1, len(layers) + 1):
                path = tuple(layers[:depth])
                still[path] = still.get(path, True) and leaf
        self._still = {path for path, leaf in still.items() if leaf}

    def apply(self, variables: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        """See `flax.linen.Module.apply`."""
        kept = {
            name: jax.tree.map(_stop, self._frozen[name], part) for name, part in variables.items()
        }
        with nn.intercept_methods(self._as_in_evaluation):
            return self._module.apply(kept, *args, **options)

    def _as_in_evaluation(
        self,
        call: Callable[..., Any],
        args: Any,
        options: Any,
        context: nn.module.InterceptorContext,
    ) -> Any:
        if context.module.path in self._still and options.get("train"):
            options = {**options, "train": False}
        return call(*args, **options)


def _stop(frozen: bool, leaf: Any) -> Any:
    return jax.lax.stop_gradient(leaf) if frozen else leaf


def all_but(
    frozen: PyTree, optimizer: optax.GradientTransformation
) -> optax.GradientTransformation:
    """An optimizer that leaves frozen parameters alone, and keeps no state for them.

    Args:
      frozen: the structure of the parameters, True where they are frozen.
      optimizer: of the others.
    """
    names = jax.tree.map(lambda still: "frozen" if still else "free", frozen)
    return optax.multi_transform({"free": optimizer, "frozen": optax.set_to_zero()}, names)
