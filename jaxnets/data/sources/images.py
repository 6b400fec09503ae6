"""Images as files: what of them can be trained on, and as what.

A file is accepted if it is a still picture in grey, colour, palette or black-and-white mode;
transparent ones are laid on a background. Refused are CMYK; 16-bit and floating-point grey;
animations; more than 64 megapixels; damaged or foreign files.
"""

import contextlib
import io
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnets.columns import Image
from jaxnets.data.views import Views
from jaxnets.errors import UserError
from jaxnets.media.jpeg import quality_of, recompressed

__all__ = ["MAX_PIXELS", "Header", "ImageFiles", "reread"]

MAX_PIXELS = 64_000_000
GREY = ("L", "1", "LA")
ALPHA = ("LA", "PA", "RGBA")
PLAIN = ("L", "1", "P", "RGB")


#: A picture is said to be cropped where more than this share of it is cut away.
_CROPPED = 0.2

_HEIC = (b"heic", b"heix", b"hevc", b"mif1", b"msf1")

#: What a file is -> whether its first bytes say so, where Pillow does not read it.
_FOREIGN: dict[str, Callable[[bytes], bool]] = {
    "HEIC": lambda b: b[4:8] == b"ftyp" and b[8:12] in _HEIC,
    "AVIF": lambda b: b[4:8] == b"ftyp" and b[8:12] in (b"avif", b"avis"),
    "JPEG XL": lambda b: b[:2] == b"\xff\x0a" or b[:12] == b"\0\0\0\x0cJXL \r\n\x87\n",
    "SVG": lambda b: b"<svg" in b.lower(),
    "PDF": lambda b: b[:5] == b"%PDF-",
    "DICOM": lambda b: b[128:132] == b"DICM",
    "PSD": lambda b: b[:4] == b"8BPS",
    "a video": lambda b: b[4:8] == b"ftyp" or b[:4] == b"\x1aE\xdf\xa3",
    "a web page": lambda b: b.lstrip().lower().startswith((b"<!doctype html", b"<html")),
    "a ZIP archive": lambda b: b[:4] == b"PK\x03\x04",
    "an array of NumPy": lambda b: b[:6] == b"\x93NUMPY",
}


class _Unusable(Exception):
    """Why a file is not an image that can be trained on."""


class Header(NamedTuple):
    """What the header of an image says: (height, width), whether it is grey or has alpha, more."""

    size: tuple[int, int]
    grey: bool
    see_through: bool
    format: str = ""
    quality: int | None = None


