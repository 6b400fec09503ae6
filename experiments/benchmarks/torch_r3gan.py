"""PyTorch twins of R3GAN's generator and discriminator; see `torch_networks`."""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812, the name that everyone knows it by
from torch import Tensor, nn

from jaxnets.models import r3gan, sizes

__all__ = ["Discriminator", "Generator"]

_SLOPE = 0.2


class Block(nn.Module):
    """Twin of `jaxnets.models.r3gan.Block`."""

    def __init__(self, channels: int):
        super().__init__()
        wide = r3gan._EXPANSION * channels
        self.conv1 = nn.Conv2d(channels, wide, 1)
        self.conv2 = nn.Conv2d(wide, wide, 3, padding=1, groups=wide // r3gan._GROUP)
        self.conv3 = nn.Conv2d(wide, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        y = F.leaky_relu(self.conv1(x), _SLOPE, inplace=True)
        y = F.leaky_relu(self.conv2(y), _SLOPE, inplace=True)
        return self.conv3(y).add_(x)


class Filter(nn.Module):
    """The filter [1, 3, 3, 1] along both axes, each channel for itself."""

    taps: Tensor

    def __init__(self):
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("taps", taps.outer(taps)[None, None], persistent=False)

    def halve(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, H / 2, W / 2]."""
        channels = x.shape[1]
        taps = self.taps.expand(channels, 1, 4, 4)
        return F.conv2d(x, taps, stride=2, padding=1, groups=channels)

    def double(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, 2 H, 2 W]."""
        channels = x.shape[1]
        taps = (4 * self.taps).expand(channels, 1, 4, 4)
        return F.conv_transpose2d(x, taps, stride=2, padding=1, groups=channels)


class Generator(nn.Module):
    """Twin of `jaxnets.models.r3gan.Generator`."""

    def __init__(self, of: r3gan.Generator):
        super().__init__()
        *self.image_size, channels = of.image_shape
        self.stages, self.blocks = len(of.widths), of.blocks
        first = sizes.first_size(self.image_size, self.stages - 1)
        inputs, self.conditional = of.latent_size, of.num_classes is not None
        if of.num_classes is not None:
            self.embedding = nn.Embedding(of.num_classes, of.embedding_size)
            inputs += of.embedding_size
        self.dense = nn.Linear(inputs, of.widths[0], bias=False)
        self.basis = nn.Parameter(torch.randn(1, of.widths[0], *first))
        self.filter = Filter()
        _add_stages(self, of.widths, of.blocks, first=0)
        self.conv_image = nn.Conv2d(of.widths[-1], channels, 1, bias=False)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Latents [B, Z], and labels [B], to images [B, C, H, W]."""
        if self.conditional:
            z = torch.cat([z, self.embedding(label)], dim=1)
        x = self.basis * self.dense(z)[:, :, None, None]
        for stage in range(self.stages):
            if stage > 0:
                x = self.filter.double(getattr(self, f"stage{stage}_conv")(x))
            for index in range(1, self.blocks + 1):
                x = getattr(self, f"stage{stage}_block{index}")(x)
        x = self.conv_image(x)
        return x[:, :, : self.image_size[0], : self.image_size[1]]


class Discriminator(nn.Module):
    """Twin of `jaxnets.models.r3gan.Discriminator`."""

    def __init__(self, of: r3gan.Discriminator, image_shape: Sequence[int]):
        super().__init__()
        *image_size, channels = image_shape
        self.stages, self.blocks = len(of.widths), of.blocks
        growth = 2 ** (self.stages - 1)
        height, width = sizes.first_size(image_size, self.stages - 1)
        self.missing = (0, width * growth - image_size[1], 0, height * growth - image_size[0])
        self.filter = Filter()
        self.conv_image = nn.Conv2d(channels, of.widths[0], 1, bias=False)
        _add_stages(self, of.widths, of.blocks, first=1)
        self.basis = nn.Parameter(torch.randn(1, of.widths[-1], height, width))
        size = 1 if of.num_classes is None else of.embedding_size or of.widths[-1]
        self.head = nn.Linear(of.widths[-1], size, bias=False)
        self.embedding = None if of.num_classes is None else nn.Embedding(of.num_classes, size)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Images [B, C, H, W], and labels [B], to logits [B]."""
        if any(self.missing):
            x = F.pad(x, self.missing)
        x = self.conv_image(x)
        for stage in range(1, self.stages + 1):
            if stage > 1:
                x = getattr(self, f"stage{stage}_conv")(self.filter.halve(x))
            for index in range(1, self.blocks + 1):
                x = getattr(self, f"stage{stage}_block{index}")(x)
        judged = self.head((x * self.basis).sum((2, 3)))
        return judged[:, 0] if self.embedding is None else (judged * self.embedding(label)).sum(1)


def _add_stages(module: nn.Module, widths: Sequence[int], blocks: int, *, first: int) -> None:
    """Blocks, and between stages of different widths a convolution, as R3GAN names them."""
    for stage, width in enumerate(widths, start=first):
        if stage > first:
            before = widths[stage - first - 1]
            changes = before != width
            between = nn.Conv2d(before, width, 1, bias=False) if changes else nn.Identity()
            module.add_module(f"stage{stage}_conv", between)
        for index in range(1, blocks + 1):
            module.add_module(f"stage{stage}_block{index}", Block(width))
