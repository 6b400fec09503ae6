"""Letters in pictures: a font that has those of a text, whatever its script."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["letters_for"]

_SIZE = 13


def letters_for(*labels: Sequence[str] | None) -> tuple[Any, tuple[list[str] | None, ...]]:
    """A font of Pillow's that can draw some labels, and the labels as it draws them.

    Args:
      *labels: for the rows, say, and for the columns; None for none.

    Returns:
      The font: Pillow's own for ASCII; else DejaVu Sans, which comes with matplotlib, or the first
      font of the system that has every character. The labels: where no font has a label's
      characters, its number stands for it.
    """
    from PIL import ImageFont

    texts = [text for of in labels for text in of or ()]
    wanted = frozenset(ord(c) for text in texts for c in text if not c.isascii())
    if not wanted:
        kept = tuple(None if of is None else list(of) for of in labels)
        return ImageFont.load_default(size=_SIZE), kept
    path, known = _font_with(wanted)

    def drawn(of: Sequence[str] | None) -> list[str] | None:
        if of is None:
            return None
        return [
            text if {ord(c) for c in text} <= known else f"number {i}" for i, text in enumerate(of)
        ]

    return ImageFont.truetype(path, _SIZE), tuple(drawn(of) for of in labels)


@functools.lru_cache(maxsize=8)
def _font_with(wanted: frozenset[int]) -> tuple[str, frozenset[int]]:
    """The font that has the most of some characters, DejaVu Sans before those of the system."""
    from matplotlib import font_manager, get_data_path
    from matplotlib.ft2font import FT2Font

    best = str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
    known = frozenset(FT2Font(best).get_charmap())
    for path in sorted(font_manager.findSystemFonts()):
        if wanted <= known:
            break
        try:
            characters = frozenset(FT2Font(path).get_charmap())
        except (OSError, RuntimeError):  # not a font after all
            continue
        if len(wanted & characters) > len(wanted & known):
            best, known = path, characters
    return best, known
