"""PyTorch twins of generators and discriminators; see `torch_networks`."""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812, the name that everyone knows it by
from torch import Tensor, nn

from jaxnets.models import dcgan

__all__ = [
    "ConditionalBatchNorm",
    "Discriminator",
    "FromImage",
    "Generator",
    "ImageEmbedding",
    "ToImage",
    "TrunkDiscriminator",
    "judge",
]


class Conv(nn.Conv2d):
    """A convolution with JAX's "SAME" padding for images of one size.

    Where that is asymmetric (an odd size and an even stride, say) the part that torch's convolution
    can't express is padded before it; elsewhere nothing is.
    """

    def __init__(
        self, inputs: int, outputs: int, window: int, stride: int, size: Sequence[int], *, bias=True
    ):
        pads = []
        for length in size:
            total = max((-(-length // stride) - 1) * stride + window - length, 0)
            pads.append((total // 2, total - 2 * (total // 2)))
        (top, below), (left, right) = pads
        super().__init__(inputs, outputs, window, stride, (top, left), bias=bias)
        self.rest = (0, right, 0, below) if right or below else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] to [B, C_out, ceil(H / stride), ceil(W / stride)]."""
        return super().forward(x if self.rest is None else F.pad(x, self.rest))


class ConditionalBatchNorm(nn.Module):
    """Batch normalisation with a scale and a shift for each class."""

    def __init__(self, classes: int, channels: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scale = nn.Embedding(classes, channels)
        self.bias = nn.Embedding(classes, channels)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """[B, C, H, W] and labels [B] to [B, C, H, W]."""
        x = self.norm(x)
        scale = (1 + self.scale(label)).to(x.dtype)[:, :, None, None]
        return torch.addcmul(self.bias(label).to(x.dtype)[:, :, None, None], x, scale)


class FromImage(nn.Linear):
    """A linear layer of a flattened image [C, H, W], where Flax flattens [H, W, C]."""

    def __init__(self, image: tuple[int, int, int], outputs: int):
        super().__init__(image[0] * image[1] * image[2], outputs)
        self.image = image


class ToImage(nn.Linear):
    """A linear layer whose result is an image [C, H, W], where Flax has [H, W, C]."""

    def __init__(self, inputs: int, image: tuple[int, int, int], *, bias: bool = False):
        super().__init__(inputs, image[0] * image[1] * image[2], bias=bias)
        self.image = image

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs] to [B, C, H, W]."""
        return super().forward(x).unflatten(1, self.image)


class ImageEmbedding(nn.Embedding):
    """A vector for each class, to be multiplied with a flattened image [C, H, W]."""

    def __init__(self, classes: int, image: tuple[int, int, int]):
        super().__init__(classes, image[0] * image[1] * image[2])
        self.image = image


class Generator(nn.Module):
    """Twin of `jaxnets.models.dcgan.Generator`."""

    def __init__(self, of: dcgan.Generator):
        super().__init__()
        self.height, self.width, channels = of.image_shape
        strides = dcgan._stage_strides(self.height, self.width)[::-1]
        growth = 2 ** strides.count(2)
        start = (-(-self.height // growth), -(-self.width // growth))
        widths = [of.width * min(2**i, 8) for i in reversed(range(len(strides)))]
        self.grows_past = (start[0] * growth, start[1] * growth) != (self.height, self.width)
        classes, inputs = of.num_classes, of.latent_size
        self.conditional = classes is not None
        if classes is not None:
            self.embedding = nn.Embedding(classes, of.embedding_size)
            inputs += of.embedding_size

        def norm(channels: int) -> nn.Module:
            if classes is None:
                return nn.BatchNorm2d(channels)
            return ConditionalBatchNorm(classes, channels)

        self.dense = ToImage(inputs, (widths[0], *start))
        self.norm0 = norm(widths[0])
        self.stages = len(strides) - 1
        for stage in range(1, len(strides)):
            stride = strides[stage - 1]
            self.add_module(
                f"deconv{stage}",
                nn.ConvTranspose2d(
                    widths[stage - 1],
                    widths[stage],
                    4 if stride == 2 else 3,
                    stride,
                    padding=1,
                    bias=False,
                ),
            )
            self.add_module(f"norm{stage}", norm(widths[stage]))
        self.deconv_image = nn.ConvTranspose2d(widths[-1], channels, 4, 2, padding=1)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Latents [B, Z], and labels [B], to images [B, C, H, W] in [-1, 1]."""
        if self.conditional:
            z = torch.cat([z, self.embedding(label)], dim=1)
        x = self._activate(self.dense(z), label, 0)
        for stage in range(1, self.stages + 1):
            x = self._activate(getattr(self, f"deconv{stage}")(x), label, stage)
        x = self.deconv_image(x)
        if self.grows_past:
            x = x[:, :, : self.height, : self.width]
        return torch.tanh(x)

    def _activate(self, x: Tensor, label: Tensor | None, stage: int) -> Tensor:
        norm = getattr(self, f"norm{stage}")
        return F.relu(norm(x, label) if self.conditional else norm(x), inplace=True)


class Discriminator(nn.Module):
    """Twin of `jaxnets.models.dcgan.Discriminator`."""

    def __init__(self, of: dcgan.Discriminator, image_shape: Sequence[int]):
        super().__init__()
        height, width, inputs = image_shape
        strides = dcgan._stage_strides(height, width)
        self.stages = len(strides)
        for stage, stride in enumerate(strides, start=1):
            normalises = of.norm == "batch" and stage > 1
            features = of.width * min(2 ** (stage - 1), 8)
            window = 4 if stride == 2 else 3
            conv = Conv(inputs, features, window, stride, (height, width), bias=not normalises)
            self.add_module(f"conv{stage}", conv)
            norm = nn.BatchNorm2d(features) if normalises else nn.Identity()
            self.add_module(f"norm{stage}", norm)
            height, width, inputs = -(-height // stride), -(-width // stride), features
        image = (inputs, height, width)
        self.head = FromImage(image, 1)
        self.projection = None if of.num_classes is None else ImageEmbedding(of.num_classes, image)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Images [B, C, H, W], and labels [B], to logits [B]."""
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"norm{stage}")(getattr(self, f"conv{stage}")(x))
            x = F.leaky_relu(x, 0.2, inplace=True)
        return judge(self, x.flatten(1), label)


class TrunkDiscriminator(nn.Module):
    """Twin of `jaxnets.models.conditioning.TrunkDiscriminator`."""

    def __init__(self, num_classes: int | None, trunk: Any):
        super().__init__()
        self.trunk = trunk
        size = trunk.penultimate_size
        self.head = nn.Linear(size, 1)
        self.projection = None if num_classes is None else nn.Embedding(num_classes, size)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Images [B, C, H, W], and labels [B], to logits [B]."""
        return judge(self, self.trunk.penultimate(x), label)


def judge(module: Any, phi: Tensor, label: Tensor | None) -> Tensor:
    """Logits [B] of features [B, F]: the head, and for a class its vector times the features."""
    logits = module.head(phi)[:, 0]
    if module.projection is not None:
        logits = logits + (module.projection(label) * phi).sum(1)
    return logits
