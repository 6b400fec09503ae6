"""How well boxes are found: the averages of COCO, and the average precision of Pascal VOC.

Boxes are [K, 4]: left, top, right and bottom in pixels of the picture, whose corner is 0, 0. A
pixel is a square of side 1, so that a box of one pixel is [x, y, x + 1, y + 1].
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxnets.errors import UserError

__all__ = ["BoxesFound", "BoxesThere", "coco_scores", "overlaps", "voc_average_precision"]

#: From which share of overlap on a box is found; recalls at which precision is read off.
_OVERLAPS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0.0, 1.0, 101)
#: Name -> areas in square pixels, ends included.
_AREAS = {
    "": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
#: So many boxes of a class and picture count, those with the highest scores.
_MOST = (1, 10, 100)


@dataclasses.dataclass(frozen=True)
class BoxesThere:
    """The objects of a picture.

    Attributes:
      boxes: [K, 4].
      labels: [K] class of each.
      ignored: [K] bool: whether finding it counts neither for nor against a detector, as of what
        is "difficult" to VOC; by default none.
      crowd: [K] bool: whether it is a region with many objects, which any number of found boxes may
        lie in (COCO); these are ignored too. By default none.
      areas: [K] of the objects in square pixels, where they are known better than their boxes'.
    """

    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray | None = None
    crowd: np.ndarray | None = None
    areas: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class BoxesFound:
    """What a detector says of a picture.

    Attributes:
      boxes: [D, 4].
      labels: [D] class of each.
      scores: [D], higher the surer.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


def overlaps(found: np.ndarray, there: np.ndarray, crowd: np.ndarray | None = None) -> np.ndarray:
    """Intersection over union [D, K] of boxes [D, 4] and [K, 4].

    Where `crowd` [K] is True, intersection over the area of the found box.
    """
    low = np.maximum(found[:, None, :2], there[None, :, :2])
    high = np.minimum(found[:, None, 2:], there[None, :, 2:])
    inside = np.prod(np.maximum(high - low, 0.0), axis=-1)
    whole = _areas(found)[:, None] + _areas(there)[None] - inside
    if crowd is not None:
        whole = np.where(crowd[None], _areas(found)[:, None], whole)
    return np.divide(inside, whole, out=np.zeros_like(inside), where=whole > 0)


def coco_scores(
    there: Sequence[BoxesThere], found: Sequence[BoxesFound], class_names: Sequence[str]
) -> dict[str, float]:
    """Average precision and recall as COCO defines them.

    Args:
      there: the objects of each picture.
      found: what was found in it, in the same order.
      class_names: of the K classes.

    Returns:
      Name -> number in 0..1: `ap` (mean over overlaps of 0.5 to 0.95 and classes), `ap50`, `ap75`,
      `ap_small`, `ap_medium`, `ap_large`, `ar_1`, `ar_10`, `ar_100` (recall with at most so many
      boxes of a class in a picture), `ar_small`, `ar_medium`, `ar_large`, and `ap/NAME` and
      `ap50/NAME` of each class. What there is no object for is left out.

    Raises:
      UserError: for another number of pictures in one of both, or arrays that don't match.

    Reference:
      Lin et al. 2014, Microsoft COCO, arXiv:1405.0312; the rules are those of its evaluation code,
      with areas of boxes where no others are given.
    """
    _check(there, found, len(class_names))
    precision: dict[tuple[int, str], np.ndarray] = {}
    recall: dict[tuple[int, str, int], np.ndarray] = {}
    for label in range(len(class_names)):
        pairs = [_of_class(t, f, label) for t, f in zip(there, found, strict=True)]
        for area, limits in _AREAS.items():
            judged = [_match(t, f, limits) for t, f in pairs]
            wanted = sum(one.wanted for one in judged)
            if not wanted:
                continue
            for most in _MOST if not area else _MOST[-1:]:
                hits, alarms = _curves(judged, most)
                recall[label, area, most] = hits[:, -1:].sum(axis=1) / wanted
            precision[label, area] = np.stack(
                [_precisions(h / wanted, h, a) for h, a in zip(hits, alarms, strict=True)]
            )
    classes = sorted({label for label, _ in precision})
    scores: dict[str, float] = {}
    for area in _AREAS:
        suffix = f"_{area}" if area else ""
        of_area = [precision[label, area] for label in classes if (label, area) in precision]
        if not of_area:
            continue
        scores[f"ap{suffix}"] = float(np.mean(of_area))
        for most in _MOST if not area else ():
            scores[f"ar_{most}"] = float(np.mean([recall[label, area, most] for label in classes]))
        if area:
            of_recall = [v for (_, of, _), v in recall.items() if of == area]
            scores[f"ar{suffix}"] = float(np.mean(of_recall))
    for label in classes:
        scores[f"ap/{class_names[label]}"] = float(precision[label, ""].mean())
        scores[f"ap50/{class_names[label]}"] = float(precision[label, ""][0].mean())
    for name, place in (("ap50", 0), ("ap75", 5)):
        if classes:
            scores[name] = float(np.mean([precision[label, ""][place] for label in classes]))
    return scores


