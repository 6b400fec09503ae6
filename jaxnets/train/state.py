"""Everything that training changes, as trees of arrays and nothing else."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxnets.typing import Array, PRNGKey, PyTree

__all__ = ["Net", "TrainState", "init_net"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Net:
    """All that one network owns.

    Attributes:
      params: the collection "params" of its Flax module.
      model_state: every other collection (BatchNorm's statistics, the vectors of spectral
        normalisation), `{}` if it has none.
      opt_state: its optimiser's state.
      ema: `{"params": ..., "model_state": ...}`, exponential moving averages, or None.
    """

    params: PyTree
    model_state: PyTree
    opt_state: PyTree
    ema: PyTree = None

    @property
    def variables(self) -> dict[str, Any]:
        """What `module.apply` takes, as last trained."""
        return {"params": self.params, **self.model_state}

    @property
    def averaged(self) -> dict[str, Any]:
        """What `module.apply` takes, averaged over time where an average is kept."""
        if self.ema is None:
            return self.variables
        return {"params": self.ema["params"], **self.ema["model_state"]}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The whole state of a run; `step` and `key` fix every random number still to come.

    Attributes:
      step: [] int32, the updates made so far.
      key: a typed PRNG key, constant during the run.
      nets: name -> `Net`.
      extra: numbers that a step keeps, by name, of any shape (an augmentation's strength, say).
    """

    step: Array
    key: PRNGKey
    nets: Mapping[str, Net]
    extra: Mapping[str, Array] = dataclasses.field(default_factory=dict)

    @classmethod
    def create(
        cls, key: PRNGKey, nets: Mapping[str, Net], extra: Mapping[str, ArrayLike] | None = None
    ) -> "TrainState":
        """A state before its first step.

        The key and arrays are copied: steps donate the state, and the caller's must outlive that.

        Args:
          key: see the attribute, as for the next two.
          nets: by name.
          extra: first values; `step.extra` of the step that the state is for. Numbers become
            float32, arrays keep their type.
        """
        return cls(
            step=jnp.zeros((), jnp.int32),
            key=jnp.copy(key),
            nets=dict(nets),
            extra={
                name: jnp.array(value, None if hasattr(value, "dtype") else jnp.float32)
                for name, value in (extra or {}).items()
            },
        )


@partial(jax.jit, static_argnums=(0, 1))
def _init(
    module: nn.Module, options: tuple[tuple[str, Any], ...], key: PRNGKey, inputs: Any
) -> Any:
    """Compiled once for all networks that differ in their key alone."""
    return module.init(key, *inputs, **dict(options))


def init_net(
    module: nn.Module,
    key: PRNGKey,
    *inputs: Any,
    optimizer: optax.GradientTransformation,
    ema: bool = False,
    prepare: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    **kwargs: Any,
) -> Net:
    """Initialises a module's variables, its optimiser's state and, if asked for, its average.

    Args:
      module: a Flax linen module.
      key: a typed PRNG key.
      *inputs: example inputs of the module; only their shapes and types count.
      optimizer: the transformation that will update the parameters.
      ema: whether to keep an exponential moving average of parameters and statistics.
      prepare: changes the variables before training (to whiten a first layer, say).
      **kwargs: passed to the module's `__call__` as they are; hashable.

    Returns:
      A `Net`.
    """
    variables = dict(_init(module, tuple(sorted(kwargs.items())), key, inputs))
    if prepare is not None:
        variables = dict(prepare(variables))
    params = variables.pop("params")
    average = {"params": params, "model_state": variables} if ema else None
    # Copies: the step donates the state, and one buffer can't be donated twice.
    return Net(params, variables, optimizer.init(params), jax.tree.map(jnp.copy, average))
