"""Names of classes in other scripts than Latin, in pictures and drawings."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from jaxnets.media.letters import letters_for
from jaxnets.media.report import confusion_svg, grid_png

UNKNOWN = "\U000e0100"  # of no font


def drawn(*labels: str) -> np.ndarray:
    images = np.zeros((len(labels), 64, 64, 1), np.uint8)
    return np.asarray(Image.open(io.BytesIO(grid_png(images, 1, row_labels=labels))))


@pytest.mark.parametrize("names", [("кот", "пёс"), ("γάτα", "σκύλος"), ("chat", "forêt")])
def test_names_are_drawn_in_their_script(names):
    font, (shown, none) = letters_for(names, None)
    assert shown == list(names) and none is None
    # Each letter has a shape of its own: boxes for what a font lacks would all be the same.
    shapes = {(*font.getmask(c).getbbox(), bytes(font.getmask(c))) for c in set("".join(names))}
    assert len(shapes) == len(set("".join(names)))
    assert not np.array_equal(drawn(*names), drawn(*reversed(names)))


def test_a_name_that_no_font_has_is_a_number():
    assert letters_for(["кот", UNKNOWN], ["a"])[1] == (["кот", "number 1"], ["a"])
    assert drawn(UNKNOWN, "кот").any()


def test_drawings_keep_the_names_as_text_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawing = confusion_svg(np.eye(2, dtype=int), ("猫", "犬"))
    assert "猫" in drawing and "犬" in drawing
