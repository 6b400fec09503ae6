"""What a detector finds in pictures, in their own pixels, and how right that is."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jaxnets.data import Split, eval_batches
from jaxnets.data.sources.objects import Picture, shares_of_pixels
from jaxnets.judge.sampling import apply
from jaxnets.metrics import BoxesFound, BoxesThere, coco_scores
from jaxnets.models.detectors import boxes_of
from jaxnets.typing import Array, PyTree

__all__ = ["Look", "find", "in_pixels", "look_with", "scores", "there_is"]

_BATCH = 16

#: (variables, images [B, H, W, C] as networks see them) -> "boxes", "labels" and "scores".
Look = Callable[[PyTree, Any], dict[str, Array]]


def look_with(module: nn.Module, most: int = 100) -> Look:
    """A detector as a compiled function; its boxes are in shares of the image."""

    def look(variables: PyTree, images: Array) -> dict[str, Array]:
        maps: Any = apply(module, variables, images)[0]
        height, width = images.shape[1:3]
        return boxes_of(maps, (height, width), most)

    return jax.jit(look)


def in_pixels(boxes: np.ndarray, size: tuple[int, int], frame: tuple[int, int]) -> np.ndarray:
    """Boxes [N, 4] in shares of a frame as pixels of the picture that lies in it.

    Args:
      boxes: left, top, right, bottom.
      size: (height, width) of the picture.
      frame: of the frame.
    """
    pixels = boxes / shares_of_pixels(size, frame)
    return np.clip(pixels, 0, [size[1], size[0], size[1], size[0]])


def find(
    look: Look, variables: PyTree, split: Split, pictures: Sequence[Picture], least: float = 0.01
) -> list[BoxesFound]:
    """What is found in pictures, in their own pixels.

    Args:
      look: see `look_with`.
      variables: of the detector.
      split: the pictures in their frames.
      pictures: what they were made of, in the same order.
      least: score of a box that counts.
    """
    frame: Any = split.inputs.shape[1:3]
    found, sizes = [], iter([one.size for one in pictures])
    for batch in eval_batches(split, _BATCH):
        said = {name: np.asarray(of) for name, of in look(variables, batch["inputs"]).items()}
        for row in np.flatnonzero(batch["mask"]):
            kept = said["scores"][row] >= least
            boxes = in_pixels(said["boxes"][row][kept], next(sizes), frame)
            found.append(BoxesFound(boxes, said["labels"][row][kept], said["scores"][row][kept]))
    return found


def there_is(pictures: Sequence[Picture]) -> list[BoxesThere]:
    """The objects of pictures as metrics take them."""
    return [
        BoxesThere(one.boxes, one.labels, one.ignored, one.crowd, one.areas) for one in pictures
    ]


def scores(
    found: Sequence[BoxesFound], pictures: Sequence[Picture], names: Sequence[str]
) -> dict[str, float]:
    """COCO's numbers, see `jaxnets.metrics.coco_scores`."""
    return coco_scores(there_is(pictures), found, names)
