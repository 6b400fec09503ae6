"""An invisible watermark: a secret pattern in images, and a detector with exact p-values.

The pattern is Gaussian noise made from a key, kept to a band of middle frequencies and laid over
the image in tiles of 64x64. The detector correlates a residual of the image with the same noise. A
residual r that knows nothing of the key, and noise g of independent standard normals, have

    <B r, g> / |B r|  ~  N(0, 1)    exactly, whatever the image,

where B is the filter of the band. So a p-value is the share of keys that would do as well; nothing
is fitted. A batch adds up its residuals, and the same holds for their sum.

Limits: it marks one's own images and is no lock. Whoever has many marked images can average them
and subtract the pattern; rotations, crops of resized images and copies by a generator lose it. The
rate of false positives is one over keys: to one key, images of one kind may look more marked than
the rate says. The key must be chosen before the image. `bench watermark` measures what survives.

References:
  Cox et al. 1997, Secure Spread Spectrum Watermarking for Multimedia, IEEE Trans. Image
  Processing 6(12). Hernandez et al. 2000, DCT-Domain Watermarking Techniques for Still Images:
  Detector Performance Analysis and a New Structure, IEEE Trans. Image Processing 9(1).
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxnets.errors import UserError

__all__ = ["ABOUT", "MAX_CROP", "MAX_SIDE", "MIN_SIDE", "PSNR", "Detection", "detect", "embed"]

#: Decibels between an image and its marked copy: what 3.2 grey levels of noise make.
PSNR = 38.0
#: What a record says about marked images; nothing about the key.
ABOUT = f"spread spectrum 1, about {PSNR:g} dB"
#: Pixels a side: smaller images have no room, and the detector resizes none to a larger size.
MIN_SIDE, MAX_SIDE = 8, 8192

_TILE = 64
#: The pattern repeats after a tile, so that more pixels cut off look like fewer.
MAX_CROP = _TILE - 1

#: Cycles a pixel. Below, images are strong; above, JPEG and resizing take all. It loses least to
#: JPEG 50 and to half size on Fashion-MNIST among 0.05-0.2, 0.08-0.25, 0.1-0.3 and 0.12-0.4.
_LOWEST, _HIGHEST = 0.1, 0.3

#: The residual's blur in pixels, and the grey levels below which its variance is no texture.
_SIGMA, _NOISE = 1.0, 2.5

_CHUNK = 256  # images whose correlations are in memory at a time
_LUMA = np.array([0.299, 0.587, 0.114])
_FLAT = 1e-9  # norm of a residual that is rounding alone


@dataclasses.dataclass(frozen=True)
class Detection:
    """What a detector finds in each image and in all together.

    Attributes:
      scores: [N] standard deviations; N(0, 1) for another key, or the greatest of as many such
        numbers as there were shifts.
      p_values: [N] in [0, 1]: the chance of such a score or a greater one without the mark,
        times the shifts that were tried (Bonferroni), at most 1.
      batch_score: the score of the sum of all images, which are taken to be shifted alike.
      batch_p_value: its p-value.
    """

    scores: np.ndarray
    p_values: np.ndarray
    batch_score: float
    batch_p_value: float


def embed(images: np.ndarray, key: str | int) -> np.ndarray:
    """Marks images.

    Args:
      images: [N, H, W, C] uint8, H and W 8 or more, C 1 or 3. All channels are changed alike.
      key: secret text or number. Whoever knows it can detect the mark, and remove it.

    Returns:
      [N, H, W, C] uint8, at about `PSNR`: 37.6 dB at the least and 39.2 in the mean on
      Fashion-MNIST, where rounding adds noise and the black ground cuts some of it off.

    Raises:
      UserError: for other images, or no key.
    """
    _check_images([images], 4)
    height, width = images.shape[1:3]
    rows, columns, _ = _band()
    spectrum = np.zeros((_TILE, _TILE // 2 + 1), np.complex128)
    spectrum[rows, columns] = np.fft.rfft2(_noise(str(key)))[rows, columns]
    pattern = np.fft.irfft2(spectrum, s=(_TILE, _TILE))
    pattern *= 255 * 10 ** (-PSNR / 20) / pattern.std()
    tiles = np.tile(pattern, (-(-height // _TILE), -(-width // _TILE)))[:height, :width, None]
    return np.stack([np.rint(one + tiles).clip(0, 255).astype(np.uint8) for one in images])


def detect(
    images: np.ndarray | Sequence[np.ndarray],
    key: str | int,
    *,
    crop: int = 0,
    size: tuple[int, int] | None = None,
) -> Detection:
    """Looks for the mark of a key.

    Args:
      images: [N, H, W, C] uint8, or N images [H, W, C] of any sizes; H and W 8 or more, C 1 or 3.
      key: the one that `embed` was given.
      crop: 0 to 63; up to so many pixels may have been cut off at the top and at the left. All
        (crop + 1)^2 shifts are tried, and the p-value pays for them.
      size: (H, W) that the images had when they were marked, to which they are resized first.

    Returns:
      A score and a p-value for each image, and for the batch.

    Raises:
      UserError: for other images, no key, or a crop or size out of range.
    """
    return detect_in(traces(images, size=size), key, crop=crop)


def traces(
    images: np.ndarray | Sequence[np.ndarray], *, size: tuple[int, int] | None = None
) -> np.ndarray:
    """What a detector sees of each image, whatever the key; see `detect` for the arguments.

    Returns:
      [N, F] complex64 of norm 1: the spectrum of the residual in the band. 0 for a flat image.
    """
    if not len(images):
        raise UserError("there are no images to look for a watermark in")
    _check_images(images, 3)
    if size is not None and not all(MIN_SIDE <= side <= MAX_SIDE for side in size):
        raise UserError(f"size {size[0]}x{size[1]} is outside {MIN_SIDE}..{MAX_SIDE} pixels a side")
    rows, columns, weights = _band()
    spectra = np.stack([np.fft.rfft2(_tile(one, size))[rows, columns] * weights for one in images])
    return _unit(spectra).astype(np.complex64)


def detect_in(spectra: np.ndarray, key: str | int, *, crop: int = 0) -> Detection:
    """Looks for the mark of a key in what `traces` gave of N images; see `detect`."""
    from scipy.special import ndtr

    if not 0 <= crop <= MAX_CROP:
        raise UserError(f"crop {crop} is outside 0..{MAX_CROP} pixels")
    templates = _templates(str(key), crop)
    parts = [spectra[i : i + _CHUNK] for i in range(0, len(spectra), _CHUNK)]
    parts.append(_unit(spectra.sum(axis=0, dtype=np.complex128, keepdims=True)))
    scores = np.concatenate([np.real(one.conj() @ templates).max(axis=1) for one in parts])
    # The greatest of so many standard normals, however they depend on each other.
    chances = templates.shape[1] * np.where(scores == 0, 1.0, ndtr(-scores.astype(float)))
    p_values = np.minimum(1.0, chances)
    return Detection(
        scores[:-1].astype(float), p_values[:-1], float(scores[-1]), float(p_values[-1])
    )


def _unit(spectra: np.ndarray) -> np.ndarray:
    """The rows of [N, F], each divided by its norm; 0 where that is rounding alone."""
    norms = np.linalg.norm(spectra, axis=1, keepdims=True)
    return spectra / np.where(norms > _FLAT, norms, np.inf)


@functools.lru_cache(maxsize=1)
def _templates(key: str, crop: int) -> np.ndarray:
    """[F, (crop + 1)^2] complex64: the spectrum of a key's noise after each shift."""
    rows, columns, weights = _band()
    noise = np.fft.rfft2(_noise(key))[rows, columns] * weights / _TILE
    shifts = np.indices((crop + 1, crop + 1)).reshape(2, -1)
    turns = np.exp(2j * np.pi / _TILE * (np.outer(rows, shifts[0]) + np.outer(columns, shifts[1])))
    return (noise[:, None] * turns).astype(np.complex64)


