"""The detector: its targets, losses and boxes, views of pictures with boxes, and that it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.columns import Boxes, Image
from jaxnets.columns.boxes import IGNORED, NOTHING, OBJECT
from jaxnets.data import Split, make_pipeline
from jaxnets.data.box_views import BoxViews, mosaic, moved
from jaxnets.errors import UserError
from jaxnets.losses.detection import box_overlap, detection_losses, heat_loss, targets_of
from jaxnets.metrics import BoxesFound, BoxesThere, coco_scores
from jaxnets.models.detectors import boxes_of, corners, make_detector
from jaxnets.train.detection import detector_step
from jaxnets.train.optimizers import make_optimizer
from jaxnets.train.state import TrainState, init_net

SIZE = (32, 48)
COLUMN = Image((*SIZE, 3))
BACKBONE = {"name": "resnet_3x2", "num_classes": 2, "width": 0.25}


def rows_of(*things, most=3):
    """Objects given as left, top, right, bottom in pixels of `SIZE`, class and kind."""
    rows = np.zeros((most, 6), np.float32)
    for row, (left, top, right, bottom, label, kind) in zip(rows, things, strict=False):
        row[:] = left / SIZE[1], top / SIZE[0], right / SIZE[1], bottom / SIZE[0], label, kind
    return jnp.asarray(rows)


def perfect(targets):
    """Maps that say what targets ask for."""
    heat = jnp.where(targets.heat >= 1, 9.0, -9.0)
    middles = (targets.boxes[..., :2] + targets.boxes[..., 2:]) / 2
    down, across = jnp.meshgrid(*map(jnp.arange, heat.shape[:2]), indexing="ij")
    offset = middles - jnp.stack([across, down], axis=-1) - 0.5
    size = jnp.log(jnp.maximum(targets.boxes[..., 2:] - targets.boxes[..., :2], 1e-3))
    return {"heat": heat[None], "offset": offset[None], "size": size[None]}


def test_maps_as_targets_ask_give_the_boxes_back_at_no_loss():
    rows = rows_of((4, 8, 20, 24, 0, OBJECT), (26, 2, 45, 31, 1, OBJECT))
    targets = targets_of(rows, SIZE, 2)
    assert targets.heat.shape == (8, 12, 2)
    assert int((targets.heat == 1).sum()) == 2 and targets.counts.min() == 1
    assert float(targets.weights.sum()) == pytest.approx(2, abs=1e-5)
    maps, batched = perfect(targets), jax.tree.map(lambda leaf: leaf[None], targets)
    heat, box = detection_losses(maps, corners(maps), batched)
    assert float(heat[0]) < 1e-3 and float(box[0]) == pytest.approx(0, abs=1e-5)
    found = jax.jit(lambda maps: boxes_of(maps, SIZE, most=5))(maps)
    assert found["scores"].shape == (1, 5)
    assert [float(s) > 0.5 for s in found["scores"][0]] == [True, True, False, False, False]
    order = np.argsort(found["labels"][0, :2])
    np.testing.assert_allclose(found["boxes"][0, :2][order], rows[:2, :4], atol=1e-5)


def test_a_peak_is_one_object_however_wide_it_is():
    heat = np.full((1, 8, 12, 2), -9.0, np.float32)
    heat[0, 3:6, 3:6, 0] = 2.0
    heat[0, 4, 4, 0] = 3.0
    heat[0, 4, 4, 1] = 1.0  # of another class at the same place
    none = jnp.zeros((1, 8, 12, 2))
    found = boxes_of({"heat": jnp.asarray(heat), "offset": none, "size": none}, SIZE, most=6)
    sure = np.asarray(found["scores"][0] > 0.5)
    assert sure.tolist() == [True, True] + 4 * [False]
    assert found["labels"][0, :2].tolist() == [0, 1]
    np.testing.assert_allclose(
        found["boxes"][0, 0] * jnp.array([48.0, 32, 48, 32]), [16, 16, 20, 20]
    )


def test_the_nearest_object_owns_a_place_and_ignored_ones_ask_for_nothing():
    rows = rows_of((0, 0, 16, 16, 0, OBJECT), (20, 4, 44, 28, 1, IGNORED))
    targets = targets_of(rows, SIZE, 2)
    assert float(targets.weights.sum()) == pytest.approx(1, abs=1e-5)
    assert not targets.heat[..., 1].any()
    uncounted = targets.counts == 0
    assert uncounted[..., 1].any() and not uncounted[..., 0].any()
    # Whatever is said there costs nothing.
    shape = (1, 8, 12, 2)
    loud = jnp.where(uncounted[None], 5.0, -9.0)
    quiet = jnp.full(shape, -9.0)
    same = [heat_loss(of, targets.heat[None], targets.counts[None]) for of in (loud, quiet)]
    np.testing.assert_allclose(same[0], same[1])


def test_overlap_by_hand():
    here = jnp.array([[0.0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 1, 1]])
    there = jnp.array([[0.0, 0, 2, 2], [1, 0, 3, 2], [3, 0, 4, 1]])
    # Alike; a third in common and no gap; apart, half of the hull filled.
    np.testing.assert_allclose(box_overlap(here, there), [1, 1 / 3, -1 / 2], atol=1e-6)


def test_boxes_move_with_their_picture():
    image = jnp.full((*SIZE, 3), -1.0).at[8:24, 12:24].set(1.0)
    rows = rows_of((12, 8, 24, 24, 1, OBJECT))
    for seed in range(8):
        seen, things = BoxViews(flip=True, colour=0)(jax.random.key(seed), image, rows)
        bright = np.asarray(seen[..., 0] > 0.0)
        box = np.asarray(things[0, :4]) * [SIZE[1], SIZE[0], SIZE[1], SIZE[0]]
        across, down = np.flatnonzero(bright.any(axis=0)), np.flatnonzero(bright.any(axis=1))
        np.testing.assert_allclose(
            [across[0], down[0], across[-1] + 1, down[-1] + 1], box, atol=1.1
        )
        assert things[0, 4] == 1 and things[0, 5] == OBJECT and not things[1:].any()


@pytest.mark.parametrize(("start", "kind"), [(0.7, IGNORED), (0.9, NOTHING), (0.4, OBJECT)])
def test_what_a_view_cuts_off_is_not_asked_for(start, kind):
    rows = rows_of((12, 8, 24, 24, 1, OBJECT))  # a quarter to a half of the width
    _, things = moved(jnp.zeros((*SIZE, 3)), rows, jnp.ones(2), jnp.array([0.0, start]))
    assert things[0, 5] == kind
    assert (things[0, :4] >= 0).all() and (things[0, :4] <= 1).all()
    if kind == NOTHING:
        assert not things.any()


def test_a_mosaic_has_four_pictures_and_their_objects():
    images = np.zeros((4, *SIZE, 3), np.float32)
    rows = np.stack([rows_of((0, 0, 48, 32, k, OBJECT), most=2) for k in range(4)])
    images += np.arange(4)[:, None, None, None]
    joined, things = mosaic(jax.random.split(jax.random.key(0), 4), images, rows)
    assert joined.shape == images.shape and things.shape == (4, 8, 6)
    for picture, of in zip(np.asarray(joined), np.asarray(things), strict=True):
        there = of[of[:, 5] == OBJECT]
        assert sorted(there[:, 4]) == [0, 1, 2, 3]
        for left, top, right, bottom, label, _ in there:
            part = picture[int(top * 32) : int(bottom * 32), int(left * 48) : int(right * 48)]
            assert part.shape == (16, 24, 3) and (part == label).all()


def scene(draws):
    """A picture with one to three squares: red ones of class 0, blue ones of class 1."""
    image = draws.integers(90, 130, (*SIZE, 3)).astype(np.uint8)
    things = []
    for place in range(int(draws.integers(1, 4))):
        side, label = int(draws.integers(7, 13)), int(draws.integers(2))
        left, top = 16 * place + int(draws.integers(0, 16 - side + 1)), int(draws.integers(0, 20))
        image[top : top + side, left : left + side] = [(230, 30, 30), (30, 30, 230)][label]
        things.append((left, top, left + side, top + side, label, OBJECT))
    return image, rows_of(*things)


def test_a_detector_learns_to_find_squares():
    draws = np.random.default_rng(0)
    scenes = [scene(draws) for _ in range(80)]
    boxes = Boxes(("red", "blue"), 3)
    arrays = [np.stack([s[i] for s in scenes]) for i in range(2)]
    split = Split(*arrays, columns={"inputs": COLUMN, "target": boxes})
    pipeline = make_pipeline(split.take(slice(0, 64)), 16)
    source = jax.tree.map(jnp.asarray, pipeline.source)
    model = make_detector("centernet", COLUMN, backbone=BACKBONE, num_classes=2, width=16)
    optimizer = make_optimizer("adam", 4e-3)
    net = init_net(
        model, jax.random.key(0), jnp.zeros((1, *COLUMN.shape)), train=False, optimizer=optimizer
    )
    state = TrainState.create(jax.random.key(1), {"detector": net})
    step = jax.jit(detector_step(model, optimizer, views=BoxViews(scale=0.1), mosaics=0.25))
    for number in range(90):
        batch = pipeline.fetch(source, pipeline.feed(number, 1)[0])
        state, metrics = step(state, batch)
    assert float(metrics["loss"].compute()) < 1.5
    tests = split.take(slice(64, 80))

    @jax.jit
    def look(variables, images):
        maps, _ = model.apply(variables, images, train=False)
        return boxes_of(maps, SIZE)

    found = look(state.nets["detector"].variables, COLUMN.decode(tests.inputs))
    pixels = np.array([SIZE[1], SIZE[0]] * 2)
    boxes_found, labels, scores = (np.asarray(found[k]) for k in ("boxes", "labels", "scores"))
    said = [BoxesFound(*one) for one in zip(boxes_found * pixels, labels, scores, strict=True)]
    there = [
        BoxesThere(row[row[:, 5] > 0, :4] * pixels, row[row[:, 5] > 0, 4].astype(int))
        for row in tests.target
    ]
    assert coco_scores(there, said, boxes.names)["ap50"] > 0.85


def test_a_backbone_without_fine_features_is_refused():
    with pytest.raises(UserError, match="a detector needs features of 8x12 for images of 32x48"):
        make_detector(
            "centernet", COLUMN, backbone={**BACKBONE, "name": "speed_net"}, num_classes=2
        )
