"""Discriminators around another network: a classifier as the trunk, or classes brought in apart."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp

from jaxnets.models.dcgan import project
from jaxnets.nn.labels import class_weights
from jaxnets.registry import Registry
from jaxnets.typing import Array

__all__ = [
    "CONDITIONING",
    "AuxiliaryClassifier",
    "ConcatenatedClass",
    "TaughtDiscriminator",
    "TrunkDiscriminator",
]


class AuxiliaryClassifier(nn.Module):
    """A discriminator that is not told an image's class, and names it: AC-GAN.

    Its logits are those of the discriminator inside; the features have "class_logits" [B, K]
    float32 too, a linear layer on "penultimate", for `jaxnets.losses.Auxiliary`.

    Attributes:
      discriminator: `(images, None, train) -> (logits [B], features)`, without classes.
      num_classes: K.

    Reference:
      Odena et al. 2017, Conditional Image Synthesis with Auxiliary Classifier GANs,
      arXiv:1610.09585.
    """

    discriminator: nn.Module
    num_classes: int

    @nn.compact
    def __call__(
        self, x: Array, label: Array | None = None, *, train: bool
    ) -> tuple[Array, Mapping[str, Array]]:
        """Maps images [B, H, W, C] to logits [B] and features; the label is not looked at."""
        del label
        logits, features = self.discriminator(x, None, train=train)
        phi = features["penultimate"].reshape(x.shape[0], -1).astype(jnp.float32)
        return logits, {**features, "class_logits": nn.Dense(self.num_classes, name="classes")(phi)}


class ConcatenatedClass(nn.Module):
    """A discriminator that sees an image's class as one more channel: the conditional GAN.

    Each class has a learned image [H, W, 1], which is laid beside the channels of the image.

    Attributes:
      discriminator: `(images, None, train) -> (logits [B], features)`, without classes.
      num_classes: K.

    Reference:
      Mirza and Osindero 2014, Conditional Generative Adversarial Nets, arXiv:1411.1784.
    """

    discriminator: nn.Module
    num_classes: int

    @nn.compact
    def __call__(
        self, x: Array, label: Array | None = None, *, train: bool
    ) -> tuple[Array, Mapping[str, Array]]:
        """Maps images [B, H, W, C], and labels, to logits [B] and features."""
        weights = class_weights(label, self.num_classes)
        size = x.shape[1:-1]
        embedding = nn.Dense(
            size[0] * size[1],
            use_bias=False,
            kernel_init=nn.initializers.normal(1.0),  # entries as large as the pixels'
            name="embedding",
        )
        plane = embedding(weights).reshape(-1, *size, 1).astype(x.dtype)
        return self.discriminator(jnp.concatenate([x, plane], axis=-1), None, train=train)


class TaughtDiscriminator(nn.Module):
    """A discriminator that learns a CNN's features beside its own task.

    Its logits are those of the discriminator inside; the features have "taught" [B, size] float32
    too, a linear layer on "penultimate", for `jaxnets.losses.Distillation`.

    Attributes:
      discriminator: `(images, label, train) -> (logits [B], features)`.
      size: how many features the CNN has.
    """

    discriminator: nn.Module
    size: int

    @nn.compact
    def __call__(
        self, x: Array, label: Array | None = None, *, train: bool
    ) -> tuple[Array, Mapping[str, Array]]:
        """Maps images [B, H, W, C], and labels, to logits [B] and features."""
        logits, features = self.discriminator(x, label, train=train)
        phi = features["penultimate"].reshape(x.shape[0], -1).astype(jnp.float32)
        return logits, {**features, "taught": nn.Dense(self.size, name="taught")(phi)}


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


#: Ways for a discriminator to heed classes -> the module around one without, None where a family
#: does it itself.
CONDITIONING: Registry[type[nn.Module] | None] = Registry(
    "conditioning",
    {
        "projection": None,
        "concatenated": ConcatenatedClass,
        "auxiliary": AuxiliaryClassifier,
    },
)
