"""Labels as a network that is told classes takes them."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxnets.errors import UserError
from jaxnets.typing import Array

__all__ = ["class_weights"]


def class_weights(label: Any, num_classes: int) -> Array:
    """Labels as weights over the classes.

    Args:
      label: [B] integers, or [B, K] probabilities (as mixup makes them), which pass through.
        An integer outside 0..K-1 gives zeros: an example without a class.
      num_classes: K.

    Returns:
      [B, K] float32.

    Raises:
      UserError: there are no labels, or they are neither of the two forms.
    """
    if label is None:
        raise UserError(
            f"this network is conditional on {num_classes} classes and got no labels; pass them, "
            "or build it with num_classes=None"
        )
    label = jnp.asarray(label)
    if label.ndim == 1 and jnp.issubdtype(label.dtype, jnp.integer):
        return jax.nn.one_hot(label, num_classes, dtype=jnp.float32)
    if label.ndim == 2 and label.shape[1] == num_classes:
        return label.astype(jnp.float32)
    raise UserError(
        f"labels must be integers [B] or probabilities [B, {num_classes}], got "
        f"{label.dtype} {list(label.shape)}"
    )
