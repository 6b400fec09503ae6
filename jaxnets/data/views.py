"""Random views of a picture as it lies in its file: random resized crop and RandAugment."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Views"]

_STRONGEST, _OPERATIONS, _TRIES = 30, 2, 10
_GREY = 128

#: (left, top, right, bottom), as shares of width and height.
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Views:
    """What is done at random to a picture when it is read to be trained on.

    Attributes:
      resized_crop: the least share of its area that is cut out and resized; None takes the middle.
      rand_augment: strength of RandAugment from 1 to 30; 0 is off.
    """

    resized_crop: float | None = None
    rand_augment: int = 0

    def box(self, width: int, height: int, random: np.random.Generator) -> Box | None:
        """What is cut out of a picture of that size; None is the middle of the usual shape.

        A share of its area uniform from `resized_crop` to 1, of an aspect from 3:4 to 4:3, at a
        uniform place; the middle where ten draws reach beyond the picture.

        Reference:
          Szegedy et al. 2015, Going Deeper with Convolutions, arXiv:1409.4842.
        """
        if self.resized_crop is None:
            return None
        for _ in range(_TRIES):
            area = width * height * random.uniform(self.resized_crop, 1.0)
            aspect = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = math.sqrt(area * aspect) / width, math.sqrt(area / aspect) / height
            if w <= 1 and h <= 1:
                left, top = random.uniform(0, 1 - w), random.uniform(0, 1 - h)
                return left, top, left + w, top + h
        return None

    def change(self, image: Any, random: np.random.Generator) -> Any:
        """Two operations of RandAugment, each drawn from all, with the one strength.

        The operations and their ranges are those of torchvision; what is moved in is grey.

        Args:
          image: of Pillow, in mode L or RGB.
          random: draws which, and the signs.

        Reference:
          Cubuk et al. 2019, RandAugment, arXiv:1909.13719.
        """
        if not self.rand_augment:
            return image
        strength = self.rand_augment / _STRONGEST
        for place in random.integers(len(_ALL), size=_OPERATIONS):
            sign = -1.0 if random.uniform() < 0.5 else 1.0
            image = _ALL[place](image, strength, sign)
        return image


def _grey(image: Any) -> Any:
    """What is moved in."""
    return _GREY if image.mode == "L" else (_GREY,) * 3


def _affine(image: Any, *matrix: float) -> Any:
    from PIL import Image

    how = Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    return image.transform(image.size, *how, fillcolor=_grey(image))


def _rotate(image: Any, strength: float, sign: float) -> Any:
    return image.rotate(30 * strength * sign, fillcolor=_grey(image))


def _enhance(kind: str) -> Callable[[Any, float, float], Any]:
    def enhanced(image: Any, strength: float, sign: float) -> Any:
        from PIL import ImageEnhance

        return getattr(ImageEnhance, kind)(image).enhance(1 + 0.9 * strength * sign)

    return enhanced


def _by_levels(kind: str, level: Callable[[float], tuple[int, ...]]) -> Callable[..., Any]:
    def changed(image: Any, strength: float, sign: float) -> Any:
        from PIL import ImageOps

        return getattr(ImageOps, kind)(image, *level(strength))

    return changed


_MOVE, _SHEAR = 150 / 331, 0.3
_ALL: tuple[Callable[[Any, float, float], Any], ...] = (
    lambda image, strength, sign: image,
    lambda image, strength, sign: _affine(image, 1, _SHEAR * strength * sign, 0, 0, 1, 0),
    lambda image, strength, sign: _affine(image, 1, 0, 0, _SHEAR * strength * sign, 1, 0),
    lambda image, strength, sign: _affine(
        image, 1, 0, _MOVE * strength * sign * image.width, 0, 1, 0
    ),
    lambda image, strength, sign: _affine(
        image, 1, 0, 0, 0, 1, _MOVE * strength * sign * image.height
    ),
    _rotate,
    _enhance("Brightness"),
    _enhance("Color"),
    _enhance("Contrast"),
    _enhance("Sharpness"),
    _by_levels("posterize", lambda strength: (8 - round(4 * strength),)),
    _by_levels("solarize", lambda strength: (round(256 * (1 - strength)),)),
    _by_levels("autocontrast", lambda strength: ()),
    _by_levels("equalize", lambda strength: ()),
)
