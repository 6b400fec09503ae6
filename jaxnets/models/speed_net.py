"""A small CNN shaped for reaching high accuracy in few seconds of training.

    frozen 2x2 whitening convolution (its bias trains) -> GELU
    -> 3 x [conv 3x3, max-pool 2, norm, GELU, conv 3x3, norm, GELU]
    -> maximum over the image -> linear layer without bias, times 1/9

The whitening kernel is not among "params" but in a collection of its own, "constants", so neither
gradients nor weight decay reach it. Call `whiten` once, after `init` and before training.

Reference: Jordan 2024, https://arxiv.org/abs/2404.00498
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype

from jaxnets import ops
from jaxnets.nn.layers import BatchNorm, Conv, Dropout
from jaxnets.typing import Array, PRNGKey

__all__ = ["SpeedNet", "whiten"]

#: The whitening convolution's name, in "constants" (its kernel) and in "params" (its bias).
WHITENING = "whitening"

_WINDOW = 2


def _signed_orthogonal(key: PRNGKey, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    """Plus and minus an orthonormal basis of the patches: whitening without a training image."""
    size = shape[-1] // 2
    basis = nn.initializers.orthogonal()(key, (size, size), dtype)
    return jnp.concatenate([basis, -basis], axis=1).reshape(tuple(shape))


def _dirac(key: PRNGKey, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    """The first C_in filters pass their input on unchanged, the rest are random."""
    kernel = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")(key, shape, dtype)
    centre = tuple(size // 2 for size in shape[:-2])
    same = np.arange(min(shape[-2:]))
    kernel = kernel.at[..., : len(same)].set(0.0)
    return kernel.at[(*centre, same, same)].set(1.0)


class SpeedBlock(nn.Module):
    """conv 3x3, max-pool 2, norm, GELU, conv 3x3, norm, GELU."""

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        conv = partial(
            Conv, self.features, (3, 3), use_bias=False, kernel_init=_dirac, dtype=self.dtype
        )
        norm = partial(BatchNorm, momentum=0.6, use_scale=False, dtype=self.dtype)
        x = conv(name="conv1")(x)
        # A map that pooling would leave with fewer than 3 x 3 places keeps its size, so that
        # images of 8 pixels end in the 3 x 3 map that images of 28 and 32 pixels end in.
        if min(x.shape[1:-1]) >= 6:
            x = ops.max_pool(x, (2, 2))
        x = nn.gelu(norm(name="norm1")(x, train=train))
        x = conv(name="conv2")(x)
        return nn.gelu(norm(name="norm2")(x, train=train))


class SpeedNet(nn.Module):
    """See the module; features "whitened", "stage1" to "stage3" and "penultimate".

    Attributes:
      num_classes: K.
      widths: channels of the blocks.
      dropout: rate before the last layer.
      dtype: compute type.
    """

    num_classes: int
    widths: Sequence[int] = (64, 256, 256)
    dropout: float = 0.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, dict[str, Array]]:
        """Maps images [B, H, W, C] of at least 4x4 to logits [B, K] float32 and features."""
        x = _Whitening(dtype=self.dtype, name=WHITENING)(x)
        x = nn.gelu(x)
        features = {"whitened": x}
        for stage, width in enumerate(self.widths, start=1):
            x = SpeedBlock(width, dtype=self.dtype, name=f"block{stage}")(x, train=train)
            features[f"stage{stage}"] = x
        features["penultimate"] = x.max(axis=(1, 2)).astype(jnp.float32)
        x = Dropout(self.dropout)(features["penultimate"], train=train)
        init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        head = nn.Dense(self.num_classes, use_bias=False, kernel_init=init, name="head")
        return head(x) / 9.0, features


class _Whitening(nn.Module):
    """2x2 convolution to 8 C channels whose kernel is a constant."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        filters = 2 * _WINDOW**2 * channels
        shape = (_WINDOW, _WINDOW, channels, filters)
        kernel = self.variable(
            "constants", "kernel", lambda: _signed_orthogonal(self.make_rng("params"), shape)
        ).value
        bias = self.param("bias", nn.initializers.zeros, (filters,), jnp.float32)
        y = ops.conv(x.astype(self.dtype), kernel.astype(self.dtype), padding="VALID")
        return y + bias.astype(self.dtype).reshape(1, 1, 1, -1)


def whiten(
    variables: Mapping[str, Any], images: Any, *, epsilon: float = 5e-4, max_images: int = 5000
) -> dict[str, Any]:
    """Sets the first layer from training images.

    The filters are v / sqrt(lambda + epsilon) and their negatives, for the eigenpairs of the
    covariance of the images' 2x2 patches, and the bias takes the mean patch's response away: the
    responses are uncorrelated, of mean zero and of size one.

    Args:
      variables: of a `SpeedNet`.
      images: [N, H, W, C] in [-1, 1], as the network will see them.
      epsilon: keeps directions in which the images hardly vary from being blown up.
      max_images: how many of the images, from the first on, are looked at.

    Returns:
      A copy of `variables` with the new kernel and bias.
    """
    old = variables["constants"][WHITENING]["kernel"]
    channels = old.shape[2]
    images = np.asarray(images[:max_images])
    if images.ndim != 4 or images.shape[-1] != channels or 0 in images.shape:
        raise ValueError(
            f"the network was made for images [N, H, W, {channels}], got shape {images.shape}"
        )
    height, width = (size - _WINDOW + 1 for size in images.shape[1:3])
    size = _WINDOW**2 * channels
    total, moment, count = np.zeros(size), np.zeros((size, size)), 0
    for part in np.array_split(images, max(1, len(images) // 500)):  # bounds the memory
        part = part.astype(np.float64)
        shifted = [
            part[:, top : top + height, left : left + width]
            for top in range(_WINDOW)
            for left in range(_WINDOW)
        ]
        patches = np.concatenate(shifted, axis=-1).reshape(-1, size)
        total += patches.sum(axis=0)
        moment += patches.T @ patches
        count += len(patches)
    mean = total / count
    values, vectors = np.linalg.eigh(moment / count - np.outer(mean, mean))
    filters = vectors / np.sqrt(np.maximum(values, 0.0) + epsilon)
    filters = np.concatenate([filters, -filters], axis=1)
    constants, params = variables["constants"], variables["params"]
    kernel = jnp.asarray(filters.reshape(old.shape), old.dtype)
    bias = jnp.asarray(-mean @ filters, old.dtype)
    return {
        **variables,
        "constants": {**constants, WHITENING: {**constants[WHITENING], "kernel": kernel}},
        "params": {**params, WHITENING: {**params[WHITENING], "bias": bias}},
    }
