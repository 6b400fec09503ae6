"""EfficientNet-Lite: inverted residual blocks for image classification on small machines."""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from jaxnets.models.pixels import LITE, Pixels, standardise
from jaxnets.nn.layers import BatchNorm, Conv, Dropout, global_mean, he_normal
from jaxnets.typing import Array

__all__ = ["LITE0", "EfficientNetLite", "InvertedBlock", "Row"]

#: Window of the depthwise convolution, its stride in the first block of the stage, factor by which
#: a block widens inside, channels that it puts out, number of blocks.
Row = tuple[int, int, int, int, int]

#: The stages of EfficientNet-Lite0, which are those of EfficientNet-B0.
LITE0: tuple[Row, ...] = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)

_conv = partial(Conv, use_bias=False, kernel_init=he_normal)
# As published: a momentum for steps of thousands of images. The epsilon is part of the weights.
_norm = partial(BatchNorm, momentum=0.99, epsilon=1e-3)


class InvertedBlock(nn.Module):
    """Widens by a 1x1 convolution, filters each channel alone, narrows by a 1x1 convolution.

    The input is added where it has the output's shape. Nothing follows the last normalisation.

    Attributes:
      features: channels of the output.
      window: side of the depthwise convolution.
      stride: of the depthwise convolution.
      expand: factor by which the channels are widened; at 1 the first convolution is left out.
      dtype: compute type.

    Reference: Sandler et al. 2018, https://arxiv.org/abs/1801.04381
    """

    features: int
    window: int = 3
    stride: int = 1
    expand: int = 6
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        conv, norm = partial(_conv, dtype=self.dtype), partial(_norm, dtype=self.dtype)
        y, inner = x, x.shape[-1] * self.expand
        if self.expand > 1:
            expand = conv(inner, (1, 1), name="conv_expand")
            y = norm(name="norm_expand")(y, train=train, conv=expand, act=nn.relu6)
        window = (self.window, self.window)
        each = conv(inner, window, self.stride, feature_group_count=inner, name="conv_depthwise")
        y = norm(name="norm_depthwise")(y, train=train, conv=each, act=nn.relu6)
        project = conv(self.features, (1, 1), name="conv_project")
        add = x if x.shape[-1] == self.features and self.stride == 1 else None
        return norm(name="norm_project")(y, train=train, conv=project, add=add)


class EfficientNetLite(nn.Module):
    """EfficientNet without squeeze-and-excitation and with ReLU6.

    Features "stem", "stage1" to "stage7" and "penultimate". The image is halved five times, each
    time rounded up, so that images of any size fit.

    Attributes:
      num_classes: K.
      rows: of the stages.
      stem: channels of the first convolution, 3x3 with stride 2.
      last: channels of the last convolution, 1x1.
      dropout: rate before the last layer.
      pixels: how the published weights expect images.
      dtype: compute type.

    Reference: Tan and Le 2019, https://arxiv.org/abs/1905.11946; Lite is of the same authors' code,
      https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
    """

    num_classes: int
    rows: Sequence[Row] = LITE0
    stem: int = 32
    last: int = 1280
    dropout: float = 0.0
    pixels: Pixels = LITE
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, dict[str, Array]]:
        """Maps images [B, H, W, C] in [-1, 1] to logits [B, K] float32 and features."""
        conv, norm = partial(_conv, dtype=self.dtype), partial(_norm, dtype=self.dtype)
        stem, x = conv(self.stem, (3, 3), 2, name="conv_stem"), standardise(x, self.pixels)
        x = norm(name="norm_stem")(x, train=train, conv=stem, act=nn.relu6)
        features = {"stem": x}
        for stage, (window, stride, expand, width, count) in enumerate(self.rows, start=1):
            for index in range(count):
                block = InvertedBlock(
                    width,
                    window,
                    1 if index else stride,
                    expand,
                    dtype=self.dtype,
                    name=f"stage{stage}_block{index + 1}",
                )
                x = block(x, train=train)
            features[f"stage{stage}"] = x
        last = conv(self.last, (1, 1), name="conv_last")
        x = norm(name="norm_last")(x, train=train, conv=last, act=nn.relu6)
        features["penultimate"] = global_mean(x)
        x = Dropout(self.dropout)(features["penultimate"], train=train)
        return nn.Dense(self.num_classes, name="head")(x), features
