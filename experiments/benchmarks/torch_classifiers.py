"""PyTorch twins of the classifiers; see `torch_networks`."""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F  # noqa: N812, the name that everyone knows it by
from torch import Tensor, nn

from jaxnets.models import resnet, speed_net

__all__ = ["ResNet", "ShiftNorm", "SpeedNet"]


class ShiftNorm(nn.BatchNorm2d):
    """Batch normalisation with a learned shift and no learned scale."""

    def __init__(self, channels: int, *, momentum: float):
        super().__init__(channels, momentum=momentum)
        self.weight.requires_grad_(False)


class BasicBlock(nn.Module):
    """Twin of `jaxnets.models.resnet.BasicBlock`."""

    expansion = 1

    def __init__(self, inputs: int, features: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, features, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(features)
        _shortcut(self, inputs, features, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] to [B, C, H / stride, W / stride]."""
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        return F.relu(y.add_(_through(self, x)), inplace=True)


class Bottleneck(nn.Module):
    """Twin of `jaxnets.models.resnet.Bottleneck`."""

    expansion = 4

    def __init__(self, inputs: int, features: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, features, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(features)
        self.conv3 = nn.Conv2d(features, 4 * features, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(4 * features)
        _shortcut(self, inputs, 4 * features, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] to [B, 4 C, H / stride, W / stride]."""
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = F.relu(self.norm2(self.conv2(y)), inplace=True)
        y = self.norm3(self.conv3(y))
        return F.relu(y.add_(_through(self, x)), inplace=True)


def _shortcut(block: Any, inputs: int, outputs: int, stride: int) -> None:
    block.projects = stride != 1 or inputs != outputs
    if block.projects:
        block.conv_shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        block.norm_shortcut = nn.BatchNorm2d(outputs)


def _through(block: Any, x: Tensor) -> Tensor:
    return block.norm_shortcut(block.conv_shortcut(x)) if block.projects else x


class ResNet(nn.Module):
    """Twin of `jaxnets.models.resnet.ResNet`."""

    def __init__(self, of: resnet.ResNet, image_shape: Sequence[int]):
        super().__init__()
        height, width, channels = image_shape
        block: Any = {resnet.BasicBlock: BasicBlock, resnet.Bottleneck: Bottleneck}[of.block]
        stem = (7, 2, 3) if of.large_stem else (3, 1, 1)
        self.conv_stem = nn.Conv2d(channels, of.widths[0], *stem, bias=False)
        self.norm_stem = nn.BatchNorm2d(of.widths[0])
        # "SAME" for a window of 3 and a stride of 2: an even size is padded on one side only,
        # which `ceil_mode` does for free.
        self.pool = None
        if of.large_stem:
            odd = tuple(-(-size // 2) % 2 for size in (height, width))
            self.pool = nn.MaxPool2d(3, 2, padding=odd, ceil_mode=True)
        self.order, inputs = [], of.widths[0]
        for stage, (count, features) in enumerate(zip(of.blocks, of.widths, strict=True), start=1):
            for index in range(count):
                stride = 2 if stage > 1 and index == 0 else 1
                name = f"stage{stage}_block{index + 1}"
                self.add_module(name, block(inputs, features, stride))
                self.order.append(name)
                inputs = features * block.expansion
        self.penultimate_size = inputs
        self.head = nn.Linear(inputs, of.num_classes)

    def penultimate(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] to features [B, F]."""
        x = F.relu(self.norm_stem(self.conv_stem(x)), inplace=True)
        if self.pool is not None:
            x = self.pool(x)
        for name in self.order:
            x = getattr(self, name)(x)
        return x.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] to logits [B, K]."""
        return self.head(self.penultimate(x))


class SpeedBlock(nn.Module):
    """Twin of `jaxnets.models.speed_net.SpeedBlock`."""

    def __init__(self, inputs: int, features: int, *, pools: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, features, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2) if pools else nn.Identity()
        self.norm1 = ShiftNorm(features, momentum=0.4)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.norm2 = ShiftNorm(features, momentum=0.4)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] to [B, C, H / 2, W / 2] (H, W where it does not pool)."""
        x = F.gelu(self.norm1(self.pool(self.conv1(x))), approximate="tanh")
        return F.gelu(self.norm2(self.conv2(x)), approximate="tanh")


class SpeedNet(nn.Module):
    """Twin of `jaxnets.models.speed_net.SpeedNet`."""

    def __init__(self, of: speed_net.SpeedNet, image_shape: Sequence[int]):
        super().__init__()
        height, width, channels = image_shape
        self.whitening = nn.Conv2d(channels, 8 * channels, 2)
        self.whitening.weight.requires_grad_(False)
        size, inputs, self.order = min(height, width) - 1, 8 * channels, []
        for stage, features in enumerate(of.widths, start=1):
            pools = size >= 6
            self.add_module(f"block{stage}", SpeedBlock(inputs, features, pools=pools))
            self.order.append(f"block{stage}")
            size, inputs = size // 2 if pools else size, features
        self.penultimate_size = inputs
        self.head = nn.Linear(inputs, of.num_classes, bias=False)

    def penultimate(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] to features [B, F]."""
        x = F.gelu(self.whitening(x), approximate="tanh")
        for name in self.order:
            x = getattr(self, name)(x)
        return x.amax((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] to logits [B, K]."""
        return self.head(self.penultimate(x)) / 9.0