def voc_average_precision(
    there: Sequence[BoxesThere],
    found: Sequence[BoxesFound],
    label: int,
    *,
    overlap: float = 0.5,
    eleven_points: bool = False,
) -> float:
    """Average precision of one class as Pascal VOC defines it.

    A found box belongs to the object of its class that it overlaps most, whether or not that one is
    found already; so of two boxes on one object the second is a false alarm. What belongs to an
    ignored object does not count.

    Args:
      there: the objects of each picture.
      found: what was found in it, in the same order.
      label: the class.
      overlap: least intersection over union.
      eleven_points: the mean of the precision at recalls of 0, 0.1, ..., 1, as until 2009, instead
        of the area under the curve.

    Raises:
      UserError: for another number of pictures in one of both, or no object that counts.

    Reference:
      Everingham et al. 2010, The Pascal Visual Object Classes Challenge, IJCV 88. Its boxes end
      with their last pixel, so add 1 to their right and bottom to have the areas that it uses.
    """
    _check(there, found, label + 1)
    scores, hits, wanted = [], [], 0
    for t, f in (_of_class(t, f, label) for t, f in zip(there, found, strict=True)):
        ignored, taken = _flags(t), np.zeros(len(t.boxes), bool)
        wanted += int((~ignored).sum())
        shares = overlaps(f.boxes, t.boxes)
        for row in range(len(f.boxes)):
            best = int(shares[row].argmax()) if len(t.boxes) else -1
            inside = best >= 0 and shares[row, best] >= overlap
            if inside and ignored[best]:
                continue
            hits.append(inside and not taken[best])
            scores.append(f.scores[row])
            if inside:
                taken[best] = True
    if not wanted:
        raise UserError(f"no picture has an object of class {label} that counts")
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    right = np.asarray(hits, np.float64)[order]
    found_so_far = np.cumsum(right)
    recall = found_so_far / wanted
    precision = found_so_far / np.arange(1, len(right) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    if eleven_points:
        marks = np.arange(11) / 10
        return float(np.mean([highest[recall >= mark - 1e-12].max(initial=0.0) for mark in marks]))
    return float(np.sum(np.diff(recall, prepend=0.0) * highest))


@dataclasses.dataclass(frozen=True)
class _Judged:
    """Found boxes of a class in a picture, the surest first.

    Attributes:
      scores: [D].
      hit: [T, D] whether it found an object, for each least overlap.
      counts: [T, D] whether it counts at all.
      wanted: objects that are to be found.
    """

    scores: np.ndarray
    hit: np.ndarray
    counts: np.ndarray
    wanted: int


def _areas(boxes: np.ndarray) -> np.ndarray:
    return np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0.0), axis=-1)


def _flags(there: BoxesThere) -> np.ndarray:
    """[K] which objects don't count."""
    flags = [of for of in (there.ignored, there.crowd) if of is not None]
    return np.logical_or.reduce([np.zeros(len(there.boxes), bool), *flags])


