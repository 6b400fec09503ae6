"""Residual networks for small and large images."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from jaxnets import ops
from jaxnets.models.pixels import Pixels, standardise
from jaxnets.nn.layers import BatchNorm, Conv, Dropout, global_mean, he_normal
from jaxnets.typing import Array

__all__ = [
    "RESNETS",
    "WIDE_RESNETS",
    "BasicBlock",
    "Bottleneck",
    "PreActivationBlock",
    "ResNet",
    "WideResNet",
]


_conv = partial(Conv, use_bias=False, kernel_init=he_normal)


class BasicBlock(nn.Module):
    """relu(shortcut(x) + norm(conv(relu(norm(conv(x)))))) with 3x3 convolutions."""

    features: int
    stride: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        conv = partial(_conv, dtype=self.dtype)
        norm = partial(BatchNorm, dtype=self.dtype)
        first = conv(self.features, (3, 3), self.stride, [(1, 1), (1, 1)], name="conv1")
        y = norm(name="norm1")(x, train=train, conv=first, act=nn.relu)
        if x.shape != y.shape:
            shortcut = conv(self.features, (1, 1), self.stride, "VALID", name="conv_shortcut")
            x = norm(name="norm_shortcut")(x, train=train, conv=shortcut)
        # A block starts as the identity: Goyal et al. 2017, https://arxiv.org/abs/1706.02677
        last = norm(name="norm2", scale_init=nn.initializers.zeros)
        second = conv(self.features, (3, 3), name="conv2")
        return last(y, train=train, conv=second, add=x, act=nn.relu)


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided) and 1x1 convolutions beside a shortcut; 4 * features channels out."""

    features: int
    stride: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        conv = partial(_conv, dtype=self.dtype)
        norm = partial(BatchNorm, dtype=self.dtype)
        features = 4 * self.features
        first = conv(self.features, (1, 1), name="conv1")
        y = norm(name="norm1")(x, train=train, conv=first, act=nn.relu)
        second = conv(self.features, (3, 3), self.stride, [(1, 1), (1, 1)], name="conv2")
        y = norm(name="norm2")(y, train=train, conv=second, act=nn.relu)
        if x.shape != (*y.shape[:-1], features):
            shortcut = conv(features, (1, 1), self.stride, "VALID", name="conv_shortcut")
            x = norm(name="norm_shortcut")(x, train=train, conv=shortcut)
        last = norm(name="norm3", scale_init=nn.initializers.zeros)
        return last(y, train=train, conv=conv(features, (1, 1), name="conv3"), add=x, act=nn.relu)


class ResNet(nn.Module):
    """Residual network; features "stem", "stage1", "stage2", ... and "penultimate".

    Attributes:
      num_classes: K.
      blocks: number of blocks in each stage; every stage but the first halves the image.
      widths: channels of each stage (a `Bottleneck` puts out four times as many).
      block: `BasicBlock` or `Bottleneck`.
      large_stem: 7x7 convolution with stride 2 and max-pooling, as for ImageNet, in place of one
        3x3 convolution that keeps the size of small images.
      dropout: rate before the last layer.
      pixels: what images are standardised by; None takes them as they are.
      dtype: compute type.

    Reference: He et al. 2015, https://arxiv.org/abs/1512.03385
    """

    num_classes: int
    blocks: Sequence[int] = (2, 2, 2, 2)
    widths: Sequence[int] = (64, 128, 256, 512)
    block: Callable[..., Any] = BasicBlock
    large_stem: bool = False
    dropout: float = 0.0
    pixels: Pixels | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, dict[str, Array]]:
        """Maps images [B, H, W, C] in [-1, 1] to logits [B, K] float32 and features."""
        window, stride = ((7, 7), 2) if self.large_stem else ((3, 3), 1)
        padding = [(size // 2, size // 2) for size in window]
        stem = _conv(self.widths[0], window, stride, padding, dtype=self.dtype, name="conv_stem")
        norm, x = BatchNorm(dtype=self.dtype, name="norm_stem"), standardise(x, self.pixels)
        x = norm(x, train=train, conv=stem, act=nn.relu)
        if self.large_stem:
            x = ops.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])
        features = {"stem": x}
        for stage, (count, width) in enumerate(zip(self.blocks, self.widths, strict=True), start=1):
            for index in range(count):
                stride = 2 if stage > 1 and index == 0 else 1
                name = f"stage{stage}_block{index + 1}"
                x = self.block(width, stride, dtype=self.dtype, name=name)(x, train=train)
            features[f"stage{stage}"] = x
        features["penultimate"] = global_mean(x)
        x = Dropout(self.dropout)(features["penultimate"], train=train)
        return nn.Dense(self.num_classes, name="head")(x), features


