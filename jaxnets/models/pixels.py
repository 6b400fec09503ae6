"""How networks that others have trained expect the pixels of an image."""

from dataclasses import dataclass

import jax.numpy as jnp

from jaxnets.typing import Array

__all__ = ["IMAGENET", "LITE", "Pixels", "standardise"]


@dataclass(frozen=True)
class Pixels:
    """Mean and deviation that pixels on a scale from 0 to 1 are standardised by.

    Attributes:
      mean: of each channel, or one number for all.
      std: likewise.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


#: The channels of ImageNet's training images, which torchvision's and timm's ResNets expect.
IMAGENET = Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

#: (x - 127) / 128 of bytes, which EfficientNet-Lite expects.
LITE = Pixels((127 / 255,), (128 / 255,))


def standardise(images: Array, pixels: Pixels | None) -> Array:
    """(p - mean) / std of pixels p in [0, 1], given as networks of this library see them.

    It belongs into the network: folded into the first convolution it would be wrong at the border,
    where zeros are padded *after* it.

    Args:
      images: [..., C] in [-1, 1].
      pixels: None leaves the images as they are.

    Returns:
      [..., C].
    """
    if pixels is None:
        return images
    shape = (1,) * (images.ndim - 1) + (-1,)
    mean = jnp.array([2 * m - 1 for m in pixels.mean], images.dtype).reshape(shape)
    std = jnp.array([2 * s for s in pixels.std], images.dtype).reshape(shape)
    return (images - mean) / std
