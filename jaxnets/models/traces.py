"""Classifiers of what a generator leaves in its pictures, whatever they show."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype

from jaxnets.nn.layers import BatchNorm, Dense, Dropout
from jaxnets.typing import Array

__all__ = ["OnNeighbours", "Spectrum", "neighbour_differences"]


def neighbour_differences(images: Array) -> Array:
    """What pixels differ by from the first of their block of 2x2.

    A generator that doubles its images leaves relations between the pixels of a block. The
    difference of the first pixel itself, which is 0, is left out.

    Args:
      images: [B, H, W, C]; a last row or column without a neighbour is left out.

    Returns:
      [B, H // 2, W // 2, 3 C]: right, below, and right below.

    Reference: Tan et al. 2024, Rethinking the Up-Sampling Operations in CNN-based Generative
      Network for Generalizable Deepfake Detection, arXiv:2312.10461
    """
    count, height, width, channels = images.shape
    blocks = images[:, : height // 2 * 2, : width // 2 * 2]
    blocks = blocks.reshape(count, height // 2, 2, width // 2, 2, channels)
    differences = (blocks - blocks[:, :, :1, :, :1]).transpose(0, 1, 3, 2, 4, 5)
    return differences.reshape(count, height // 2, width // 2, 4 * channels)[..., channels:]


class OnNeighbours(nn.Module):
    """A classifier that sees `neighbour_differences` in the place of pixels.

    Attributes:
      classifier: of images [B, H // 2, W // 2, 3 C]; its variables lie under "classifier".
    """

    classifier: nn.Module

    def __call__(self, x: Array, *, train: bool) -> tuple[Array, dict[str, Array]]:
        """Maps images [B, H, W, C] in [-1, 1] to logits [B, K] float32 and features."""
        return self.classifier(neighbour_differences(x), train=train)


class Spectrum(nn.Module):
    """A linear model of the power of each frequency, whatever its direction.

    The logarithm of the power spectrum of the mean channel is averaged over circles of frequencies;
    each mean is standardised by its moments over the training images. The features are these:
    "penultimate" [B, F].

    Attributes:
      num_classes: K.
      dropout: rate before the last layer.
      dtype: type of the last layer's computation.

    Reference: Durall et al. 2020, Watch your Up-Convolution, arXiv:2003.01826
    """

    num_classes: int
    dropout: float = 0.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, dict[str, Array]]:
        """Maps images [B, H, W, C] in [-1, 1] to logits [B, K] float32 and features."""
        power = jnp.square(jnp.abs(jnp.fft.fft2(x.astype(jnp.float32).mean(axis=-1))))
        profile = jnp.log(power + 1e-6).reshape(len(x), -1) @ _circles(*x.shape[1:3])
        norm = BatchNorm(use_scale=False, use_bias=False, name="norm")
        features = {"penultimate": norm(profile, train=train)}
        y = Dropout(self.dropout)(features["penultimate"], train=train)
        y = Dense(self.num_classes, dtype=self.dtype, name="head")(y)
        return y.astype(jnp.float32), features


def _circles(height: int, width: int) -> np.ndarray:
    """[height * width, F] float32: the share of each frequency in the mean of its circle.

    A circle is a step of the shorter side's frequencies wide.
    """
    down, across = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)
    circle = np.round(np.hypot(down, across) * min(height, width)).astype(int).ravel()
    _, number = np.unique(circle, return_inverse=True)
    member = np.eye(number.max() + 1, dtype=np.float32)[number]
    return member / member.sum(axis=0)
