"""SNGAN-ResNet: residual blocks on both sides, spectral normalisation in the discriminator.

The published networks are those of `sngan_widths` at width 1: images of 32 pixels (table 4 of the
paper), 48 (table 5) and 128 (table 6). For 32x32x3, without classes, and latents of length 128:

- the generator has 4,274,435 parameters. The authors' code has 2,304 more: biases before a
  normalisation, which takes them away again.
- the discriminator has 1,053,825, in blocks as the authors' code has them: a 1x1 shortcut wherever
  a block halves the image or changes the number of channels.

The paper gives no counts; these are the tables' layers, counted. Any other size from 8 pixels on
works as well: 28 are made from 7, doubled twice.

References:
  Miyato et al. 2018, https://arxiv.org/abs/1802.05957
  Miyato and Koyama 2018 (classes), https://arxiv.org/abs/1802.05637
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype, Initializer

from jaxnets import ops
from jaxnets.models import sizes
from jaxnets.nn.attention import SelfAttention
from jaxnets.nn.labels import class_weights
from jaxnets.nn.layers import BatchNorm, ConditionalBatchNorm, Conv, Dense
from jaxnets.typing import Array

__all__ = ["Discriminator", "DownBlock", "Generator", "UpBlock", "sngan_widths"]

#: The paper's initial weights; sqrt(2) times as large in the 3x3 convolutions of a block, whose
#: ReLU lets half of the signal's energy through.
_glorot: Initializer = nn.initializers.glorot_uniform()
_block_init: Initializer = nn.initializers.variance_scaling(2.0, "fan_avg", "uniform")

#: Of `ops.upsample`: every pixel twice along each axis.
_NEAREST = (1.0, 1.0)

#: From this many pixels on, the networks are those of tables 5 and 6.
_LARGE = 48


def sngan_widths(size: int) -> tuple[list[int], list[int], int]:
    """Channels for images of so many pixels (along the shorter side), at width 1.

    Returns:
      The generator's `widths`, the discriminator's `widths`, and its `halvings`.
    """
    doublings = sizes.halvings(size)
    if size < _LARGE:
        return [256] * (doublings + 1), [128] * 4, min(2, doublings)
    halvings = sizes.halvings(size, least=6)
    inwards = [min(64 * 2**i, 1024) for i in range(1 + max(doublings, halvings))]
    return inwards[doublings::-1], inwards[: halvings + 1], halvings


def published(pixels: int) -> dict[str, dict[str, Any]]:
    """Fields of generator and discriminator, for images of so many pixels a side."""
    upwards, inwards, halvings = sngan_widths(pixels)
    return {
        "generator": {"widths": upwards},
        "discriminator": {"widths": inwards, "halvings": halvings},
    }


def _norm_relu(x: Array, weights: Array | None, *, train: bool, dtype: Dtype, name: str) -> Array:
    """ReLU of a normalisation, which has a scale and a shift for each class if there are any."""
    if weights is None:
        return nn.relu(BatchNorm(dtype=dtype, name=name)(x, train=train))
    return nn.relu(ConditionalBatchNorm(dtype=dtype, name=name)(x, weights, train=train))


class UpBlock(nn.Module):
    """up(conv1x1(x)) + conv(relu(norm(conv(up(relu(norm(x))))))), which doubles the image's size.

    Attributes:
      features: number of output channels.
      dtype: compute type.
    """

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, weights: Array | None, *, train: bool) -> Array:
        """Maps [B, H, W, C], and class weights [B, K] or None, to [B, 2 H, 2 W, features]."""
        # No biases: up to the last normalisation of the network, each is followed by one.
        conv = partial(Conv, self.features, use_bias=False, dtype=self.dtype)
        norm_relu = partial(_norm_relu, weights=weights, train=train, dtype=self.dtype)
        conv1 = conv((3, 3), kernel_init=_block_init, resample="double", name="conv1")
        y = conv1(norm_relu(x, name="norm1"))
        y = conv((3, 3), kernel_init=_block_init, name="conv2")(norm_relu(y, name="norm2"))
        # The shortcut is the paper's: it does not matter whether pixels are repeated before or
        # after a 1x1 convolution, but after it is a quarter of the work.
        x = conv((1, 1), kernel_init=_glorot, name="conv_shortcut")(x)
        return ops.upsample(x, 2, _NEAREST) + y


class DownBlock(nn.Module):
    """shortcut(x) + conv(relu(conv(relu(x)))), both halves averaged over 2x2 pixels if `halve`.

    Attributes:
      features: number of output channels.
      halve: whether the image is halved.
      first: for the block that sees the image itself: no ReLU before its first convolution, which
        already has all the channels.
      dtype: compute type.
    """

    features: int
    halve: bool = True
    first: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps [B, H, W, C] to [B, H, W, features], or half of H and W."""
        conv = partial(Conv, spectral_norm=True, dtype=self.dtype)
        hidden = self.features if self.first else x.shape[-1]
        y = x if self.first else nn.relu(x)
        y = conv(hidden, (3, 3), kernel_init=_block_init, name="conv1")(y, train=train)
        y = nn.relu(y)
        resample = "halve" if self.halve else "none"
        conv2 = partial(conv, kernel_init=_block_init, resample=resample, name="conv2")
        y = conv2(self.features, (3, 3))(y, train=train)
        changes = self.halve or self.first or x.shape[-1] != self.features
        if self.halve:
            x = ops.avg_pool(x, (2, 2))
        if changes:
            shortcut = conv(self.features, (1, 1), kernel_init=_glorot, name="conv_shortcut")
            x = shortcut(x, train=train)
        return x + y


