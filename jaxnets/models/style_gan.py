"""StyleGAN2: latents are mapped to styles, and styles scale the kernels of every convolution.

The networks of `stylegan2_widths` at width 1, with latents of length 512, without classes, have

- 24,767,458 parameters in the generator and 23,996,481 in the discriminator for 256x256x3, with
  `base` 16384, as StyleGAN2-ADA's "paper256" has them;
- 28,794,124 and 29,007,905 for 1024x1024x3, with `base` 32768 (configuration F of StyleGAN2) and 2
  layers in the mapping. The authors' code prints 28,794,124 and 29,012,513 for it.

The discriminators lack the 4,608 weights of one channel, which tells of the standard deviation
over a few images, and is left out. With it a logit would not be of its own image alone, as
gradient penalties and a mask over the batch need it; and its groups would mix reals and fakes,
which go through in one pass, or depend on the number of devices. What it guards against, collapse,
is measured by `jaxnets.metrics.collapse`.

Any size from 8 pixels on works as well: 28 are made from 7, doubled twice. About rates of learning
see `jaxnets.models.style_layers`.

References:
  Karras et al. 2020, https://arxiv.org/abs/1912.04958
  Karras et al. 2020 (classes; StyleGAN2-ADA), https://arxiv.org/abs/2006.06676
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from jaxnets import ops
from jaxnets.devices import axis
from jaxnets.errors import UserError
from jaxnets.models import sizes
from jaxnets.models.style_layers import (
    EqualisedConv,
    EqualisedDense,
    Mapping,
    ModulatedConv,
    StyledConv,
    activate,
)
from jaxnets.nn.attention import SelfAttention
from jaxnets.typing import Array

__all__ = ["Discriminator", "DownBlock", "Generator", "Synthesis", "stylegan2_widths"]

_WIDEST = 512

#: Images of fewer pixels along the shorter side get a smaller network.
_MANY_PIXELS = 64


def stylegan2_widths(size: int, base: int = 16384) -> list[int]:
    """Channels of the stages, from the fewest pixels to the image, at width 1.

    min(512, base / pixels), the pixels of a stage rounded up to a power of two.

    Args:
      size: pixels along the shorter side.
      base: 16384 as StyleGAN2-ADA has it for up to 256 pixels, 32768 for StyleGAN2's
        configuration F; `make_gan` takes 4096 below 64 pixels.
    """
    counts = [size]
    for _ in range(sizes.halvings(size)):
        counts.append(-(-counts[-1] // 2))
    return [min(_WIDEST, base >> (count - 1).bit_length()) for count in counts[::-1]]


def published(pixels: int) -> dict[str, dict[str, Any]]:
    """Fields of generator and discriminator, for images of so many pixels a side.

    The authors' CIFAR-10 networks have 512 channels at every size, and as shallow a mapping as
    small images get here. With a fourth of that at 32 pixels a step takes a sixth of the
    operations.
    """
    base, layers = (4096, 2) if pixels < _MANY_PIXELS else (16384, 8)
    widths, mapping = stylegan2_widths(pixels, base), {"mapping_layers": layers}
    return {
        "generator": {"widths": widths, "style_size": 512, **mapping},
        "discriminator": {"widths": widths[::-1], **mapping},
    }


def _check(mapping_layers: int, widths: Sequence[int]) -> None:
    if mapping_layers < 1:
        raise UserError(f"a mapping needs at least 1 layer, got {mapping_layers}")
    if not widths or min(widths) < 1:
        raise UserError(f"each stage needs a width of at least 1, got widths {tuple(widths)}")


class Synthesis(nn.Module):
    """Styles to images: a learned start, stages of styled convolutions, images of each added up.

    Every stage makes an image with a modulated 1x1 convolution; the sum of those before it is
    enlarged with [1, 3, 3, 1]. Features: "stage0", "stage1", ...

    Attributes:
      image_shape: (H, W, C).
      widths: see `Generator`.
      attention: see `Generator`.
      dtype: compute type; images are summed in float32.
    """

    image_shape: tuple[int, int, int]
    widths: Sequence[int]
    attention: Sequence[int] = ()
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, w: Array, *, train: bool) -> tuple[Array, dict[str, Array]]:
        """Maps styles [B, 2 stages, W] to [B, H, W, C] float32, and features."""
        sizes.check_attention(self.attention, range(len(self.widths)))
        *image_size, channels = self.image_shape
        shape = (*sizes.first_size(image_size, len(self.widths) - 1), self.widths[0])
        start = self.param("constant", nn.initializers.normal(1.0), shape, jnp.float32)
        x = jnp.broadcast_to(start[None], (w.shape[0], *shape)).astype(self.dtype)
        image, features = None, {}
        for stage, width in enumerate(self.widths):
            conv = partial(StyledConv, width, dtype=self.dtype)
            place = 2 * stage
            if stage:
                up = conv(place=place - 1, up=True, name=f"stage{stage}_up")
                x = up(x, w[:, place - 1], train=train)
            x = conv(place=place, name=f"stage{stage}_conv")(x, w[:, place], train=train)
            if stage in self.attention:
                x = SelfAttention(dtype=self.dtype, name=f"attention{stage}")(x, train=train)
            features[f"stage{stage}"] = x
            # The style of the convolution that follows in the next stage, as the authors have it.
            part = self._to_image(channels, f"stage{stage}_image", x, w[:, place + 1])
            image = part if image is None else ops.upsample(image) + part
        assert image is not None
        return sizes.crop(image, image_size), features

    def _to_image(self, channels: int, name: str, x: Array, style: Array) -> Array:
        conv = ModulatedConv(channels, (1, 1), demodulate=False, dtype=self.dtype, name=name)
        bias = self.param(f"{name}_bias", nn.initializers.zeros, (channels,), jnp.float32)
        return conv(x, style).astype(jnp.float32) + bias[None, None, None]


class Generator(nn.Module):
    """Latents [B, latent_size] ~ N(0, I), and labels, to images [B, H, W, C] around [-1, 1].

    `map` makes styles, and `synthesise` images of them; a call does both. No tanh: what lies
    outside [-1, 1] is cut off where an image is written. In training, some examples have styles of
    two latents, so that neighbouring layers do not rely on each other; the second latents, and the
    noise, come from each example's own key of the "dropout" stream, and are the same on any number
    of devices. For the features see `Synthesis`, for noise in evaluation `StyledConv`.

    Attributes:
      image_shape: (H, W, C).
      latent_size: length of the latent vectors.
      num_classes: None for a generator without classes.
      widths: channels of each stage; their number less one says how often the size is doubled.
      mapping_layers: at least 1; the authors take 8, and 2 for CIFAR-10.
      style_size: length of a style.
      mixing: in training, the share of examples in which a second latent takes over at a random
        layer, in [0, 1].
      attention: the stages, of 0, 1, ..., after which self-attention follows.
      dtype: compute type of the synthesis; the mapping is float32.
    """

    image_shape: tuple[int, int, int]
    latent_size: int = 512
    num_classes: int | None = None
    widths: Sequence[int] = (512, 512, 512, 512)
    mapping_layers: int = 8
    style_size: int = 512
    mixing: float = 0.9
    attention: Sequence[int] = ()
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        _check(self.mapping_layers, self.widths)
        if self.style_size < 1:
            raise UserError(f"a style needs at least 1 number, got style_size={self.style_size}")
        if not 0.0 <= self.mixing <= 1.0:
            raise UserError(f"mixing is a share in [0, 1], got {self.mixing}")
        self.mapping = Mapping(self.style_size, self.mapping_layers, self.num_classes)
        self.synthesis = Synthesis(self.image_shape, self.widths, self.attention, self.dtype)

    @property
    def num_styles(self) -> int:
        """Two for each stage; style i > 0 is the first that stage (i + 1) // 2 sees."""
        return 2 * len(self.widths)

    def map(self, z: Array, label: Array | None = None) -> Array:
        """Styles [B, num_styles, style_size] float32, all of an example equal.

        Raises:
          UserError: if the latents are not [B, latent_size], or labels are missing.
        """
        sizes.check_latents(z, self.latent_size)
        w = self.mapping(z, label)
        return jnp.broadcast_to(w[:, None], (w.shape[0], self.num_styles, self.style_size))

    def synthesise(self, w: Array, *, train: bool) -> tuple[Array, dict[str, Array]]:
        """Images of styles [B, num_styles, style_size].

        Raises:
          UserError: if the styles have another shape.
        """
        if w.shape[1:] != (self.num_styles, self.style_size):
            raise UserError(
                f"the synthesis takes styles [B, {self.num_styles}, {self.style_size}], got "
                f"{list(w.shape)}"
            )
        return self.synthesis(w, train=train)

    def __call__(
        self, z: Array, label: Array | None = None, *, train: bool
    ) -> tuple[Array, dict[str, Array]]:
        w = self.map(z, label)
        if train and self.mixing > 0:
            second, start = self._second_latents(len(z))
            over = jnp.arange(self.num_styles)[None, :] >= start[:, None]
            w = jnp.where(over[:, :, None], self.map(second, label), w)
        return self.synthesise(w, train=train)

    def _second_latents(self, count: int) -> tuple[Array, Array]:
        """[B, Z], and the style [B] at which each takes over; num_styles where it never does."""

        def draw(key: Array) -> tuple[Array, Array]:
            keys = jax.random.split(key, 3)
            start = jax.random.randint(keys[1], (), 1, self.num_styles)
            mixed = jax.random.bernoulli(keys[2], self.mixing)
            latent = jax.random.normal(keys[0], (self.latent_size,), jnp.float32)
            return latent, jnp.where(mixed, start, self.num_styles)

        return jax.vmap(draw)(axis.example_keys(self.make_rng("dropout"), count))


