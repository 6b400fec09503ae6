"""Average precision of boxes: COCO's against pycocotools, VOC's by hand."""

import contextlib
import io

import numpy as np
import pytest

from jaxnets.errors import UserError
from jaxnets.metrics.detection import (
    BoxesFound,
    BoxesThere,
    coco_scores,
    overlaps,
    voc_average_precision,
)

NAMES = ("red", "green", "blue")
#: Our name -> place among the twelve numbers of pycocotools.
PLACES = {
    **{name: i for i, name in enumerate(("ap", "ap50", "ap75", "ap_small", "ap_medium"))},
    **{"ap_large": 5, "ar_1": 6, "ar_10": 7, "ar_100": 8},
    **{"ar_small": 9, "ar_medium": 10, "ar_large": 11},
}


def boxes(draws, count, most):
    corners = draws.uniform(0, 200, (count, 2))
    return np.concatenate([corners, corners + draws.uniform(2, most, (count, 2))], axis=1)


def a_case(seed, classes=3, pictures=12):
    """Pictures with objects, some ignored or crowds, and boxes near them or anywhere."""
    draws = np.random.default_rng(seed)
    there, found = [], []
    for _ in range(pictures):
        count = int(draws.integers(0, 9))
        place = boxes(draws, count, draws.choice([30, 80, 150]))
        labels = draws.integers(0, classes, count)
        crowd = draws.random(count) < 0.15
        there.append(BoxesThere(place, labels, None, crowd))
        near = np.repeat(place, 2, axis=0) + draws.normal(0, draws.choice([1, 6]), (2 * count, 4))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        # Some at the very place of another, with equal scores.
        near = np.concatenate([near, near[:1], boxes(draws, int(draws.integers(0, 120)), 90)])
        said = np.concatenate([np.repeat(labels, 2), labels[:1], draws.integers(0, classes, 120)])
        said = said[: len(near)]
        found.append(BoxesFound(near, said, draws.integers(0, 40, len(near)) / 40))
    return there, found


def by_pycocotools(there, found, classes):
    """The twelve numbers, and average precision [T, R, K] of all areas and 100 boxes."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    objects, said = [], []
    for image, (t, f) in enumerate(zip(there, found, strict=True), 1):
        crowd = np.zeros(len(t.boxes), bool) if t.crowd is None else t.crowd
        for box, label, many in zip(t.boxes, t.labels, crowd, strict=True):
            width, height = box[2:] - box[:2]
            objects.append(
                {
                    "id": len(objects) + 1,
                    "image_id": image,
                    "category_id": int(label) + 1,
                    "bbox": [*box[:2], width, height],
                    "area": width * height,
                    "iscrowd": int(many),
                }
            )
        for box, label, score in zip(f.boxes, f.labels, f.scores, strict=True):
            said.append(
                {
                    "image_id": image,
                    "category_id": int(label) + 1,
                    "bbox": [*box[:2], *(box[2:] - box[:2])],
                    "score": float(score),
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = {
            "images": [{"id": i + 1} for i in range(len(there))],
            "categories": [{"id": i + 1, "name": str(i)} for i in range(classes)],
            "annotations": objects,
        }
        truth.createIndex()
        judge = cocoeval.COCOeval(truth, truth.loadRes(said), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats, judge.eval["precision"][:, :, :, 0, 2]


@pytest.mark.parametrize("seed", range(6))
def test_coco_scores_are_those_of_pycocotools(seed):
    there, found = a_case(seed)
    stats, precision = by_pycocotools(there, found, len(NAMES))
    ours = coco_scores(there, found, NAMES)
    for name, place in PLACES.items():
        theirs = stats[place]
        assert (name not in ours) if theirs < 0 else ours[name] == pytest.approx(theirs, abs=1e-9)
    for label, name in enumerate(NAMES):
        assert ours[f"ap/{name}"] == pytest.approx(precision[:, :, label].mean(), abs=1e-9)
    assert 0.005 < ours["ap"] < 0.98


def one(place, label=0, **more):
    return BoxesThere(np.array([place], float), np.array([label]), **more)


def seen(*places, scores):
    return BoxesFound(np.array(places, float), np.zeros(len(places), int), np.array(scores))


def test_overlaps_by_hand():
    found, there = (
        np.array([[0.0, 0, 2, 2]]),
        np.array([[1.0, 0, 3, 2], [5, 5, 6, 6], [0, 0, 0, 0]]),
    )
    np.testing.assert_allclose(overlaps(found, there), [[1 / 3, 0, 0]])
    np.testing.assert_allclose(overlaps(found, there, np.array([True] * 3)), [[0.5, 0, 0]])


def test_voc_by_hand():
    there = [one([0, 0, 10, 10]), one([0, 0, 10, 10])]
    # Found, a second time (a false alarm), beside it; and in the other picture, less sure.
    found = [
        seen([0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60], scores=[0.9, 0.8, 0.7]),
        seen([0, 0, 9, 10], scores=[0.6]),
    ]
    # Precision 1 at recall 1/2, and 2/4 at recall 1.
    assert voc_average_precision(there, found, 0) == pytest.approx(0.5 * 1 + 0.5 * 0.5)
    eleven = voc_average_precision(there, found, 0, eleven_points=True)
    assert eleven == pytest.approx((6 * 1 + 5 * 0.5) / 11)


def test_what_is_difficult_counts_neither_way():
    hard = one([0, 0, 10, 10], ignored=np.array([True]))
    there = [hard, one([0, 0, 10, 10])]
    found = [seen([0, 0, 10, 10], scores=[0.9]), seen([0, 0, 10, 10], scores=[0.8])]
    assert voc_average_precision(there, found, 0) == 1.0
    assert coco_scores(there, found, ("a",))["ap"] == 1.0
    with pytest.raises(UserError, match="no picture has an object of class 0"):
        voc_average_precision([hard], found[:1], 0)


def test_nothing_found_is_0_and_nothing_there_is_left_out():
    nothing = BoxesFound(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))
    scores = coco_scores([one([0, 0, 40, 40])], [nothing], ("a", "b"))
    assert scores["ap"] == 0.0 == scores["ar_100"] and "ap/b" not in scores
    assert "ap_small" not in scores and scores["ap_medium"] == 0.0
    assert voc_average_precision([one([0, 0, 40, 40])], [nothing], 0) == 0.0


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="1 pictures have objects and 0 found boxes"):
        coco_scores([one([0, 0, 1, 1])], [], ("a",))
    with pytest.raises(UserError, match="a label of picture 0 is outside"):
        coco_scores([one([0, 0, 1, 1], label=1)], [seen([0, 0, 1, 1], scores=[1.0])], ("a",))
    with pytest.raises(UserError, match="not finite"):
        coco_scores([one([0, 0, 1, 1])], [seen([0, 0, 1, 1], scores=[np.nan])], ("a",))
    with pytest.raises(UserError, match=r"found boxes of picture 0 must be \[K, 4\]"):
        coco_scores([one([0, 0, 1, 1])], [seen([0, 0, 1], scores=[1.0])], ("a",))
