"""LeNet-5, AlexNet and VGG, sized to their input."""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from jaxnets import ops
from jaxnets.nn.layers import BatchNorm, Conv, Dropout, he_normal
from jaxnets.typing import Array

__all__ = ["VGG", "VGGS", "AlexNet", "LeNet5"]


def _flatten(x: Array) -> Array:
    return x.reshape(x.shape[0], -1)


class LeNet5(nn.Module):
    """LeNet-5; features "stage1", "stage2" and "penultimate".

    The classic form, with 61,706 parameters, is that for 28x28 images of one channel and 10
    classes. Images too small for the second convolution's margin have it padded instead.

    Attributes:
      num_classes: K.
      widths: channels of the convolutions, then units of the hidden layers.
      dropout: rate before the last layer.
      dtype: compute type.

    Reference: LeCun et al. 1998, https://doi.org/10.1109/5.726791
    """

    num_classes: int
    widths: Sequence[int] = (6, 16, 120, 84)
    dropout: float = 0.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, dict[str, Array]]:
        """Maps images [B, H, W, C] of at least 4x4 to logits [B, K] float32 and features."""
        x = nn.tanh(Conv(self.widths[0], (5, 5), dtype=self.dtype, name="conv1")(x))
        x = ops.avg_pool(x, (2, 2))
        features = {"stage1": x}
        padding = "VALID" if min(x.shape[1:3]) >= 6 else "SAME"
        x = Conv(self.widths[1], (5, 5), padding=padding, dtype=self.dtype, name="conv2")(x)
        x = features["stage2"] = ops.avg_pool(nn.tanh(x), (2, 2))
        x = _flatten(x)
        x = nn.tanh(nn.Dense(self.widths[2], dtype=self.dtype, name="dense1")(x))
        x = nn.tanh(nn.Dense(self.widths[3], dtype=self.dtype, name="dense2")(x))
        features["penultimate"] = x.astype(jnp.float32)
        x = Dropout(self.dropout)(features["penultimate"], train=train)
        return nn.Dense(self.num_classes, name="head")(x), features


class AlexNet(nn.Module):
    """AlexNet in its one-tower form; features "stage1" to "stage3" and "penultimate".

    Attributes:
      num_classes: K.
      widths: channels of the five convolutions.
      hidden: units of the two hidden layers.
      large_stem: the published 11x11 convolution with stride 4 and overlapping pools, in place
        of a 5x5 convolution without stride and pools of 2 for small images.
      dropout: rate before each of the linear layers but the last.
      dtype: compute type.

    Reference: Krizhevsky 2014, https://arxiv.org/abs/1404.5997
    """

    num_classes: int
    widths: Sequence[int] = (64, 192, 384, 256, 256)
    hidden: int = 1024
    large_stem: bool = False
    dropout: float = 0.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, dict[str, Array]]:
        """Maps images [B, H, W, C] to logits [B, K] float32 and features."""
        conv = partial(Conv, kernel_init=he_normal, dtype=self.dtype)
        dense = partial(nn.Dense, kernel_init=he_normal, dtype=self.dtype)
        window, strides = ((3, 3), (2, 2)) if self.large_stem else ((2, 2), (2, 2))
        pool = partial(ops.max_pool, window=window, strides=strides)
        if self.large_stem:
            stem = conv(self.widths[0], (11, 11), 4, [(2, 2), (2, 2)], name="conv1")
        else:
            stem = conv(self.widths[0], (5, 5), name="conv1")
        features = {}
        x = features["stage1"] = pool(nn.relu(stem(x)))
        x = nn.relu(conv(self.widths[1], (5, 5), name="conv2")(x))
        x = features["stage2"] = pool(x)
        for index, width in enumerate(self.widths[2:], start=3):
            x = nn.relu(conv(width, (3, 3), name=f"conv{index}")(x))
        x = features["stage3"] = pool(x)
        x = Dropout(self.dropout, name="dropout1")(_flatten(x), train=train)
        x = nn.relu(dense(self.hidden, name="dense1")(x))
        x = Dropout(self.dropout, name="dropout2")(x, train=train)
        x = nn.relu(dense(self.hidden, name="dense2")(x))
        features["penultimate"] = x.astype(jnp.float32)
        return nn.Dense(self.num_classes, name="head")(features["penultimate"]), features


class VGG(nn.Module):
    """VGG with batch normalisation and one linear layer; features "stage1"... and "penultimate".

    A stage ends in a pool of 2, left out where one row or column is left: 28 pixels end, as 32
    do, in a single place.

    Attributes:
      num_classes: K.
      stages: for each stage, the channels of its 3x3 convolutions.
      dropout: rate before the last layer.
      dtype: compute type.

    Reference: Simonyan and Zisserman 2014, https://arxiv.org/abs/1409.1556
    """

    num_classes: int
    stages: Sequence[Sequence[int]]
    dropout: float = 0.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, dict[str, Array]]:
        """Maps images [B, H, W, C] to logits [B, K] float32 and features."""
        conv = partial(
            Conv, kernel_size=(3, 3), use_bias=False, kernel_init=he_normal, dtype=self.dtype
        )
        features = {}
        for stage, widths in enumerate(self.stages, start=1):
            for index, width in enumerate(widths, start=1):
                layer = conv(width, name=f"stage{stage}_conv{index}")
                norm = BatchNorm(dtype=self.dtype, name=f"stage{stage}_norm{index}")
                x = norm(x, train=train, conv=layer, act=nn.relu)
            if min(x.shape[1:3]) >= 2:
                x = ops.max_pool(x, (2, 2))
            features[f"stage{stage}"] = x
        # Larger images than 32 pixels leave several places; their mean fits any size.
        features["penultimate"] = x.astype(jnp.float32).mean((1, 2))
        x = Dropout(self.dropout)(features["penultimate"], train=train)
        return nn.Dense(self.num_classes, name="head")(x), features


#: name -> for each stage, the channels of its convolutions.
VGGS: dict[str, tuple[tuple[int, ...], ...]] = {
    "vgg11": ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    "vgg16": ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3),
}
