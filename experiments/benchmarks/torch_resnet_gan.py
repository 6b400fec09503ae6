"""PyTorch twins of SNGAN-ResNet and its spectral normalisation; see `torch_networks`."""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812, the name that everyone knows it by
from torch import Tensor, nn

from experiments.benchmarks.torch_gans import ConditionalBatchNorm, ToImage, judge
from jaxnets.models import resnet_gan, sizes

__all__ = ["Discriminator", "Generator", "SpectralNorm", "keep_vectors"]


class SpectralNorm(nn.Module):
    """Twin of `jaxnets.spectral.SpectralNorm`: the largest singular value of a layer's kernel.

    torch's own `spectral_norm` moves u and v by half a step of the iteration more, and at every
    pass through the network. Here u moves when `keep_vectors` says so, once a step.
    """

    u: Tensor

    def __init__(self, features: int):
        super().__init__()
        self.register_buffer("u", F.normalize(torch.randn(features), dim=0))
        self.moved: Tensor | None = None

    def forward(self, matrix: Tensor) -> Tensor:
        """The kernel as a matrix [features, ...] to its spectral norm []."""
        with torch.no_grad():
            u = F.normalize(self.u, dim=0)
            v = F.normalize(matrix.t().mv(u), dim=0)
            if self.training:
                u = self.moved = F.normalize(matrix.mv(v), dim=0)
        return torch.dot(u, matrix.mv(v))


def keep_vectors(module: nn.Module) -> None:
    """Lets every u of a network be what its last pass has made of it."""
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, SpectralNorm) and part.moved is not None:
                part.u.copy_(part.moved)


class SpectralConv(nn.Conv2d):
    """A convolution of stride 1 and padding "SAME", its kernel over its spectral norm."""

    def __init__(self, inputs: int, outputs: int, window: int):
        super().__init__(inputs, outputs, window, padding=window // 2)
        self.spectral_norm = SpectralNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] to [B, C_out, H, W]."""
        kernel = self.weight
        # Either is a view; the order of the columns doesn't matter.
        rows = kernel if kernel.is_contiguous() else kernel.permute(0, 2, 3, 1)
        kernel = kernel / self.spectral_norm(rows.flatten(1))
        return F.conv2d(x, kernel, self.bias, padding=self.padding)  # type: ignore[arg-type]


class SpectralLinear(nn.Linear):
    """A linear layer, its kernel over its spectral norm."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs)
        self.spectral_norm = SpectralNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs] to [B, outputs]."""
        return F.linear(x, self.weight / self.spectral_norm(self.weight), self.bias)


class SpectralEmbedding(nn.Embedding):
    """A vector for each class, all of them over their spectral norm as a matrix."""

    def __init__(self, classes: int, size: int):
        super().__init__(classes, size)
        self.spectral_norm = SpectralNorm(size)

    def forward(self, label: Tensor) -> Tensor:
        """Labels [B] to [B, size]."""
        return super().forward(label) / self.spectral_norm(self.weight.t())


class UpBlock(nn.Module):
    """Twin of `jaxnets.models.resnet_gan.UpBlock`."""

    def __init__(self, inputs: int, features: int, classes: int | None):
        super().__init__()
        self.norm1 = _norm(inputs, classes)
        self.conv1 = nn.Conv2d(inputs, features, 3, padding=1, bias=False)
        self.norm2 = _norm(features, classes)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.conv_shortcut = nn.Conv2d(inputs, features, 1, bias=False)

    def forward(self, x: Tensor, label: Tensor | None) -> Tensor:
        """[B, C, H, W] to [B, features, 2 H, 2 W]."""
        y = self.conv1(_double(_norm_relu(self.norm1, x, label)))
        y = self.conv2(_norm_relu(self.norm2, y, label))
        return y.add_(_double(self.conv_shortcut(x)))


class DownBlock(nn.Module):
    """Twin of `jaxnets.models.resnet_gan.DownBlock`."""

    def __init__(self, inputs: int, features: int, *, halve: bool, first: bool):
        super().__init__()
        self.halve, self.first = halve, first
        hidden = features if first else inputs
        self.conv1 = SpectralConv(inputs, hidden, 3)
        self.conv2 = SpectralConv(hidden, features, 3)
        changes = halve or first or inputs != features
        self.conv_shortcut = SpectralConv(inputs, features, 1) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, features, H, W], or half of H and W."""
        y = self.conv1(x if self.first else F.relu(x))
        y = self.conv2(F.relu(y, inplace=True))
        if self.halve:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        return y + self.conv_shortcut(x)


class Generator(nn.Module):
    """Twin of `jaxnets.models.resnet_gan.Generator`."""

    def __init__(self, of: resnet_gan.Generator):
        super().__init__()
        *self.image_size, channels = of.image_shape
        self.blocks = len(of.widths) - 1
        first = sizes.first_size(self.image_size, self.blocks)
        self.dense = ToImage(of.latent_size, (of.widths[0], *first), bias=True)  # type: ignore
        for stage in range(1, self.blocks + 1):
            block = UpBlock(of.widths[stage - 1], of.widths[stage], of.num_classes)
            self.add_module(f"block{stage}", block)
        self.norm_last = _norm(of.widths[-1], of.num_classes)
        self.conv_image = nn.Conv2d(of.widths[-1], channels, 3, padding=1)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Latents [B, Z], and labels [B], to images [B, C, H, W] in [-1, 1]."""
        x = self.dense(z)
        for stage in range(1, self.blocks + 1):
            x = getattr(self, f"block{stage}")(x, label)
        x = self.conv_image(_norm_relu(self.norm_last, x, label))
        return torch.tanh(x[:, :, : self.image_size[0], : self.image_size[1]])


class Discriminator(nn.Module):
    """Twin of `jaxnets.models.resnet_gan.Discriminator`."""

    def __init__(self, of: resnet_gan.Discriminator, image_shape: Sequence[int]):
        super().__init__()
        height, width, inputs = image_shape
        self.missing = (0, -width % 2**of.halvings, 0, -height % 2**of.halvings)
        self.blocks = len(of.widths)
        for stage, features in enumerate(of.widths, start=1):
            block = DownBlock(inputs, features, halve=stage <= of.halvings, first=stage == 1)
            self.add_module(f"block{stage}", block)
            inputs = features
        self.head = SpectralLinear(inputs, 1)
        self.projection = (
            None if of.num_classes is None else SpectralEmbedding(of.num_classes, inputs)
        )

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Images [B, C, H, W], and labels [B], to logits [B]."""
        if any(self.missing):
            x = F.pad(x, self.missing)
        for stage in range(1, self.blocks + 1):
            x = getattr(self, f"block{stage}")(x)
        return judge(self, F.relu(x).sum((2, 3)), label)


def _norm(channels: int, classes: int | None) -> nn.Module:
    return nn.BatchNorm2d(channels) if classes is None else ConditionalBatchNorm(classes, channels)


def _norm_relu(norm: nn.Module, x: Tensor, label: Tensor | None) -> Tensor:
    conditional = isinstance(norm, ConditionalBatchNorm)
    return F.relu(norm(x, label) if conditional else norm(x), inplace=True)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")
