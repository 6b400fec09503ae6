"""Layers in PyTorch, each made of the variables of one of ours and named as it is.

Written as a PyTorch user would for speed: images are [B, C, H, W], and padding is left to the
convolution wherever it can express it.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812, the name that everyone knows it by
from torch import Tensor, nn

__all__ = ["Layers", "SpectralNorm", "has_batch_norm", "keep_vectors", "norm_relu"]

#: What our networks call a linear layer of one-hot classes: an embedding, in torch.
_OF_CLASSES = ("embedding", "projection")


def _tensor(array: Any) -> Tensor:
    # A copy: torch warns of arrays that are read-only, as jax's are.
    return torch.from_numpy(np.array(array, np.float32, order="C"))


class SpectralNorm(nn.Module):
    """Twin of `jaxnets.nn.spectral.SpectralNorm`: the largest singular value of a layer's kernel.

    torch's own `spectral_norm` moves u and v by half a step of the iteration more, and at every
    pass through the network. Here u moves when `keep_vectors` says so, once a step.
    """

    u: Tensor

    def __init__(self, u: Any):
        super().__init__()
        self.register_buffer("u", _tensor(u))
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


def has_batch_norm(module: nn.Module) -> bool:
    """Whether an example's output depends on the other examples of its batch."""
    return any(isinstance(part, nn.BatchNorm2d) for part in module.modules())


class _Kernel(nn.Module):
    """A weight in torch's order, and perhaps a bias and a spectral normalisation."""

    def __init__(self, weight: Any, bias: Any, u: Any, *, trained: bool):
        super().__init__()
        self.weight = nn.Parameter(_tensor(weight), requires_grad=trained)
        self.bias = None if bias is None else nn.Parameter(_tensor(bias))
        self.spectral_norm = None if u is None else SpectralNorm(u)

    def normed(self, matrix: Tensor) -> Tensor:
        """The weight over its spectral norm, if that is asked for: `matrix` is a view of it."""
        norm = self.spectral_norm
        return self.weight if norm is None else self.weight / norm(matrix)


class _Linear(_Kernel):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.normed(self.weight), self.bias)


class _Embedding(_Kernel):
    def forward(self, label: Tensor) -> Tensor:
        return F.embedding(label, self.normed(self.weight.t()))


