"""Heat maps laid over pictures."""

from typing import Any

import numpy as np
from scipy import ndimage

__all__ = ["outlined", "painted"]

_RED, _OUTLINE = (255, 0, 0), (0, 220, 255)


def painted(images: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Pictures with red where a map is hot.

    Args:
      images: [N, H, W, C] uint8, C being 1 or 3.
      maps: [N, h, w] in [0, 1]; brought to the pictures' size.

    Returns:
      [N, H, W, 3] uint8.
    """
    factors = [
        large / small for large, small in zip(images.shape[1:3], maps.shape[1:], strict=True)
    ]
    if factors != [1, 1]:
        zoomed: Any = ndimage.zoom(maps, (1, *factors), order=1, grid_mode=True, mode="nearest")
        maps = zoomed
    share = 0.6 * maps[..., None]
    return ((1 - share) * images + share * np.array(_RED)).astype(np.uint8)


def outlined(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Pictures [N, H, W, 3] uint8 with the outlines of masks [N, H, W] bool, two pixels wide."""
    inner: Any = ndimage.binary_erosion(masks, np.ones((1, 3, 3)), iterations=2, border_value=0)
    return np.where((masks & ~inner)[..., None], np.array(_OUTLINE, np.uint8), images)
