"""What happens to a picture on its way: blur, resizing and JPEG's losses, as augmentations.

Each maps `(key, image)` to an image, as those of `jaxnets.data.augment` do.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
from jax import nn

from jaxnets.media import jpeg
from jaxnets.typing import Array, PRNGKey

__all__ = ["blur", "compress", "resize"]

#: JPEG's brightness and colours of R, G and B (ITU-T T.871), and its discrete cosine transform.
_YCBCR = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32
)
_COSINES = scipy.fft.dct(np.eye(8, dtype=np.float32), axis=0, norm="ortho")


def blur(key: PRNGKey, image: Array, *, most: float = 1.0) -> Array:
    """Blurs [H, W, C] by a Gaussian of up to `most` pixels, repeating the edge pixels."""
    sigma, reach = jax.random.uniform(key, (), image.dtype, 0.1, most), math.ceil(3 * most)
    weights = jnp.exp(-0.5 * jnp.square(jnp.arange(-reach, reach + 1) / sigma))
    weights = weights / weights.sum()
    for axis, size in enumerate(image.shape[:-1]):
        padding = [(reach * (a == axis),) * 2 for a in range(image.ndim)]
        padded = jnp.pad(image, padding, mode="edge")
        moved = [jax.lax.slice_in_dim(padded, k, k + size, axis=axis) for k in range(len(weights))]
        image = jnp.tensordot(weights, jnp.stack(moved), 1)
    return image


def resize(key: PRNGKey, image: Array, *, least: float = 0.5) -> Array:
    """Shrinks [H, W, C] to a share of its sides, `least` to 1, and stretches it back (bilinear)."""
    share = jax.random.uniform(key, (), image.dtype, least, 1.0)

    def there_and_back(size: int) -> Array:
        place = jnp.arange(size)
        small = jnp.round(share * size)  # the places from here on are not used
        middles = (place + 0.5) * size / small - 0.5
        shrunk = nn.relu(1 - jnp.abs(place[None] - middles[:, None]) * small / size)
        shrunk = shrunk / jnp.maximum(shrunk.sum(axis=1, keepdims=True), 1e-6)
        wanted = ((place + 0.5) * small / size - 0.5).clip(0, small - 1)
        return nn.relu(1 - jnp.abs(wanted[:, None] - place[None])) @ shrunk

    down, across = map(there_and_back, image.shape[:2])
    return jnp.einsum("ih,hwc,jw->ijc", down, image, across)


def compress(key: PRNGKey, image: Array, *, low: float = 40.0, high: float = 100.0) -> Array:
    """Loses what JPEG files of a uniform quality lose of [H, W, C], in 8x8 blocks of frequencies.

    Colour is not thinned out. The gradient is that of the identity.
    """
    quality = jax.random.uniform(key, (), image.dtype, low, high)
    height, width, channels = image.shape
    to_colour = _YCBCR if channels == 3 else np.eye(channels, dtype=np.float32)
    scale = jnp.where(quality < 50, 5000 / quality, 200 - 2 * quality) / 100
    tables = jnp.clip(jnp.floor(jpeg.standard_tables() * scale + 0.5), 1, 255)
    table = jnp.stack([tables[min(c, 1)] for c in range(channels)], axis=-1)[None, :, None]
    padded = jnp.pad(image, [(0, -height % 8), (0, -width % 8), (0, 0)], mode="edge")
    levels = jnp.round(127.5 * padded - 0.5) @ to_colour.T
    blocks = levels.reshape(len(levels) // 8, 8, -1, 8, channels)
    found = jnp.einsum("ui,aibjc,vj->aubvc", _COSINES, blocks, _COSINES) / table
    back = jnp.einsum("ui,aubvc,vj->aibjc", _COSINES, jnp.round(found) * table, _COSINES)
    levels = jnp.round(back.reshape(padded.shape) @ np.linalg.inv(to_colour).T).clip(-128, 127)
    lost = (levels[:height, :width] + 0.5) / 127.5 - image
    return image + jax.lax.stop_gradient(lost)