def _of_class(there: BoxesThere, found: BoxesFound, label: int) -> tuple[BoxesThere, BoxesFound]:
    """The objects of a class, and the boxes that were found of it: the surest 100 first."""
    own = there.labels == label

    def some(of: np.ndarray | None) -> np.ndarray | None:
        return None if of is None else of[own]

    objects = BoxesThere(
        np.asarray(there.boxes, np.float64)[own],
        there.labels[own],
        *(some(of) for of in (there.ignored, there.crowd, there.areas)),
    )
    rows = np.flatnonzero(found.labels == label)
    rows = rows[np.argsort(-found.scores[rows], kind="stable")]
    boxes = np.asarray(found.boxes, np.float64)[rows]
    return objects, BoxesFound(boxes, found.labels[rows], found.scores[rows])


def _match(there: BoxesThere, found: BoxesFound, limits: tuple[float, float]) -> _Judged:
    """Gives found boxes to objects, the surest first, for every least overlap at once.

    Each takes the object that it overlaps most among those that are free and count; if there is
    none, one that is ignored, and then it does not count itself.
    """
    boxes, scores = found.boxes[: _MOST[-1]], found.scores[: _MOST[-1]]
    areas = _areas(there.boxes) if there.areas is None else there.areas
    crowd = np.zeros(len(areas), bool) if there.crowd is None else there.crowd
    ignored = _flags(there) | (areas < limits[0]) | (areas > limits[1])
    shares = overlaps(boxes, there.boxes, crowd)
    kinds = len(_OVERLAPS)
    hit, counts = np.zeros((kinds, len(boxes)), bool), np.ones((kinds, len(boxes)), bool)
    taken = np.zeros((kinds, len(areas)), bool)
    every = np.arange(kinds)
    for row, share in enumerate(shares):
        free = (~taken | crowd) & (share >= _OVERLAPS[:, None])
        found_one = np.zeros(kinds, bool)
        for group in (~ignored, ignored):
            able = free & group & ~found_one[:, None]
            if not able.any():
                continue
            # Of equal overlaps the last, as in COCO's code.
            best = len(areas) - 1 - np.where(able, share, -1.0)[:, ::-1].argmax(axis=1)
            there_is = able[every, best]
            taken[every[there_is], best[there_is]] = True
            found_one |= there_is
            hit[there_is, row] = True
            counts[there_is, row] = ~ignored[best[there_is]]
    own = _areas(boxes)
    counts &= hit | ((own >= limits[0]) & (own <= limits[1]))
    return _Judged(scores, hit, counts, int((~ignored).sum()))


def _curves(judged: Sequence[_Judged], most: int) -> tuple[np.ndarray, np.ndarray]:
    """Hits and false alarms [T, D] of all pictures up to each found box, the surest first."""
    scores = np.concatenate([one.scores[:most] for one in judged])
    order = np.argsort(-scores, kind="stable")
    hit, counts = (
        np.concatenate([getattr(one, name)[:, :most] for one in judged], axis=1)[:, order]
        for name in ("hit", "counts")
    )
    return np.cumsum(hit & counts, axis=1), np.cumsum(~hit & counts, axis=1)


def _precisions(recall: np.ndarray, hits: np.ndarray, alarms: np.ndarray) -> np.ndarray:
    """The highest precision at each of `_RECALLS` or beyond, [101]."""
    precision = hits / np.maximum(hits + alarms, 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, _RECALLS, side="left")
    return np.append(highest, 0.0)[np.minimum(places, len(highest))]


def _check(there: Sequence[BoxesThere], found: Sequence[BoxesFound], classes: int) -> None:
    if len(there) != len(found):
        raise UserError(f"{len(there)} pictures have objects and {len(found)} found boxes")
    for number, (t, f) in enumerate(zip(there, found, strict=True)):
        for what, boxes, others in (
            ("objects", t.boxes, (t.labels, t.ignored, t.crowd, t.areas)),
            ("found boxes", f.boxes, (f.labels, f.scores)),
        ):
            lengths = {len(of) for of in others if of is not None}
            if np.shape(boxes)[1:] != (4,) or lengths != {len(boxes)}:
                raise UserError(
                    f"the {what} of picture {number} must be [K, 4], and all else of them [K]"
                )
        if not np.isfinite(f.scores).all():
            raise UserError(f"a score of picture {number} is not finite")
        if len(t.labels) and not 0 <= int(t.labels.min()) <= int(t.labels.max()) < max(classes, 1):
            raise UserError(f"a label of picture {number} is outside 0..{classes - 1}")
