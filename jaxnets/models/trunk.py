"""Any classifier as the trunk of a discriminator."""

import flax.linen as nn
import jax.numpy as jnp

from jaxnets.layers import class_weights
from jaxnets.models.dcgan import project
from jaxnets.typing import Array

__all__ = ["TrunkDiscriminator"]


class TrunkDiscriminator(nn.Module):
    """logit = w . phi(x) + b, plus e_y . phi(x) with classes; phi is the trunk's "penultimate".

    The features are the trunk's own, and "class_logits" [B, K], the output of the trunk's head,
    for whoever trains the trunk as a classifier at the same time. A loss that leaves
    them out gives the head's parameters a gradient of zero.

    Attributes:
      trunk: a classifier. Its variables lie under "trunk" in every collection, so those of a
        trained classifier can be put there.
      num_classes: None for a discriminator without classes.
    """

    trunk: nn.Module
    num_classes: int | None = None

    @nn.compact
    def __call__(
        self, x: Array, label: Array | None = None, *, train: bool
    ) -> tuple[Array, dict[str, Array]]:
        """Maps images [B, H, W, C], and labels, to logits [B] float32 and features."""
        class_logits, features = self.trunk(x, train=train)
        phi = features["penultimate"].astype(jnp.float32)
        logits = nn.Dense(1, name="head")(phi)[:, 0]
        if self.num_classes is not None:
            logits += project(phi, class_weights(label, self.num_classes), name="projection")
        return logits, {**features, "class_logits": class_logits}
