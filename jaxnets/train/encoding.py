"""The step that trains the encoder of an f-AnoGAN: a game of one move."""

from typing import Any

import optax

from jaxnets.metrics.mean import Mean
from jaxnets.models.inspectors import FAnoGan
from jaxnets.train.game import Game, Move, game_step
from jaxnets.train.state import TrainState
from jaxnets.typing import Array, Batch, PRNGKey, PyTree

__all__ = ["encoder_step", "joined"]


def joined(state: TrainState, **params: Any) -> dict[str, Any]:
    """The variables of an `FAnoGan` out of its three networks, averaged where an average is kept.

    Args:
      state: with the nets "generator", "discriminator" and "encoder".
      **params: of a network, in place of the state's.
    """
    variables: dict[str, Any] = {}
    for name, net in state.nets.items():
        for collection, values in net.averaged.items():
            variables.setdefault(collection, {})[name] = values
    return {**variables, "params": {**variables["params"], **params}}


def encoder_step(module: FAnoGan, optimizer: optax.GradientTransformation) -> Game:
    """Moves `state.nets["encoder"]` to where the generator makes a patch again.

    It minimises `|x - G(E x)|^2 / n + kappa |f(x) - f(G(E x))|^2 / n_f`, the score itself, while
    generator and discriminator stay as they are.

    Args:
      module: see `FAnoGan`.
      optimizer: the one that the encoder was initialised with.

    Returns:
      A step with the metric `residual`, and the encoder's `grad_norm` and `finite/...`.
    """

    def objective(
        params: PyTree, model_state: PyTree, batch: Batch, key: PRNGKey, state: TrainState
    ) -> tuple[Array, Any]:
        variables = joined(state, encoder=params)
        values: Any = module.apply(variables, batch["inputs"], method="residuals")
        return values[0], (model_state, {"residual": Mean.of(values[0], batch["mask"])})

    return game_step([Move("encoder", objective, optimizer)])
