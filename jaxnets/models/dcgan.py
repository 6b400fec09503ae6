"""Deep convolutional GAN: transposed convolutions make an image, strided ones look at it.

Both halves work for images of 8 to 256 pixels, of any number of channels, with or without classes.
The generator starts from the size that results from halving (and rounding up) while at least
four pixels are left: 28 -> 14 -> 7, 32 -> 16 -> 8 -> 4, 8 -> 4. What does not divide is cropped.

References:
  Radford et al. 2015, https://arxiv.org/abs/1511.06434
  Miyato and Koyama 2018 (projection discriminator), https://arxiv.org/abs/1802.05637
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype, Initializer

from jaxnets.errors import UserError
from jaxnets.models.sizes import check_attention, check_latents, halvings
from jaxnets.nn.attention import SelfAttention
from jaxnets.nn.labels import class_weights
from jaxnets.nn.layers import (
    BatchNorm,
    ConditionalBatchNorm,
    Conv,
    ConvTranspose,
    Dense,
    Dropout,
)
from jaxnets.typing import Array

__all__ = ["Discriminator", "Generator", "project"]

#: The paper's initial weights, in the layers that a normalisation follows.
_generator_init: Initializer = nn.initializers.normal(0.02)

#: No normalisation follows the image layer. Of the taps of a 4x4 window with stride 2 one quarter
#: meets a pixel, and half of what ReLU lets through is zero: pixels start with a deviation near
#: 1/3 at any width, where the 0.02 above would start narrow generators from plain grey.
_image_init: Initializer = nn.initializers.lecun_normal()

#: He initialisation for leaky ReLU 0.2.
_leaky_init: Initializer = nn.initializers.variance_scaling(
    2 / (1 + 0.2**2), "fan_in", "truncated_normal"
)


def _stage_strides(height: int, width: int) -> list[int]:
    """Strides from the image inwards; at least two stages, the second without a stride if need be.

    With a single stage, as 8 pixels would give, neither network has a hidden convolution.
    """
    doublings = halvings(min(height, width))
    return [2] * doublings + [1] * (2 - doublings)


def published(pixels: int) -> dict[str, dict[str, Any]]:
    """Fields of generator and discriminator; they are the same for images of any size."""
    del pixels
    return {"generator": {"width": 64}, "discriminator": {"width": 64}}


class Generator(nn.Module):
    """Latents [B, latent_size] ~ N(0, I), and labels, to images [B, H, W, C] in [-1, 1].

    linear -> [norm, ReLU, transposed convolution] for each stage -> tanh. A class enters twice:
    its embedding is concatenated to the latents, and each normalisation has a scale and a shift
    for each class. Features: "stage0" (after the linear layer) and one for each stage.

    Attributes:
      image_shape: (H, W, C).
      latent_size: length of the latent vectors.
      num_classes: None for a generator without classes.
      width: channels before the last transposed convolution; they double inwards, up to 8 times.
      embedding_size: length of a class's embedding.
      attention: the stages, of 0, 1, ..., after which self-attention follows.
      dtype: compute type.
    """

    image_shape: tuple[int, int, int]
    latent_size: int = 64
    num_classes: int | None = None
    width: int = 64
    embedding_size: int = 32
    attention: Sequence[int] = ()
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, z: Array, label: Array | None = None, *, train: bool
    ) -> tuple[Array, dict[str, Array]]:
        check_latents(z, self.latent_size)
        weights = None
        if self.num_classes is not None:
            weights = class_weights(label, self.num_classes)
            embedding = nn.Dense(
                self.embedding_size,
                use_bias=False,
                # Entries of size one, as the latents' are.
                kernel_init=nn.initializers.normal(1.0),
                name="embedding",
            )
            z = jnp.concatenate([z.astype(jnp.float32), embedding(weights)], axis=-1)

        def activate(x: Array, stage: int) -> Array:
            name = f"norm{stage}"
            if weights is None:
                x = BatchNorm(dtype=self.dtype, name=name)(x, train=train)
            else:
                x = ConditionalBatchNorm(dtype=self.dtype, name=name)(x, weights, train=train)
            x = nn.relu(x)
            if stage in self.attention:
                x = SelfAttention(dtype=self.dtype, name=f"attention{stage}")(x, train=train)
            return x

        height, width, channels = self.image_shape
        strides = _stage_strides(height, width)[::-1]
        check_attention(self.attention, range(len(strides)))
        growth = 2 ** strides.count(2)
        start = (-(-height // growth), -(-width // growth))
        widths = [self.width * min(2**i, 8) for i in reversed(range(len(strides)))]
        x = nn.Dense(
            start[0] * start[1] * widths[0],
            use_bias=False,
            kernel_init=_generator_init,
            dtype=self.dtype,
            name="dense",
        )(z)
        x = activate(x.reshape(-1, *start, widths[0]), 0)
        features = {"stage0": x}
        deconv = partial(ConvTranspose, dtype=self.dtype)
        inner = partial(deconv, use_bias=False, kernel_init=_generator_init)
        for stage, (stride, size) in enumerate(zip(strides[:-1], widths[1:], strict=True), start=1):
            window = (4, 4) if stride == 2 else (3, 3)
            x = inner(size, window, stride, name=f"deconv{stage}")(x)
            x = features[f"stage{stage}"] = activate(x, stage)
        x = deconv(channels, (4, 4), strides[-1], kernel_init=_image_init, name="deconv_image")(x)
        images = jnp.tanh(x[:, :height, :width].astype(jnp.float32))
        return images, features


class Discriminator(nn.Module):
    """Images [B, H, W, C], and labels, to logits [B] float32, positive for "real".

    [strided convolution, norm, leaky ReLU 0.2, dropout] for each stage -> linear. A class adds
    the dot product of its embedding with the penultimate features. Features: "stage1", "stage2",
    ... and "penultimate" [B, F] float32.

    Attributes:
      num_classes: None for a discriminator without classes.
      width: channels of the first stage; they double inwards, up to 8 times.
      norm: "none", or "batch" for batch normalisation in every stage but the first.
      dropout: rate after every stage.
      attention: the stages, of 1, 2, ..., after which self-attention follows.
      spectral_norm: whether every kernel, and the embedding, is divided by its largest singular
        value (Miyato et al. 2018, https://arxiv.org/abs/1802.05957), whose estimates are then the
        network's state, in the collection "spectral_norm".
      dtype: compute type.
    """

    num_classes: int | None = None
    width: int = 64
    norm: str = "none"
    dropout: float = 0.0
    attention: Sequence[int] = ()
    spectral_norm: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, label: Array | None = None, *, train: bool
    ) -> tuple[Array, dict[str, Array]]:
        if self.norm not in ("none", "batch"):
            raise UserError(f"the discriminator's norm is 'none' or 'batch', got {self.norm!r}")
        features = {}
        strides = _stage_strides(*x.shape[1:3])
        check_attention(self.attention, range(1, len(strides) + 1))
        for stage, stride in enumerate(strides, start=1):
            normalise = self.norm == "batch" and stage > 1
            x = Conv(
                self.width * min(2 ** (stage - 1), 8),
                (4, 4) if stride == 2 else (3, 3),
                stride,
                use_bias=not normalise,
                kernel_init=_leaky_init,
                dtype=self.dtype,
                spectral_norm=self.spectral_norm,
                name=f"conv{stage}",
            )(x, train=train)
            if normalise:
                x = BatchNorm(dtype=self.dtype, name=f"norm{stage}")(x, train=train)
            x = nn.leaky_relu(x, 0.2)
            if stage in self.attention:
                attention = SelfAttention(
                    spectral_norm=self.spectral_norm, dtype=self.dtype, name=f"attention{stage}"
                )
                x = attention(x, train=train)
            x = features[f"stage{stage}"] = Dropout(self.dropout)(x, train=train)
        x = features["penultimate"] = x.reshape(x.shape[0], -1).astype(jnp.float32)
        head = Dense(1, spectral_norm=self.spectral_norm, name="head")
        logits = head(x, train=train)[:, 0]
        if self.num_classes is not None:
            weights = class_weights(label, self.num_classes)
            projected = partial(project, name="projection", spectral_norm=self.spectral_norm)
            logits += projected(x, weights, train=train)
        return logits, features


def project(
    phi: Array, weights: Array, *, name: str, spectral_norm: bool = False, train: bool = False
) -> Array:
    """What a class adds to the logit: e_y . phi, of features [B, F] and class weights [B, K].

    Call it inside a module's `__call__`, which will own the embedding under `name`.
    """
    size = phi.shape[-1]
    embedding = Dense(
        size,
        use_bias=False,
        kernel_init=nn.initializers.normal(size**-0.5),
        spectral_norm=spectral_norm,
        name=name,
    )
    return jnp.sum(embedding(weights, train=train) * phi, axis=-1)
