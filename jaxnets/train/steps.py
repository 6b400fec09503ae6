"""The two training steps, both games of moves.

A step is `(state, batch) -> (state, metrics)`: pure, never jitted here, never logging. All of its
randomness is `fold_in(state.key, state.step)` and, below that, one key per global example.
"""

from collections.abc import Callable, Mapping
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxnets.data.augment import Augmentation, mixup
from jaxnets.data.augment import apply as augment_batch
from jaxnets.devices import axis
from jaxnets.metrics.mean import Mean
from jaxnets.train.adversarial import adversarial_step, sample_latents
from jaxnets.train.descent import Step, forward
from jaxnets.train.freezing import Frozen
from jaxnets.train.game import Game, Move, game_step
from jaxnets.train.state import TrainState
from jaxnets.typing import Array, Batch, PRNGKey, PyTree, traced

__all__ = ["Step", "adversarial_step", "classifier_step", "sample_latents"]


def classifier_step(
    model: nn.Module,
    loss: Callable[[Array, Array], Array],
    optimizer: optax.GradientTransformation,
    *,
    augment: Augmentation | None = None,
    mixup_alpha: Array | float = 0.0,
    ema_decay: Array | float | optax.Schedule | None = None,
    micro_batches: int = 1,
    frozen: Mapping[str, Any] | None = None,
) -> Game:
    """The step that trains a classifier, kept in `state.nets["classifier"]`: a game of one move.

    Args:
      model: `(inputs, train) -> (logits [B, K], features)`.
      loss: `(logits [B, K], labels [B] or [B, K]) -> [B]`.
      optimizer: the one that the network was initialised with.
      augment: `(key, image) -> image`, applied to each example with its own key.
      mixup_alpha: parameter of mixup's Beta distribution; 0 is off.
      ema_decay: of the moving average of the network, a number or a function of the step.
      micro_batches: see `descend`.
      frozen: variables that stay as they are (see `jaxnets.train.freezing`); the optimizer leaves
        them alone.

    Returns:
      A step with the metrics `loss`, `accuracy` (on the augmented images; against the greater
      share under mixup), `grad_norm` and `finite/...` (see `descend`).
    """
    trained: Any = model if frozen is None else Frozen(model, frozen)

    def objective(
        params: PyTree, model_state: PyTree, batch: Batch, key: PRNGKey, state: TrainState
    ):
        augment_key, mixup_key, dropout_key = jax.random.split(key, 3)
        images, labels = batch["inputs"], batch["target"]
        chex.assert_rank(images, {2, 3, 4, 5})
        chex.assert_rank(labels, {1, 2})
        # A label of -1 on padding has no loss, and 0 times its NaN would still be a gradient.
        kept = (batch["mask"] > 0).reshape(-1, *(1,) * (labels.ndim - 1))
        labels = jnp.where(kept, labels, 0)
        count = images.shape[0]
        if augment is not None:
            images = augment_batch(augment, axis.example_keys(augment_key, count), images)
        logits_of = forward(trained, model_state, dropout_key)
        if traced(mixup_alpha) or mixup_alpha > 0:
            keys = axis.example_keys(mixup_key, count)
            num_classes = jax.eval_shape(lambda x: logits_of(params, x)[0], images).shape[-1]
            one_hot = jax.nn.one_hot(labels, num_classes)
            images, labels = mixup(keys, images, one_hot, alpha=mixup_alpha)
        logits, _, model_state = logits_of(params, images)
        values = loss(logits, labels)
        hard = labels if labels.ndim == 1 else labels.argmax(axis=-1)
        metrics = {
            "loss": Mean.of(values, batch["mask"]),
            "accuracy": Mean.of(logits.argmax(axis=-1) == hard, batch["mask"]),
        }
        return values, (model_state, metrics)

    return game_step(
        [Move("classifier", objective, optimizer, frozen=frozen)],
        ema_decay=ema_decay,
        micro_batches=micro_batches,
        num_classes=getattr(model, "num_classes", None),
    )