class Generator(nn.Module):
    """Latents [B, latent_size] ~ N(0, I), and labels, to images [B, H, W, C] in [-1, 1].

    linear -> an `UpBlock` for each doubling -> norm, ReLU, 3x3 convolution, tanh. A class is a
    scale and a shift in every normalisation. Features: "stage0" (after the linear layer) and one
    for each block.

    Attributes:
      image_shape: (H, W, C).
      latent_size: length of the latent vectors.
      num_classes: None for a generator without classes.
      widths: channels after the linear layer and after each block; their number says how often the
        size is doubled.
      attention: the stages, of 0, 1, ..., after which self-attention follows.
      dtype: compute type.
    """

    image_shape: tuple[int, int, int]
    latent_size: int = 128
    num_classes: int | None = None
    widths: Sequence[int] = (256, 256, 256, 256)
    attention: Sequence[int] = ()
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, z: Array, label: Array | None = None, *, train: bool
    ) -> tuple[Array, dict[str, Array]]:
        sizes.check_latents(z, self.latent_size)
        sizes.check_attention(self.attention, range(len(self.widths)))
        weights = None if self.num_classes is None else class_weights(label, self.num_classes)
        *image_size, channels = self.image_shape
        height, width = sizes.first_size(image_size, len(self.widths) - 1)
        dense = Dense(
            height * width * self.widths[0], kernel_init=_glorot, dtype=self.dtype, name="dense"
        )
        x = dense(z).reshape(-1, height, width, self.widths[0])
        features = {}
        for stage, features_out in enumerate(self.widths):
            if stage > 0:
                block = UpBlock(features_out, dtype=self.dtype, name=f"block{stage}")
                x = block(x, weights, train=train)
            if stage in self.attention:
                x = SelfAttention(dtype=self.dtype, name=f"attention{stage}")(x, train=train)
            features[f"stage{stage}"] = x
        x = _norm_relu(x, weights, train=train, dtype=self.dtype, name="norm_last")
        x = Conv(channels, (3, 3), kernel_init=_glorot, dtype=self.dtype, name="conv_image")(x)
        return jnp.tanh(sizes.crop(x, image_size).astype(jnp.float32)), features


class Discriminator(nn.Module):
    """Images [B, H, W, C], and labels, to logits [B] float32, positive for "real".

    A `DownBlock` for each width, the first ones halving -> ReLU, sum over all pixels -> linear. A
    class adds the dot product of its embedding with these sums. Every kernel, and the embedding,
    is spectrally normalised, so the network's state is in the collection "spectral_norm". What
    does not divide is filled up with grey. Features: "stage1", ... for the blocks, and
    "penultimate" [B, F] float32, the sums.

    Attributes:
      num_classes: None for a discriminator without classes.
      widths: channels after each block.
      halvings: how many of the blocks, the first ones, halve the image.
      attention: the stages, of 1, 2, ..., after which self-attention follows.
      dtype: compute type.
    """

    num_classes: int | None = None
    widths: Sequence[int] = (128, 128, 128, 128)
    halvings: int = 2
    attention: Sequence[int] = ()
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, label: Array | None = None, *, train: bool
    ) -> tuple[Array, dict[str, Array]]:
        sizes.check_attention(self.attention, range(1, len(self.widths) + 1))
        x = sizes.fill_up(x, self.halvings)
        attention = partial(SelfAttention, spectral_norm=True, dtype=self.dtype)
        features = {}
        for stage, width in enumerate(self.widths, start=1):
            block = partial(DownBlock, halve=stage <= self.halvings, first=stage == 1)
            x = block(width, dtype=self.dtype, name=f"block{stage}")(x, train=train)
            if stage in self.attention:
                x = attention(name=f"attention{stage}")(x, train=train)
            features[f"stage{stage}"] = x
        phi = features["penultimate"] = nn.relu(x).astype(jnp.float32).sum(axis=(1, 2))
        dense = partial(Dense, kernel_init=_glorot, spectral_norm=True)
        logits = dense(1, name="head")(phi, train=train)[:, 0]
        if self.num_classes is not None:
            embedding = dense(phi.shape[-1], use_bias=False, name="projection")
            of_class = embedding(class_weights(label, self.num_classes), train=train)
            logits += jnp.sum(of_class * phi, axis=-1)
        return logits, features