class PreActivationBlock(nn.Module):
    """x + conv(relu(norm(conv(relu(norm(x)))))), the block of wide residual networks."""

    features: int
    stride: int = 1
    dropout: float = 0.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        conv = partial(_conv, dtype=self.dtype)
        norm = partial(BatchNorm, dtype=self.dtype)
        y = nn.relu(norm(name="norm1")(x, train=train))
        if x.shape[-1] != self.features or self.stride != 1:
            x = conv(self.features, (1, 1), self.stride, "VALID", name="conv_shortcut")(y)
        y = conv(self.features, (3, 3), self.stride, [(1, 1), (1, 1)], name="conv1")(y)
        y = nn.relu(norm(name="norm2")(y, train=train))
        y = Dropout(self.dropout)(y, train=train)
        # The last *convolution* starts at zero here. A zero scale in norm2, which comes before a
        # ReLU, would get no gradient: the ReLU's derivative at 0 is 0.
        return x + conv(self.features, (3, 3), kernel_init=nn.initializers.zeros, name="conv2")(y)


class WideResNet(nn.Module):
    """Wide residual network; features "stem", "stage1" to "stage3" and "penultimate".

    Attributes:
      num_classes: K.
      depth: number of layers, 6 n + 4.
      widths: channels of the stem and of the three stages.
      dropout: rate between the convolutions of each block.
      dtype: compute type.

    Reference: Zagoruyko and Komodakis 2016, https://arxiv.org/abs/1605.07146
    """

    num_classes: int
    depth: int = 28
    widths: Sequence[int] = (16, 160, 320, 640)
    dropout: float = 0.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, dict[str, Array]]:
        """Maps images [B, H, W, C] to logits [B, K] float32 and features."""
        if (self.depth - 4) % 6:
            raise ValueError(f"the depth of a wide ResNet is 6 n + 4, got {self.depth}")
        x = _conv(self.widths[0], (3, 3), dtype=self.dtype, name="conv_stem")(x)
        block = partial(PreActivationBlock, dropout=self.dropout, dtype=self.dtype)
        features = {"stem": x}
        for stage, width in enumerate(self.widths[1:], start=1):
            for index in range((self.depth - 4) // 6):
                stride = 2 if stage > 1 and index == 0 else 1
                name = f"stage{stage}_block{index + 1}"
                x = block(width, stride, name=name)(x, train=train)
            features[f"stage{stage}"] = x
        x = nn.relu(BatchNorm(dtype=self.dtype, name="norm_last")(x, train=train))
        features["penultimate"] = global_mean(x)
        return nn.Dense(self.num_classes, name="head")(features["penultimate"]), features


#: name -> blocks of each stage, widths of the stages, kind of block.
RESNETS: dict[str, tuple[tuple[int, ...], tuple[int, ...], type[nn.Module]]] = {
    "resnet_3x2": ((2, 2, 2), (32, 64, 128), BasicBlock),
    "resnet18": ((2, 2, 2, 2), (64, 128, 256, 512), BasicBlock),
    "resnet34": ((3, 4, 6, 3), (64, 128, 256, 512), BasicBlock),
    "resnet50": ((3, 4, 6, 3), (64, 128, 256, 512), Bottleneck),
}

#: name -> depth, widening factor.
WIDE_RESNETS: dict[str, tuple[int, int]] = {
    "wide_resnet_16_4": (16, 4),
    "wide_resnet_28_10": (28, 10),
}
