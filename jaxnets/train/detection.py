"""The step that trains a detector of objects: a game of one move."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxnets.data.box_views import BoxViews, mosaic
from jaxnets.devices import axis
from jaxnets.losses.detection import detection_losses, targets_of
from jaxnets.metrics.mean import Mean
from jaxnets.models.detectors import corners
from jaxnets.train.descent import forward
from jaxnets.train.freezing import Frozen
from jaxnets.train.game import Game, Move, game_step
from jaxnets.train.state import TrainState
from jaxnets.typing import Array, Batch, PRNGKey, PyTree

__all__ = ["detector_step"]


def detector_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    views: BoxViews | None = None,
    mosaics: float = 0.0,
    box_weight: Array | float = 2.0,
    ema_decay: Array | float | Callable[..., Any] | None = None,
    micro_batches: int = 1,
    frozen: Mapping[str, Any] | None = None,
) -> Game:
    """The step that trains a detector, kept in `state.nets["detector"]`.

    Args:
      model: `(images, train) -> (maps, features)`, see `jaxnets.models.detectors.CenterNet`.
      optimizer: the one that the network was initialised with.
      views: what is done to each picture and its boxes.
      mosaics: share of steps' groups of four pictures that become mosaics of each other.
      box_weight: of the loss of the boxes beside that of the middles.
      ema_decay: of the moving average of the network.
      micro_batches: see `jaxnets.train.descent.descend`.
      frozen: variables that stay as they are (see `jaxnets.train.freezing`).

    Returns:
      A step with the metrics `loss`, `heat_loss` and `box_loss`.
    """
    trained: Any = model if frozen is None else Frozen(model, frozen)

    def objective(
        params: PyTree, model_state: PyTree, batch: Batch, key: PRNGKey, state: TrainState
    ) -> tuple[Array, tuple[PyTree, dict[str, Any]]]:
        view_key, mosaic_key, chance_key, dropout_key = jax.random.split(key, 4)
        images, rows = batch["inputs"], batch["target"]
        count = len(images)
        if mosaics > 0:
            keys, chances = (axis.example_keys(k, count) for k in (mosaic_key, chance_key))
            joined, things = mosaic(keys, images, rows)
            some = jax.vmap(lambda k: jax.random.bernoulli(k, mosaics))(chances[::4]).repeat(4)
            images = jnp.where(some[:, None, None, None], joined, images)
            filled = jnp.pad(rows, ((0, 0), (0, things.shape[1] - rows.shape[1]), (0, 0)))
            rows = jnp.where(some[:, None, None], things, filled)
        if views is not None:
            images, rows = jax.vmap(views)(axis.example_keys(view_key, count), images, rows)
        maps, _, after = forward(trained, model_state, dropout_key)(params, images)
        (_, height, width, _), classes = images.shape, maps["heat"].shape[-1]
        targets = jax.vmap(lambda of: targets_of(of, (height, width), classes))(rows)
        heat, box = detection_losses(maps, corners(maps), targets)
        values = heat + box_weight * box
        told = {"loss": values, "heat_loss": heat, "box_loss": box}
        metrics = {name: Mean.of(of, batch["mask"]) for name, of in told.items()}
        return values, (after, metrics)

    return game_step(
        [Move("detector", objective, optimizer, frozen=frozen)],
        ema_decay=ema_decay,
        micro_batches=micro_batches,
        num_classes=None,
    )
