"""A column of images."""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.files import write_files
from jaxnets.media.provenance import mark, of_each
from jaxnets.media.report import Figure, grid_png

__all__ = ["Image", "normalise", "to_uint8"]

_BLOCK = 4096
_IN_A_ROW = 10


def normalise(images: Any) -> Any:
    """Maps 0..255 to [-1, 1], with the same bits on every backend.

    x / 127.5 - 1, written as (2x - 255) / 255: all but one operation is on integers. In the first
    form XLA turns the division into a product and fuses it with the subtraction: on a CPU 205 of
    the 256 results differ from NumPy's in the last place.

    Args:
      images: uint8, any shape, of NumPy or JAX.

    Returns:
      float32 of the same shape and library.
    """
    return (images.astype(np.int32) * 2 - 255).astype(np.float32) * np.float32(1 / 255)


def to_uint8(images: Any) -> Any:
    """The inverse of `normalise`: [-1, 1] to 0..255, rounded to the nearest, clipped outside.

    NaN, which no pixel can hold, becomes 0.

    Args:
      images: float, any shape, of NumPy or JAX.

    Returns:
      uint8 of the same shape and library.
    """
    xp = jnp if isinstance(images, jax.Array) else np
    levels = ((images + 1) * 127.5).round().clip(0, 255)
    return xp.where(xp.isnan(levels), 0, levels).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Image:
    """Images [N, H, W, C] uint8, which networks see as float32 in [-1, 1].

    Attributes:
      shape: (H, W, C).
      background: the colour that transparent pictures are laid on when they are read.
      qualities: of JPEG files, so that pictures bear the same traces whatever files they come
        from: what is no JPEG becomes one, of one of these qualities; resized and cropped, all go
        through JPEG of the lowest. Empty leaves pictures as they are.
    """

    shape: tuple[int, int, int]
    background: str = dataclasses.field(default="white", compare=False)
    qualities: tuple[int, ...] = dataclasses.field(default=(), compare=False)

    kind = "image"
    stored = np.dtype(np.uint8)
    dtype = np.dtype(np.float32)

    def check(self, rows: np.ndarray, where: str) -> None:
        """Every value of a byte is a shade."""

    def decode(self, rows: Any) -> Any:
        """See `normalise`."""
        return normalise(rows)

    def encode(self, values: Any) -> Any:
        """See `to_uint8`."""
        return to_uint8(values)

    def show(self, rows: np.ndarray, names: Sequence[str] | None = None) -> Figure:
        """A grid of the images, ten in a row, with a name for each row of the grid."""
        return Figure(grid_png(rows, min(len(rows), _IN_A_ROW), row_labels=names))

    def write(
        self,
        rows: np.ndarray,
        folder: Path,
        about: Mapping[str, Any],
        labels: Sequence[str | int] | None = None,
    ) -> list[Path]:
        """Writes a PNG for each image, of one or three channels: 000000.png, 000001.png, ..."""
        files = self.files(rows, folder, about, labels)
        write_files(files)
        return list(files)

    def files(
        self,
        rows: np.ndarray,
        folder: Path,
        about: Mapping[str, Any],
        labels: Sequence[str | int] | None = None,
    ) -> dict[Path, bytes]:
        """What `write` writes, for a caller that writes more than these files at once."""
        from PIL import Image as Pillow

        files = {}
        for i, facts in enumerate(of_each(about, labels, len(rows))):
            buffer, row = io.BytesIO(), rows[i]
            Pillow.fromarray(row[..., 0] if row.shape[-1] == 1 else row).save(buffer, "PNG")
            files[folder / f"{i:06}.png"] = mark(buffer.getvalue(), facts)
        return files

    def noise(self, count: int, seed: int) -> np.ndarray:
        """Independent uniform pixels."""
        return np.random.default_rng(seed).integers(0, 256, (count, *self.shape), np.uint8)

    def statistics(self, rows: np.ndarray) -> dict[str, Any]:
        """`mean` and `std` of each channel on a scale from 0 to 1, exact: from histograms."""
        channels = self.shape[-1]
        counts = np.zeros((channels, 256), np.int64)
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            for channel in range(channels):
                counts[channel] += np.bincount(block[..., channel].ravel(), minlength=256)
        share = counts / counts.sum(axis=1, keepdims=True)
        values = np.arange(256) / 255
        mean = share @ values
        std = np.sqrt(np.maximum(share @ values**2 - mean**2, 0))
        return {"mean": mean.tolist(), "std": std.tolist()}
