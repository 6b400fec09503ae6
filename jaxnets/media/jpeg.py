"""JPEG's loss: pictures as they come back from a file, and how strongly a file was compressed."""

import functools
import io
from typing import Any

import numpy as np

__all__ = ["quality_of", "recompressed", "standard_tables"]


def recompressed(pixels: np.ndarray, quality: int) -> np.ndarray:
    """A picture as it comes back from a JPEG file.

    Colour is stored at half the resolution, as nearly all JPEG files have it.

    Args:
      pixels: [H, W] or [H, W, C] uint8, of one or three channels.
      quality: of the file, 1 to 100.

    Returns:
      Of the same shape.
    """
    from PIL import Image

    image = Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    with Image.open(buffer) as read:
        return np.asarray(read).reshape(pixels.shape)


@functools.cache
def standard_tables() -> np.ndarray:
    """[2, 8, 8]: what brightness and colour are divided by at quality 50, as the encoder has it."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", quality=50)
    with Image.open(buffer) as read:
        tables: Any = read.quantization  # type: ignore[attr-defined]
    return np.array([tables[0], tables[1]], np.float32).reshape(2, 8, 8)


def quality_of(image: Any) -> int | None:
    """The quality that a JPEG was saved with, by its table for brightness; None for other files.

    Args:
      image: opened by Pillow; it need not be decoded.
    """
    table = getattr(image, "quantization", {}).get(0)
    if table is None:
        return None
    scale = 100 * float(np.sum(table)) / float(standard_tables()[0].sum())
    return int(np.clip(round(5000 / scale if scale > 100 else 100 - scale / 2), 1, 100))
