"""Boxes drawn into pictures."""

from collections.abc import Sequence

import numpy as np

from jaxnets.media.letters import letters_for

__all__ = ["drawn"]

#: Of classes, in turn.
_COLOURS = (
    *((230, 60, 50), (40, 120, 230), (240, 170, 30), (30, 160, 90), (150, 70, 200)),
    *((0, 170, 190), (220, 70, 150), (120, 120, 40)),
)
_IGNORED = (150, 150, 150)


def drawn(
    picture: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    *,
    ignored: np.ndarray | None = None,
    texts: Sequence[str] | None = None,
) -> np.ndarray:
    """A picture with the outlines of boxes, a colour for each class.

    Args:
      picture: [H, W, C] uint8, C being 1 or 3.
      boxes: [K, 4] left, top, right, bottom in its pixels.
      labels: [K] class of each.
      ignored: [K] bool: those are grey.
      texts: what is written at the upper left corner of each.

    Returns:
      [H, W, 3] uint8.
    """
    from PIL import Image, ImageDraw

    image = Image.fromarray(np.ascontiguousarray(np.broadcast_to(picture, (*picture.shape[:2], 3))))
    draw, wide = ImageDraw.Draw(image), max(1, round(max(picture.shape) / 300))
    font, (texts,) = letters_for(texts)
    grey = np.zeros(len(boxes), bool) if ignored is None else ignored
    for place, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        colour = _IGNORED if grey[place] else _COLOURS[int(label) % len(_COLOURS)]
        left, top, right, bottom = map(float, box)
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), None, colour, wide)
        if texts is not None:
            at = (left + wide + 1, top + wide)
            draw.rectangle(draw.textbbox(at, texts[place], font=font), colour)
            draw.text(at, texts[place], (255, 255, 255), font)
    return np.asarray(image)