class _Conv(_Kernel):
    def forward(self, x: Tensor, stride: int = 1, padding: int | None = None) -> Tensor:
        """[B, C_in, H, W] to [B, C_out, ...], padded as JAX's "SAME" unless `padding` says how.

        Where that is asymmetric (an odd size and an even stride, say) the part that torch's
        convolution can't express is padded before it; elsewhere nothing is.
        """
        weight = self.weight
        window, groups = weight.shape[-1], x.shape[1] // weight.shape[1]
        if padding is None:
            down, right = (
                max(-(-n // stride) * stride - stride + window - n, 0) for n in x.shape[2:]
            )
            pads = (down // 2, right // 2)
            x = F.pad(x, (0, right % 2, 0, down % 2)) if down % 2 or right % 2 else x
        else:
            pads = (padding, padding)
        # Either is a view; the order of the columns doesn't matter.
        rows = weight if weight.is_contiguous() else weight.permute(0, 2, 3, 1)
        return F.conv2d(x, self.normed(rows.flatten(1)), self.bias, stride, pads, groups=groups)


class _ConvTranspose(_Kernel):
    def forward(self, x: Tensor, stride: int) -> Tensor:
        return F.conv_transpose2d(x, self.weight, self.bias, stride, padding=1)


class _ConditionalBatchNorm(nn.Module):
    """Batch normalisation with a scale and a shift for each class."""

    def __init__(self, params: Mapping[str, Any], state: Mapping[str, Any]):
        super().__init__()
        self.norm = _batch_norm({}, state, affine=False)
        self.scale = _Embedding(params["scale"], None, None, trained=True)
        self.bias = _Embedding(params["bias"], None, None, trained=True)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        x = self.norm(x)
        scale = (1 + self.scale(label)).to(x.dtype)[:, :, None, None]
        return torch.addcmul(self.bias(label).to(x.dtype)[:, :, None, None], x, scale)


def norm_relu(norm: nn.Module, x: Tensor, label: Tensor | None) -> Tensor:
    """ReLU of a normalisation, which has a scale and a shift for each class if there are any."""
    return F.relu(norm(x) if label is None else norm(x, label), inplace=True)


def _batch_norm(
    params: Mapping[str, Any], state: Mapping[str, Any], *, affine: bool = True
) -> nn.BatchNorm2d:
    # Only the speed net's have no scale, and they have the shorter memory.
    momentum = 0.1 if "scale" in params or not affine else 0.4
    norm = nn.BatchNorm2d(len(state["mean"]), momentum=momentum, affine=affine)
    values = {"weight": params.get("scale"), "bias": params.get("bias")}
    values |= {"running_mean": state["mean"], "running_var": state["var"]}
    with torch.no_grad():
        for name, value in values.items():
            if value is not None:
                getattr(norm, name).copy_(_tensor(value))
    if affine:
        norm.weight.requires_grad_("scale" in params)
    return norm


class Layers(nn.Module):
    """The layers of a Flax module under the names that it gives them."""

    def __init__(
        self,
        params: Mapping[str, Any],
        state: Mapping[str, Any],
        images: Mapping[str, Sequence[int]] | None = None,
    ):
        """Makes them.

        Args:
          params: the collection "params".
          state: the other collections, merged.
          images: (H, W) of what a linear layer makes an image, or is fed with one: Flax flattens
            [H, W, C], and torch [C, H, W].
        """
        super().__init__()
        for name in sorted({*params, *state}):  # so that all made of one network are in one order
            mine = params.get(name, {})
            if isinstance(mine, Mapping):
                self.add_module(name, _layer(name, mine, state.get(name, {}), images or {}))
            else:  # R3GAN's basis, an image
                image = np.asarray(mine).transpose(2, 0, 1)[None]
                self.register_parameter(name, nn.Parameter(_tensor(image)))


def _layer(
    name: str,
    params: Mapping[str, Any],
    state: Mapping[str, Any],
    images: Mapping[str, Sequence[int]],
) -> nn.Module:
    """One layer, or several where there is no kernel and no statistic.

    Kernels are [H, W, C_in, C_out] in Flax and [C_out, C_in, H, W] in torch. That of a transposed
    convolution is [C_in, C_out, H, W] there, and mirrored: torch's is the gradient of a
    convolution, Flax's a convolution of the input with zeros filled in.
    """
    if "BatchNorm_0" in state:
        return _ConditionalBatchNorm(params, state["BatchNorm_0"])
    if "mean" in state:
        return _batch_norm(params, state)
    if "kernel" not in {**params, **state}:
        return Layers(params, state)
    kernel, bias = np.asarray({**params, **state}["kernel"]), params.get("bias")
    rest: Any = (bias, state.get("spectral_norm", {}).get("u"))
    trained = "kernel" in params
    if kernel.ndim == 4 and name.startswith("deconv"):
        weight = kernel[::-1, ::-1].transpose(2, 3, 0, 1)
        return _ConvTranspose(weight, *rest, trained=trained)
    if kernel.ndim == 4:
        return _Conv(kernel.transpose(3, 2, 0, 1), *rest, trained=trained)
    if name in images:
        axis = 0 if name == "head" else 1  # which of the kernel's is the image
        places = np.arange(kernel.shape[axis]).reshape(*images[name], -1)
        places = places.transpose(2, 0, 1).ravel()
        kernel = kernel.take(places, axis)
        if axis == 1 and bias is not None:
            rest = (np.asarray(bias)[places], rest[1])
    if name in _OF_CLASSES:
        return _Embedding(kernel, *rest, trained=trained)
    return _Linear(kernel.T, *rest, trained=trained)
