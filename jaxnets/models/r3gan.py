"""R3GAN: grouped residual blocks without normalisation, as many in each network as in the other.

The published networks are those of `r3gan_widths` at width 1, without classes:

- 256x256x3: 23,057,952 parameters in the generator and 23,009,568 in the discriminator; the paper
  has 23.058 and 23.010 million (table 2).
- 32x32x3: 20,732,160 and 20,683,776, with the widths of the authors' CIFAR-10 configuration; the
  paper gives no counts for it.

They are made for the relativistic loss with R1 and R2. Any other size from 8 pixels on works as
well: 28 are made from 7, doubled twice.

Reference: Huang et al. 2024, https://arxiv.org/abs/2501.05441
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype, Initializer

from jaxnets import ops
from jaxnets.errors import UserError
from jaxnets.models import sizes
from jaxnets.nn.attention import SelfAttention
from jaxnets.nn.labels import class_weights
from jaxnets.nn.layers import Conv, Dense
from jaxnets.typing import Array

__all__ = ["Block", "Discriminator", "Generator", "r3gan_widths"]

_SLOPE = 0.2  # of the leaky ReLU below zero

#: By how much the grouped convolution of a block is wider than the block, and its groups.
_EXPANSION, _GROUP = 2, 16


def _normal(gain: float = 1.0) -> Initializer:
    """N(0, gain^2 / fan_in)."""
    return nn.initializers.variance_scaling(gain**2, "fan_in", "normal")


_conv1x1 = partial(Conv, kernel_size=(1, 1), use_bias=False, kernel_init=_normal())


def r3gan_widths(size: int) -> list[int]:
    """Channels of the stages, from the fewest pixels to the image, at width 1.

    Args:
      size: pixels along the shorter side.
    """
    return [768 >> max(0, stage - 3) for stage in range(sizes.halvings(size) + 1)]


def published(pixels: int) -> dict[str, dict[str, Any]]:
    """Fields of generator and discriminator, for images of so many pixels a side."""
    widths = r3gan_widths(pixels)
    return {"generator": {"widths": widths}, "discriminator": {"widths": widths[::-1]}}


class Block(nn.Module):
    """x + conv1x1(act(groupconv3x3(act(conv1x1(x))))), act = leaky ReLU 0.2 of x + bias.

    The middle is twice as wide, in groups of 16 channels. The last convolution starts at zero, so
    the block starts as the identity.

    Attributes:
      blocks: L, how many of them follow one another in the network. The first two convolutions
        start with the gain of the leaky ReLU times L^(-1/4): each of them then adds as much as is
        good for a sum of L blocks (Zhang et al. 2019, https://arxiv.org/abs/1901.09321).
      dtype: compute type.
    """

    blocks: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, H, W, C] to the same shape; 2 C must be a multiple of 16."""
        channels = x.shape[-1]
        wide = _EXPANSION * channels
        if wide % _GROUP:
            raise UserError(
                f"a width of R3GAN must be a multiple of {_GROUP // _EXPANSION}, got {channels}"
            )
        init = _normal((2 / (1 + _SLOPE**2)) ** 0.5 * self.blocks**-0.25)
        conv = partial(Conv, dtype=self.dtype)
        y = conv(wide, (1, 1), kernel_init=init, name="conv1")(x)
        y = nn.leaky_relu(y, _SLOPE)
        y = conv(wide, (3, 3), feature_group_count=wide // _GROUP, kernel_init=init, name="conv2")(
            y
        )
        y = nn.leaky_relu(y, _SLOPE)
        zeros = nn.initializers.zeros
        return x + conv(channels, (1, 1), use_bias=False, kernel_init=zeros, name="conv3")(y)


def _stages(
    of: "Generator | Discriminator",
    x: Array,
    between: Callable[[Array, int, str], Array],
    *,
    first: int,
    train: bool,
) -> tuple[Array, dict[str, Array]]:
    """The stages of a network, counted from `first`, inside its `__call__`.

    `between` maps an output [B, H, W, C], the next width and a convolution's name to the next
    stage's input. Returns the output of the last stage, and those of all stages by name.
    """
    sizes.check_attention(of.attention, range(first, first + len(of.widths)))
    block = partial(Block, of.blocks * len(of.widths), dtype=of.dtype)
    features = {}
    for stage, width in enumerate(of.widths, start=first):
        if stage > first:
            x = between(x, width, f"stage{stage}_conv")
        for index in range(1, of.blocks + 1):
            x = block(name=f"stage{stage}_block{index}")(x)
        if stage in of.attention:
            x = SelfAttention(dtype=of.dtype, name=f"attention{stage}")(x, train=train)
        features[f"stage{stage}"] = x
    return x, features


class Generator(nn.Module):
    """Latents [B, latent_size] ~ N(0, I), and labels, to images [B, H, W, C] around [-1, 1].

    A learned image of a few pixels, each channel of it times a linear function of the latents ->
    stages of blocks, the size doubled between them -> 1x1 convolution. No tanh: what lies outside
    [-1, 1] is cut off where an image is written. A class is embedded and concatenated to the
    latents. Features: "stage0", "stage1", ...

    Attributes:
      image_shape: (H, W, C).
      latent_size: length of the latent vectors.
      num_classes: None for a generator without classes.
      widths: channels of each stage, multiples of 8; their number less one says how often the size
        is doubled.
      blocks: in each stage.
      embedding_size: length of a class's embedding.
      attention: the stages, of 0, 1, ..., after which self-attention follows.
      dtype: compute type.
    """

    image_shape: tuple[int, int, int]
    latent_size: int = 64
    num_classes: int | None = None
    widths: Sequence[int] = (768, 768, 768, 768)
    blocks: int = 2
    embedding_size: int = 64
    attention: Sequence[int] = ()
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, z: Array, label: Array | None = None, *, train: bool
    ) -> tuple[Array, dict[str, Array]]:
        sizes.check_latents(z, self.latent_size)
        dense = partial(Dense, use_bias=False, kernel_init=_normal())
        z = z.astype(jnp.float32)
        if self.num_classes is not None:
            weights = class_weights(label, self.num_classes)
            embedding = dense(self.embedding_size, name="embedding")(weights)
            z = jnp.concatenate([z, embedding], axis=-1)
        *image_size, channels = self.image_shape
        shape = (*sizes.first_size(image_size, len(self.widths) - 1), self.widths[0])
        basis = self.param("basis", nn.initializers.normal(1.0), shape, jnp.float32)
        x = basis[None] * dense(self.widths[0], name="dense")(z)[:, None, None, :]
        conv = partial(_conv1x1, dtype=self.dtype)

        def double(x: Array, width: int, name: str) -> Array:
            return ops.upsample(x if x.shape[-1] == width else conv(width, name=name)(x))

        x, features = _stages(self, x.astype(self.dtype), double, first=0, train=train)
        x = conv(channels, name="conv_image")(x)
        return sizes.crop(x, image_size).astype(jnp.float32), features