class DownBlock(nn.Module):
    """(conv1x1(x) + act(conv3x3(act(conv3x3(x))))) / sqrt(2), both halved with a blur.

    Attributes:
      features: number of output channels.
      dtype: compute type.
    """

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, H, W, C] to [B, H / 2, W / 2, features]."""
        conv = partial(EqualisedConv, dtype=self.dtype)
        y = activate(conv(x.shape[-1], (3, 3), name="conv1")(x))
        y = activate(conv(self.features, (3, 3), down=True, name="conv2")(y))
        skip = conv(self.features, (1, 1), down=True, use_bias=False, name="conv_shortcut")
        return (skip(x) + y) * 2**-0.5


class Discriminator(nn.Module):
    """Images [B, H, W, C], and labels, to logits [B] float32.

    1x1 convolution -> residual blocks, each of which halves the size -> 3x3 convolution -> linear
    -> linear. With classes the last layer makes a vector, and the logit is its dot product with
    the mapped class, over sqrt(its length). What does not divide is filled up with grey. Features:
    "stage1", "stage2", ... and "penultimate" [B, F] float32.

    Attributes:
      num_classes: None for a discriminator without classes.
      widths: channels from the image on; their number less one is that of the blocks.
      mapping_layers: of the classes, where there are any; at least 1.
      embedding_size: length of a mapped class; by default the last of `widths`.
      attention: the stages, of 1, 2, ..., after which self-attention follows.
      dtype: compute type; from the first linear layer on it is float32.
    """

    num_classes: int | None = None
    widths: Sequence[int] = (512, 512, 512, 512)
    mapping_layers: int = 8
    embedding_size: int | None = None
    attention: Sequence[int] = ()
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, label: Array | None = None, *, train: bool
    ) -> tuple[Array, dict[str, Array]]:
        _check(self.mapping_layers, self.widths)
        halvings = len(self.widths) - 1
        sizes.check_attention(self.attention, range(1, halvings + 1))
        conv = partial(EqualisedConv, dtype=self.dtype)
        x = sizes.fill_up(x, halvings)
        x = activate(conv(self.widths[0], (1, 1), name="conv_image")(x))
        features = {}
        for stage, width in enumerate(self.widths[1:], start=1):
            x = DownBlock(width, dtype=self.dtype, name=f"block{stage}")(x)
            if stage in self.attention:
                x = SelfAttention(dtype=self.dtype, name=f"attention{stage}")(x, train=train)
            features[f"stage{stage}"] = x
        last = self.widths[-1]
        x = activate(conv(last, (3, 3), name="conv_last")(x))
        phi = activate(EqualisedDense(last, name="dense")(x.reshape(x.shape[0], -1)))
        features["penultimate"] = phi
        if self.num_classes is None:
            return EqualisedDense(1, name="head")(phi)[:, 0], features
        size = self.embedding_size or last
        mapped = Mapping(size, self.mapping_layers, self.num_classes, name="mapping")(None, label)
        output = EqualisedDense(size, name="head")(phi)
        return jnp.sum(output * mapped, axis=-1) * size**-0.5, features