def _check_images(images: np.ndarray | Sequence[np.ndarray], rank: int) -> None:
    for one in images:
        shape: Any = getattr(one, "shape", ())
        fits = len(shape) == rank and shape[-1] in (1, 3) and 0 not in shape
        if not fits or one.dtype != np.uint8:
            what = "[N, H, W, C]" if rank == 4 else "[H, W, C]"
            kind = getattr(one, "dtype", type(one).__name__)
            raise UserError(
                f"images of shape {tuple(shape)} and type {kind} cannot have a watermark; give "
                f"uint8 {what} with C = 1 or 3"
            )
        height, width = shape[-3:-1]
        if min(height, width) < MIN_SIDE:
            raise UserError(
                f"an image of {height}x{width} pixels is too small for a watermark; it "
                f"needs {MIN_SIDE}x{MIN_SIDE}"
            )


def _noise(key: str) -> np.ndarray:
    """[64, 64] standard normals by Box and Muller, from a hash that stays the same for ever."""
    if not key.strip():
        raise UserError("the watermark's key is empty; give a text or a number")
    try:
        code = key.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"the watermark's key {key!r} is not valid UTF-8") from error
    words = hashlib.shake_256(b"jaxnets watermark 1\0" + code).digest(8 * _TILE * _TILE)
    uniform = (np.frombuffer(words, "<u8") >> 11) * 2.0**-53
    radius, angle = np.sqrt(-2 * np.log1p(-uniform[0::2])), 2 * np.pi * uniform[1::2]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1).reshape(_TILE, _TILE)


@functools.cache
def _band() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and columns of the F frequencies that the filter keeps, and their weights.

    They are those of a half spectrum [64, 33]; the weights' squares count both halves.
    """
    rows, columns = np.fft.fftfreq(_TILE)[:, None], np.fft.rfftfreq(_TILE)[None]
    frequency = np.hypot(rows, columns)
    rows, columns = np.nonzero((frequency >= _LOWEST) & (frequency <= _HIGHEST))
    return rows, columns, np.where(columns == 0, 1.0, math.sqrt(2))


def _tile(image: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """[64, 64] the sum of the residual over all tiles of an image [H, W, C]."""
    grey = image[..., 0].astype(np.float64) if image.shape[-1] == 1 else image @ _LUMA
    if size is not None and size != grey.shape:
        from PIL import Image

        plane = Image.fromarray(grey.astype(np.float32))
        grey = np.asarray(plane.resize((size[1], size[0]), Image.Resampling.BICUBIC), np.float64)
    rest = _residual(grey)
    rest = np.pad(rest, [(0, -side % _TILE) for side in rest.shape])
    return rest.reshape(-(-grey.shape[0] // _TILE), _TILE, -1, _TILE).sum(axis=(0, 2))


def _residual(grey: np.ndarray) -> np.ndarray:
    """What a blur of an image [H, W] takes away, divided by its variance there.

    So flat parts, where the mark stands alone, count most, and edges and texture least.
    """
    from scipy.ndimage import gaussian_filter

    blur = functools.partial(gaussian_filter, sigma=_SIGMA, truncate=3.0)
    rest = grey - blur(grey)
    return rest / (blur(rest * rest) + _NOISE**2)