@dataclass(frozen=True)
class ImageFiles:
    """Images that Pillow reads.

    Attributes:
      image_size: (height, width): the shorter side is resized, the middle cut out. Not needed
        where all images have one size already.
      channels: 1 (grey) or 3 (colour); by default 1 where every file that opens is grey.
      background: colour that transparent pictures are laid on: a name of CSS, or #rrggbb.
    """

    what = "image"

    image_size: tuple[int, int] | None = None
    channels: int | None = None
    background: str = "white"

    def __post_init__(self) -> None:
        from PIL import ImageColor

        try:
            ImageColor.getrgb(self.background)
        except ValueError:
            raise UserError(
                f"the background {self.background!r} is no colour; name one, such as white, or "
                "write #rrggbb"
            ) from None

    @property
    def decoder(self) -> str:
        """Pillow and its version."""
        import PIL

        return f"Pillow {PIL.__version__}"

    def header(self, path: Path) -> Header | str:
        """What the header alone says, or why the file can't be used."""
        from PIL import ExifTags

        try:
            with _open(path) as image:
                width, height = image.size
                if image.getexif().get(ExifTags.Base.Orientation, 1) >= 5:  # turned by 90 degrees
                    width, height = height, width
                see_through = image.mode in ALPHA or "transparency" in image.info
                grey, kind = image.mode in GREY, image.format or ""
                return Header((height, width), grey, see_through, kind, quality_of(image))
        except _Unusable as error:
            return str(error)
        except Exception as error:  # decoders raise nearly every type on damaged bytes
            return _reason(error, path)

    def column(self, headers: Sequence[Header], root: Path) -> Image:
        """Images of the one size that they have, or that was asked for."""
        sizes = sorted({header.size for header in headers})
        if self.image_size is None and len(sizes) > 1:
            raise UserError(
                f"{root} has images of {len(sizes)} sizes, from {_by(sizes[0])} to "
                f"{_by(sizes[-1])} (height x width); give one with --image-size"
            )
        depth = self.channels or (1 if all(header.grey for header in headers) else 3)
        return Image((*(self.image_size or sizes[0]), depth), self.background)

    def notes(self, headers: Sequence[Header], column: Image) -> list[str]:
        """What is laid on a background, and what is cut away."""
        notes = []
        see_through = sum(header.see_through for header in headers)
        if see_through:
            notes.append(
                f"{see_through:,} of {len(headers):,} images may be transparent and are laid on "
                f"{self.background}; --background chooses another colour"
            )
        return notes + self.changed(headers, column)

    def changed(self, headers: Sequence[Header], column: Image) -> list[str]:
        """What resizing changes, where it changes much."""
        height, width, _ = column.shape
        ratios = np.array([header.size[1] / header.size[0] for header in headers])
        cut = 1 - np.minimum(ratios * height / width, width / (ratios * height))
        cropped = int(np.sum(cut > _CROPPED))
        if cropped:
            usual = float(np.median(ratios))
            short = min(height, width)
            better = (short, round(short * usual)) if usual >= 1 else (round(short / usual), short)
            advice = f"; --image-size {better[0]} {better[1]} suits most of them better"
            return [
                f"{height}x{width} cuts more than {_CROPPED:.0%} away from {cropped:,} of "
                f"{len(headers):,} images, at most {cut.max():.0%}"
                + (advice if better != (height, width) else "")
            ]
        return []

    def row(self, path: Path | io.BytesIO, column: Image) -> np.ndarray | str:
        """[H, W, C] uint8, or why the file can't be used."""
        return self.view(path, column, None, Views())

    def fitted(self, image: Any, size: tuple[int, int]) -> Any:
        """The picture in (width, height): resized until it covers that, and the rest cut off."""
        from PIL import Image, ImageOps

        return ImageOps.fit(image, size, Image.Resampling.BICUBIC)

    def view(
        self,
        path: Path | io.BytesIO,
        column: Image,
        random: np.random.Generator | None,
        views: Views,
    ) -> np.ndarray | str:
        """[H, W, C] uint8, a random view where there is a generator, or why there is none."""
        from PIL import ExifTags, Image, ImageOps

        height, width, depth = column.shape
        try:
            with _open(path) as image:
                box, image_format = None, image.format
                if random is not None:
                    turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
                    across, down = image.size[::-1] if turned else image.size
                    box = views.box(across, down, random)
                if box is not None:  # a JPEG is decoded at the scale that the cut-out needs
                    left, top, right, bottom = box
                    least = math.ceil(width / (right - left)), math.ceil(height / (bottom - top))
                    image.draft(None, least[::-1] if turned else least)
                image.load()
                if "transparency" in image.info:
                    image = image.convert("RGBA")
                if image.mode in ALPHA:
                    ground = Image.new("RGBA", image.size, column.background)
                    ground.alpha_composite(image.convert("RGBA"))
                    image = ground.convert("RGB")
                image = ImageOps.exif_transpose(image)
                # Before resizing: palette indices and black-or-white pixels can't be averaged.
                image = image.convert("L" if depth == 1 else "RGB")
                if column.qualities and image_format != "JPEG":
                    pixels = np.asarray(image)
                    drawn = column.qualities[zlib.crc32(pixels.tobytes()) % len(column.qualities)]
                    image = Image.fromarray(recompressed(pixels, drawn))
                if box is not None:
                    w, h = image.size
                    edges = (left * w, top * h, right * w, bottom * h)
                    image = image.resize((width, height), Image.Resampling.BICUBIC, box=edges)
                elif image.size != (width, height):
                    image = self.fitted(image, (width, height))
                if random is not None:
                    image = views.change(image, random)
                array = np.asarray(image)
                if column.qualities:
                    array = recompressed(array, min(column.qualities))
                return array.reshape(column.shape)
        except _Unusable as error:
            return str(error)
        except Exception as error:
            return _reason(error, path)


def reread(rows: np.ndarray, column: Image) -> np.ndarray:
    """Images in memory as if they were read from lossless files: resized, cropped, compressed.

    Args:
      rows: [N, H, W, C] uint8.
      column: what they become.

    Returns:
      [N, *column.shape] uint8.
    """
    from PIL import Image

    reader = ImageFiles()

    def read(row: np.ndarray) -> np.ndarray:
        buffer = io.BytesIO()
        Image.fromarray(row[..., 0] if row.shape[-1] == 1 else row).save(buffer, "PPM")
        made = reader.row(buffer, column)
        assert not isinstance(made, str), made
        return made

    with ThreadPoolExecutor() as pool:
        made = [*pool.map(read, rows)]
    return np.stack(made) if made else np.zeros((0, *column.shape), np.uint8)


@contextlib.contextmanager
def _open(source: Path | io.BytesIO) -> Iterator[Any]:
    """Opens an image and judges it by its header, before a pixel is decoded."""
    from PIL import Image

    with contextlib.ExitStack() as stack:
        if isinstance(source, Path):
            if not source.is_file():
                link = source.is_symlink()
                raise _Unusable("a link that leads nowhere" if link else "no regular file")
            file = stack.enter_context(source.open("rb"))
        else:
            file = source
        image = stack.enter_context(Image.open(file))
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


def _reason(error: Exception, source: Path | io.BytesIO) -> str:
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return _foreign(source) if isinstance(source, Path) else "not an image"
    if isinstance(error, Image.DecompressionBombError):
        return f"over {MAX_PIXELS // 10**6} megapixels"
    if isinstance(error, OSError) and error.strerror:
        return f"can't be read: {error.strerror}"
    return f"damaged: {' '.join(str(error).split())[:80] or type(error).__name__}"


def _foreign(path: Path) -> str:
    """What a file is that Pillow does not read."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError:
        return "not an image"
    if not start:
        return "empty"
    for kind, is_it in _FOREIGN.items():
        if is_it(start):
            return (
                f"{kind}; convert it to PNG or JPEG" if kind.isupper() else f"{kind}, not an image"
            )
    return "not an image"


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
