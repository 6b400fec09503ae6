"""Images as files: what of them can be trained on, and as what.

A file is accepted if it is a still picture in grey, colour, palette or black-and-white mode, with
no pixel that is transparent. Refused are transparency, which would need a background; CMYK; 16-bit
and floating-point grey; animations; more than 64 megapixels; damaged or foreign files.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxnets.columns import Image
from jaxnets.errors import UserError

__all__ = ["MAX_PIXELS", "ImageFiles"]

MAX_PIXELS = 64_000_000
GREY = ("L", "1", "LA")
ALPHA = ("LA", "PA", "RGBA")
PLAIN = ("L", "1", "P", "RGB")


class _Unusable(Exception):
    """Why a file is not an image that can be trained on."""


@dataclass(frozen=True)
class ImageFiles:
    """Images that Pillow reads.

    Attributes:
      image_size: (height, width): the shorter side is resized, the middle cut out. Not needed
        where all images have one size already.
      channels: 1 (grey) or 3 (colour); by default 1 where every file that opens is grey.
    """

    what = "image"

    image_size: tuple[int, int] | None = None
    channels: int | None = None

    @property
    def decoder(self) -> str:
        """Pillow and its version."""
        import PIL

        return f"Pillow {PIL.__version__}"

    def header(self, path: Path) -> tuple[tuple[int, int], bool] | str:
        """((height, width), is grey) from the header alone, or why the file can't be used."""
        from PIL import ExifTags

        try:
            with _open(path) as image:
                width, height = image.size
                if image.getexif().get(ExifTags.Base.Orientation, 1) >= 5:  # turned by 90 degrees
                    width, height = height, width
                return (height, width), image.mode in GREY
        except _Unusable as error:
            return str(error)
        except Exception as error:  # decoders raise nearly every type on damaged bytes
            return _reason(error)

    def column(self, headers: Sequence[tuple[tuple[int, int], bool]], root: Path) -> Image:
        """Images of the one size that they have, or that was asked for."""
        sizes = sorted({size for size, _ in headers})
        if self.image_size is None and len(sizes) > 1:
            raise UserError(
                f"{root} has images of {len(sizes)} sizes, from {_by(sizes[0])} to "
                f"{_by(sizes[-1])} (height x width); give one with --image-size"
            )
        depth = self.channels or (1 if all(grey for _, grey in headers) else 3)
        return Image((*(self.image_size or sizes[0]), depth))

    def row(self, path: Path, column: Image) -> np.ndarray | str:
        """[H, W, C] uint8, or why the file can't be used."""
        from PIL import Image, ImageOps

        height, width, depth = column.shape
        try:
            with _open(path) as image:
                image.load()
                if "transparency" in image.info:
                    image = image.convert("RGBA")
                if image.mode in ALPHA:
                    if image.getchannel("A").getextrema() != (255, 255):
                        return "has transparent pixels"
                    image = image.convert("L" if image.mode == "LA" else "RGB")
                image = ImageOps.exif_transpose(image)
                # Before resizing: palette indices and black-or-white pixels can't be averaged.
                image = image.convert("L" if depth == 1 else "RGB")
                if image.size != (width, height):
                    image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
                array = np.asarray(image)
                return array[..., None] if depth == 1 else array
        except _Unusable as error:
            return str(error)
        except Exception as error:
            return _reason(error)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Opens an image and judges it by its header, before a pixel is decoded."""
    from PIL import Image

    if not path.is_file():
        raise _Unusable("a link that leads nowhere" if path.is_symlink() else "no regular file")
    with path.open("rb") as file, Image.open(file) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise _Unusable(f"{width}x{height} is over {MAX_PIXELS // 10**6} megapixels")
        # A phone's MPO holds a second view or a thumbnail besides its still picture.
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":
            raise _Unusable(f"animated, with {frames} frames")
        if image.mode not in (*PLAIN, *ALPHA):
            raise _Unusable(f"mode {image.mode}")
        yield image


def _reason(error: Exception) -> str:
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, Image.DecompressionBombError):
        return f"over {MAX_PIXELS // 10**6} megapixels"
    return f"damaged: {' '.join(str(error).split())[:80] or type(error).__name__}"


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
