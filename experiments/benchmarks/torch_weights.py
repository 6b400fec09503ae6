"""Copies the variables of a Flax module into its PyTorch twin."""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.benchmarks import torch_gans, torch_resnet_gan
from experiments.benchmarks.torch_classifiers import ShiftNorm

__all__ = ["copy_weights"]

_Rearrange = Callable[[np.ndarray], np.ndarray]


def copy_weights(
    twin: nn.Module, variables: Mapping[str, Any], *, only_params: bool = False
) -> None:
    """Sets every parameter and running statistic of a twin.

    Kernels are [H, W, C_in, C_out] in Flax and [C_out, C_in, H, W] in torch. That of a transposed
    convolution is [H, W, C_in, C_out] against [C_in, C_out, H, W], and mirrored: torch's is the
    gradient of a convolution, Flax's a convolution of the input with zeros filled in.

    Args:
      twin: of `torch_networks.make_twin`; on any device, in any memory format.
      variables: collections -> trees, as `Net.variables` has them.
      only_params: copy the collection "params" alone (or a tree like it, such as an optimiser's
        moments).

    Raises:
      ValueError: if one side has a tensor that the other has not, or of another size.
    """
    wanted: dict[str, Tensor] = dict(twin.named_parameters())
    wanted |= {} if only_params else dict(twin.named_buffers())
    constant = _constants(twin, frozen_too=only_params)
    left = {id(tensor): name for name, tensor in wanted.items() if name not in constant}
    for collection, tree in variables.items():
        if only_params and collection != "params":
            continue
        for path, value in _leaves(tree):
            tensor, rearrange = _place(twin, path)
            # A copy: torch warns of arrays that are read-only, as jax's are.
            value = np.array(rearrange(np.asarray(value, np.float32)), order="C")
            if tuple(tensor.shape) != value.shape:
                raise ValueError(
                    f"{'/'.join(path)} is {value.shape}, and its twin {tuple(tensor.shape)}"
                )
            with torch.no_grad():
                tensor.copy_(torch.from_numpy(value))
            left.pop(id(tensor), None)
    if left:
        raise ValueError(f"the twin has {', '.join(left.values())}, which the variables have not")


def _constants(twin: nn.Module, *, frozen_too: bool) -> set[str]:
    """Names of tensors that Flax has no variable for."""
    found = {name for name, _ in twin.named_buffers() if name.endswith("num_batches_tracked")}
    for name, module in twin.named_modules():
        if isinstance(module, ShiftNorm):
            found.add(f"{name}.weight")
        found |= {f"{name}.{buffer}" for buffer in module._non_persistent_buffers_set}
    if frozen_too:
        found |= {name for name, p in twin.named_parameters() if not p.requires_grad}
    return found


def _leaves(
    tree: Mapping[str, Any], path: tuple[str, ...] = ()
) -> list[tuple[tuple[str, ...], Any]]:
    found = []
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found += _leaves(value, (*path, name))
        else:
            found.append(((*path, name), value))
    return found


def _place(twin: nn.Module, path: Sequence[str]) -> tuple[Tensor, _Rearrange]:
    """The tensor in which a Flax leaf belongs, and how it is rearranged for it."""
    module: Any = twin
    *owners, leaf = path
    for name in owners:
        name = "norm" if name == "BatchNorm_0" else name  # inside a ConditionalBatchNorm
        module = getattr(module, name, None)
        if module is None:
            raise ValueError(f"the variables have {'/'.join(path)}, and the twin has no {name}")
    if isinstance(module, torch_gans.ConditionalBatchNorm):
        return getattr(module, leaf).weight, _same
    if isinstance(module, nn.BatchNorm2d):
        names = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
        return getattr(module, names[leaf]), _same
    if isinstance(module, torch_resnet_gan.SpectralNorm):
        return module.u, _same
    if leaf == "basis":
        return module.basis, lambda image: image.transpose(2, 0, 1)[None]
    if leaf == "bias" and isinstance(module, torch_gans.ToImage):
        channels, height, width = module.image
        return module.bias, lambda b: b.reshape(height, width, channels).transpose(2, 0, 1).ravel()
    if leaf == "bias":
        return module.bias, _same
    if isinstance(module, nn.ConvTranspose2d):
        return module.weight, lambda k: k[::-1, ::-1].transpose(2, 3, 0, 1)
    if isinstance(module, nn.Conv2d):
        return module.weight, lambda k: k.transpose(3, 2, 0, 1)
    if isinstance(module, torch_gans.FromImage):
        channels, height, width = module.image
        shape = (height, width, channels, -1)
        return module.weight, lambda k: _flat(k.reshape(shape).transpose(3, 2, 0, 1))
    if isinstance(module, torch_gans.ToImage):
        channels, height, width = module.image
        return (
            module.weight,
            lambda k: (
                k.reshape(-1, height, width, channels).transpose(3, 1, 2, 0).reshape(-1, len(k))
            ),
        )
    if isinstance(module, torch_gans.ImageEmbedding):
        channels, height, width = module.image
        shape = (-1, height, width, channels)
        return module.weight, lambda k: _flat(k.reshape(shape).transpose(0, 3, 1, 2))
    if isinstance(module, nn.Embedding):
        return module.weight, _same
    if isinstance(module, nn.Linear):
        return module.weight, np.transpose
    raise ValueError(f"no rule for {'/'.join(path)} and a {type(module).__name__}")


def _same(value: np.ndarray) -> np.ndarray:
    return value


def _flat(value: np.ndarray) -> np.ndarray:
    return value.reshape(len(value), -1)
