"""The library's networks once more, in PyTorch: what a benchmark holds them against.

Layer for layer the same function as the Flax module, with the same names, written as a PyTorch
user would for speed: images are [B, C, H, W], activations work in place, padding is left to the
convolution wherever it can express it. Imports torch at its top, so it is itself imported late.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from experiments.benchmarks import torch_gans, torch_r3gan, torch_resnet_gan
from experiments.benchmarks.torch_classifiers import ResNet, SpeedNet
from jaxnets.errors import UserError
from jaxnets.models import conditioning, dcgan, r3gan, resnet, resnet_gan, speed_net

__all__ = ["has_batch_norm", "make_twin"]

#: What `make_twin` can make a twin of, for error messages.
TWINS = "resnet_3x2, resnet18, resnet34, resnet50, speed_net, dcgan, sngan and r3gan"

#: The GAN families: ours, and the twins.
FAMILIES: tuple[tuple[Any, Any], ...] = (
    (dcgan, torch_gans),
    (resnet_gan, torch_resnet_gan),
    (r3gan, torch_r3gan),
)


def make_twin(module: Any, image_shape: Sequence[int]) -> nn.Module:
    """The torch module that computes what a Flax module of this library does.

    Args:
      module: a `ResNet` or `SpeedNet`, a generator or discriminator of one of the GAN families, or
        a `TrunkDiscriminator` on one of the first two; without dropout and self-attention.
      image_shape: (H, W, C) of the images that it takes or makes.

    Returns:
      A module in training mode, with weights of torch's own; see `torch_weights.copy_weights`.

    Raises:
      UserError: if it has no twin.
    """
    if getattr(module, "dropout", 0.0):
        raise UserError("the PyTorch twins have no dropout; leave it at 0 to compare with torch")
    if getattr(module, "attention", ()):
        raise UserError("the PyTorch twins have no self-attention; leave it out to compare")
    if isinstance(module, resnet.ResNet):
        return ResNet(module, image_shape)
    if isinstance(module, speed_net.SpeedNet):
        return SpeedNet(module, image_shape)
    for family, of_torch in FAMILIES:
        if isinstance(module, family.Generator):
            return of_torch.Generator(module)
        if isinstance(module, family.Discriminator):
            return of_torch.Discriminator(module, image_shape)
    if isinstance(module, conditioning.TrunkDiscriminator):
        inner = make_twin(module.trunk, image_shape)
        return torch_gans.TrunkDiscriminator(module.num_classes, inner)
    raise UserError(f"{type(module).__name__} has no PyTorch twin; there are twins of {TWINS}")


def has_batch_norm(module: nn.Module) -> bool:
    """Whether an example's output depends on the other examples of its batch."""
    return any(isinstance(part, nn.BatchNorm2d) for part in module.modules())
