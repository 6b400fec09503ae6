"""The library's networks once more, in PyTorch: what a benchmark holds them against.

Layer for layer the same function as the Flax module, with the same names, on layers that are made
of its variables; activations work in place. Imports torch at its top, so it is imported late.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812, the name that everyone knows it by
from torch import Tensor, nn

from experiments.benchmarks.torch_layers import Layers, norm_relu
from jaxnets.errors import UserError
from jaxnets.models import (
    conditioning,
    dcgan,
    efficientnet,
    r3gan,
    resnet,
    resnet_gan,
    sizes,
    speed_net,
)

__all__ = ["make_twin"]

#: What `make_twin` can make a twin of, for error messages.
TWINS = (
    "resnet_3x2, resnet18, resnet34, resnet50, efficientnet_lite0, speed_net, dcgan, sngan and "
    "r3gan"
)

#: (layers, inputs) -> output.
Function = Callable[..., Tensor]

#: Linear layers that make an image or are fed with one -> (H, W).
Images = Mapping[str, Sequence[int]]

_relu = partial(F.relu, inplace=True)
_relu6 = partial(F.relu6, inplace=True)
_leaky = partial(F.leaky_relu, negative_slope=0.2, inplace=True)
_gelu = partial(F.gelu, approximate="tanh")
_double = partial(F.interpolate, scale_factor=2, mode="nearest")


def make_twin(module: Any, variables: Mapping[str, Any], image_shape: Sequence[int]) -> nn.Module:
    """The torch module that computes what a Flax module of this library does.

    Args:
      module: a `ResNet`, `EfficientNetLite` or `SpeedNet`, a generator or discriminator of one of
        the GAN families, or a `TrunkDiscriminator` on one of the first three; without dropout and
        self-attention.
      variables: its weights: collections -> trees, as `Net.variables` has them.
      image_shape: (H, W, C) of the images that it takes or makes.

    Returns:
      A module in training mode, from images [B, C, H, W] (or latents [B, Z]), and labels [B], to
      logits (or images).

    Raises:
      UserError: if it has no twin.
    """
    for part in (module, getattr(module, "trunk", module)):
        if getattr(part, "dropout", 0.0):
            raise UserError("the PyTorch twins have no dropout; leave it at 0 to compare")
        if getattr(part, "attention", ()):
            raise UserError("the PyTorch twins have no self-attention; leave it out to compare")
        if type(part) not in TWINS_OF:
            raise UserError(f"{type(part).__name__} has no PyTorch twin; choose from {TWINS}")
    function, images = TWINS_OF[type(module)](module, tuple(image_shape))
    twin = _Twin(function, images, variables)
    if isinstance(module, efficientnet.EfficientNetLite):
        for part in twin.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.momentum, part.eps = 0.01, 1e-3
    return twin


class _Twin(Layers):
    """A function of some layers."""

    def __init__(self, function: Function, images: Images, variables: Mapping[str, Any]):
        state = _merged([tree for name, tree in variables.items() if name != "params"])
        super().__init__(variables["params"], state, images)
        self.function = function
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8  # of R3GAN, along either axis
        self.register_buffer("taps", taps.outer(taps)[None, None], persistent=False)

    def forward(self, *inputs: Tensor | None) -> Tensor:
        return self.function(self, *inputs)


def _merged(trees: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for tree in trees:
        for name, value in tree.items():
            nested = isinstance(value, Mapping)
            found[name] = _merged([found.get(name, {}), value]) if nested else value
    return found


def _standardised(x: Tensor, pixels: Any) -> Tensor:
    if pixels is None:
        return x
    mean, std = (x.new_tensor(each)[:, None, None] for each in (pixels.mean, pixels.std))
    return (x - (2 * mean - 1)) / (2 * std)


def _resnet(of: Any) -> Function:
    """Images to penultimate features."""
    large_stem, blocks = of.large_stem, tuple(of.blocks)
    block = {resnet.BasicBlock: _basic_block, resnet.Bottleneck: _bottleneck}[of.block]

    def penultimate(net: Any, x: Tensor) -> Tensor:
        x = _standardised(x, of.pixels)
        x = _relu(net.norm_stem(net.conv_stem(x, 2, 3) if large_stem else net.conv_stem(x)))
        if large_stem:
            x = F.max_pool2d(x, 3, 2, padding=1)
        for stage, count in enumerate(blocks, start=1):
            for index in range(1, count + 1):
                stride = 2 if stage > 1 and index == 1 else 1
                x = block(getattr(net, f"stage{stage}_block{index}"), x, stride)
        return x.mean((2, 3))

    return penultimate


def _basic_block(block: Any, x: Tensor, stride: int) -> Tensor:
    y = _relu(block.norm1(block.conv1(x, stride, 1)))
    y = block.norm2(block.conv2(y))
    return _relu(y.add_(_projected(block, x, stride)))


def _bottleneck(block: Any, x: Tensor, stride: int) -> Tensor:
    y = _relu(block.norm1(block.conv1(x)))
    y = _relu(block.norm2(block.conv2(y, stride, 1)))
    y = block.norm3(block.conv3(y))
    return _relu(y.add_(_projected(block, x, stride)))


def _projected(block: Any, x: Tensor, stride: int) -> Tensor:
    if not hasattr(block, "conv_shortcut"):
        return x
    return block.norm_shortcut(block.conv_shortcut(x, stride, 0))


def _speed_net(of: Any) -> Function:
    """Images to penultimate features."""
    stages = len(of.widths)

    def penultimate(net: Any, x: Tensor) -> Tensor:
        x = _gelu(net.whitening(x, padding=0))
        for stage in range(1, stages + 1):
            block = getattr(net, f"block{stage}")
            x = block.conv1(x)
            x = F.max_pool2d(x, 2) if min(x.shape[2], x.shape[3]) >= 6 else x
            x = _gelu(block.norm1(x))
            x = _gelu(block.norm2(block.conv2(x)))
        return x.amax((2, 3))

    return penultimate


def _efficientnet(of: Any) -> Function:
    """Images to penultimate features."""
    rows = tuple(of.rows)

    def block(net: Any, x: Tensor, stride: int) -> Tensor:
        y = _relu6(net.norm_expand(net.conv_expand(x))) if hasattr(net, "conv_expand") else x
        y = _relu6(net.norm_depthwise(net.conv_depthwise(y, stride)))
        y = net.norm_project(net.conv_project(y))
        return y.add_(x) if x.shape == y.shape and stride == 1 else y

    def penultimate(net: Any, x: Tensor) -> Tensor:
        x = _relu6(net.norm_stem(net.conv_stem(_standardised(x, of.pixels), 2)))
        for stage, (_, stride, _, _, count) in enumerate(rows, start=1):
            for index in range(1, count + 1):
                x = block(
                    getattr(net, f"stage{stage}_block{index}"), x, stride if index == 1 else 1
                )
        return _relu6(net.norm_last(net.conv_last(x))).mean((2, 3))

    return penultimate


#: Networks that a discriminator may have as its trunk -> (features of it, factor of its logits).
_TRUNKS = {
    resnet.ResNet: (_resnet, 1.0),
    efficientnet.EfficientNetLite: (_efficientnet, 1.0),
    speed_net.SpeedNet: (_speed_net, 1 / 9),
}


def _classifier(of: Any, image_shape: Sequence[int]) -> tuple[Function, Images]:
    make, factor = _TRUNKS[type(of)]
    penultimate = make(of)

    def logits(net: Any, x: Tensor) -> Tensor:
        scores = net.head(penultimate(net, x))
        return scores if factor == 1 else scores * factor

    return logits, {}


def _trunk(of: Any, image_shape: Sequence[int]) -> tuple[Function, Images]:
    penultimate = _TRUNKS[type(of.trunk)][0](of.trunk)

    def logits(net: Any, x: Tensor, label: Tensor | None = None) -> Tensor:
        return _judged(net, penultimate(net.trunk, x), label)

    return logits, {}


def _judged(net: Any, phi: Tensor, label: Tensor | None) -> Tensor:
    """Logits [B] of features [B, F]: the head, and for a class its vector times the features."""
    logits = net.head(phi)[:, 0]
    return logits if label is None else logits + (net.projection(label) * phi).sum(1)


def _dcgan_generator(of: Any, image_shape: Sequence[int]) -> tuple[Function, Images]:
    height, width, _ = of.image_shape
    strides = dcgan._stage_strides(height, width)[::-1]
    start = sizes.first_size((height, width), strides.count(2))

    def images(net: Any, z: Tensor, label: Tensor | None = None) -> Tensor:
        z = z if label is None else torch.cat([z, net.embedding(label)], dim=1)
        x = norm_relu(net.norm0, net.dense(z).unflatten(1, (-1, *start)), label)
        for stage, stride in enumerate(strides[:-1], start=1):
            x = getattr(net, f"deconv{stage}")(x, stride)
            x = norm_relu(getattr(net, f"norm{stage}"), x, label)
        return torch.tanh(net.deconv_image(x, strides[-1])[:, :, :height, :width])

    return images, {"dense": start}


def _dcgan_discriminator(of: Any, image_shape: Sequence[int]) -> tuple[Function, Images]:
    strides = dcgan._stage_strides(*image_shape[:2])

    def logits(net: Any, x: Tensor, label: Tensor | None = None) -> Tensor:
        for stage, stride in enumerate(strides, start=1):
            x = getattr(net, f"conv{stage}")(x, stride)
            x = _leaky(getattr(net, f"norm{stage}")(x) if hasattr(net, f"norm{stage}") else x)
        return _judged(net, x.flatten(1), label)

    last = sizes.first_size(image_shape[:2], strides.count(2))
    return logits, {"head": last, "projection": last}


def _sngan_generator(of: Any, image_shape: Sequence[int]) -> tuple[Function, Images]:
    height, width, _ = of.image_shape
    blocks = len(of.widths) - 1
    start = sizes.first_size((height, width), blocks)

    def images(net: Any, z: Tensor, label: Tensor | None = None) -> Tensor:
        x = net.dense(z).unflatten(1, (-1, *start))
        for stage in range(1, blocks + 1):
            block = getattr(net, f"block{stage}")
            y = block.conv1(_double(norm_relu(block.norm1, x, label)))
            y = block.conv2(norm_relu(block.norm2, y, label))
            x = y.add_(_double(block.conv_shortcut(x)))
        x = net.conv_image(norm_relu(net.norm_last, x, label))
        return torch.tanh(x[:, :, :height, :width])

    return images, {"dense": start}


def _sngan_discriminator(of: Any, image_shape: Sequence[int]) -> tuple[Function, Images]:
    halvings, blocks = of.halvings, len(of.widths)
    missing = _missing(image_shape, halvings)

    def logits(net: Any, x: Tensor, label: Tensor | None = None) -> Tensor:
        x = F.pad(x, missing) if any(missing) else x
        for stage in range(1, blocks + 1):
            block = getattr(net, f"block{stage}")
            y = block.conv1(x if stage == 1 else F.relu(x))
            y = block.conv2(_relu(y))
            if stage <= halvings:
                x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
            x = y + (block.conv_shortcut(x) if hasattr(block, "conv_shortcut") else x)
        return _judged(net, F.relu(x).sum((2, 3)), label)

    return logits, {}


def _missing(image_shape: Sequence[int], halvings: int) -> tuple[int, ...]:
    """What `F.pad` takes to fill images up to a size that can be halved so often."""
    height, width, _ = image_shape
    return (0, -width % 2**halvings, 0, -height % 2**halvings)


def _r3gan_stage(net: Any, x: Tensor, stage: int, blocks: int) -> Tensor:
    for index in range(1, blocks + 1):
        block = getattr(net, f"stage{stage}_block{index}")
        x = block.conv3(_leaky(block.conv2(_leaky(block.conv1(x))))).add_(x)
    return x


def _r3gan_between(net: Any, x: Tensor, stage: int) -> Tensor:
    """What stands before a stage whose width is another than that of the stage before."""
    name = f"stage{stage}_conv"
    return getattr(net, name)(x) if hasattr(net, name) else x


def _r3gan_generator(of: Any, image_shape: Sequence[int]) -> tuple[Function, Images]:
    height, width, _ = of.image_shape
    stages, blocks = len(of.widths), of.blocks

    def images(net: Any, z: Tensor, label: Tensor | None = None) -> Tensor:
        z = z if label is None else torch.cat([z, net.embedding(label)], dim=1)
        x = _r3gan_stage(net, net.basis * net.dense(z)[:, :, None, None], 0, blocks)
        for stage in range(1, stages):
            x = _r3gan_between(net, x, stage)
            taps = (4 * net.taps).expand(x.shape[1], 1, 4, 4)
            x = F.conv_transpose2d(x, taps, stride=2, padding=1, groups=x.shape[1])
            x = _r3gan_stage(net, x, stage, blocks)
        return net.conv_image(x)[:, :, :height, :width]

    return images, {}


def _r3gan_discriminator(of: Any, image_shape: Sequence[int]) -> tuple[Function, Images]:
    stages, blocks = len(of.widths), of.blocks
    missing = _missing(image_shape, stages - 1)

    def logits(net: Any, x: Tensor, label: Tensor | None = None) -> Tensor:
        x = net.conv_image(F.pad(x, missing) if any(missing) else x)
        x = _r3gan_stage(net, x, 1, blocks)
        for stage in range(2, stages + 1):
            taps = net.taps.expand(x.shape[1], 1, 4, 4)
            x = F.conv2d(x, taps, stride=2, padding=1, groups=x.shape[1])
            x = _r3gan_stage(net, _r3gan_between(net, x, stage), stage, blocks)
        scores = net.head((x * net.basis).sum((2, 3)))
        return scores[:, 0] if label is None else (scores * net.embedding(label)).sum(1)

    return logits, {}


#: Type of a Flax module -> what makes its function, and says which linear layers have images.
TWINS_OF: dict[type, Callable[[Any, Sequence[int]], tuple[Function, Images]]] = {
    resnet.ResNet: _classifier,
    efficientnet.EfficientNetLite: _classifier,
    speed_net.SpeedNet: _classifier,
    conditioning.TrunkDiscriminator: _trunk,
    dcgan.Generator: _dcgan_generator,
    dcgan.Discriminator: _dcgan_discriminator,
    resnet_gan.Generator: _sngan_generator,
    resnet_gan.Discriminator: _sngan_discriminator,
    r3gan.Generator: _r3gan_generator,
    r3gan.Discriminator: _r3gan_discriminator,
}