class Discriminator(nn.Module):
    """Images [B, H, W, C], and labels, to logits [B] float32; only differences of them matter.

    The generator backwards: 1x1 convolution -> stages of blocks, the size halved between them ->
    each channel's product with a learned image, summed over the pixels -> linear. With classes the
    last layer makes a vector, and the logit is its dot product with the class's embedding. What
    does not divide is filled up with grey. Features: "stage1", "stage2", ... and "penultimate"
    [B, F] float32, the sums.

    Attributes:
      num_classes: None for a discriminator without classes.
      widths: channels of each stage, multiples of 8, from the image on; their number less one says
        how often the size is halved.
      blocks: in each stage.
      embedding_size: length of a class's embedding; by default the last of `widths`.
      attention: the stages, of 1, 2, ..., after which self-attention follows.
      dtype: compute type.
    """

    num_classes: int | None = None
    widths: Sequence[int] = (768, 768, 768, 768)
    blocks: int = 2
    embedding_size: int | None = None
    attention: Sequence[int] = ()
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, label: Array | None = None, *, train: bool
    ) -> tuple[Array, dict[str, Array]]:
        conv = partial(_conv1x1, dtype=self.dtype)

        def halve(x: Array, width: int, name: str) -> Array:
            x = ops.downsample(x)
            return x if x.shape[-1] == width else conv(width, name=name)(x)

        x = conv(self.widths[0], name="conv_image")(sizes.fill_up(x, len(self.widths) - 1))
        x, features = _stages(self, x, halve, first=1, train=train)
        # A convolution of each channel for itself, whose window is all that is left of the image.
        shape = x.shape[1:]
        init = nn.initializers.normal((shape[0] * shape[1]) ** -0.5)
        basis = self.param("basis", init, shape, jnp.float32)
        phi = features["penultimate"] = (x.astype(jnp.float32) * basis[None]).sum(axis=(1, 2))
        dense = partial(Dense, use_bias=False)
        if self.num_classes is None:
            return dense(1, kernel_init=_normal(), name="head")(phi)[:, 0], features
        size = self.embedding_size or self.widths[-1]
        weights = class_weights(label, self.num_classes)
        embedding = dense(size, kernel_init=_normal(size**-0.5), name="embedding")(weights)
        output = dense(size, kernel_init=_normal(), name="head")(phi)
        return jnp.sum(output * embedding, axis=-1), features
