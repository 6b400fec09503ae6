"""Areas under curves, against scikit-learn and against a slow PRO that tries every threshold."""

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from jaxnets import metrics
from jaxnets.errors import UserError


@pytest.mark.parametrize("digits", [0, 1, 8], ids=["many ties", "ties", "no ties"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_areas_are_those_of_scikit_learn(digits, share):
    draws = np.random.default_rng(7)
    positive = draws.random(400) < share
    scores = np.round(draws.normal(size=400) + 0.7 * positive, digits).astype(np.float32)
    assert metrics.auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
    wanted = average_precision_score(positive, scores)
    assert metrics.average_precision(scores, positive) == pytest.approx(wanted)


def slow_overlap(maps, masks, limit):
    """PRO as the paper has it: for every threshold, each region's share, by a loop."""
    points = [(0.0, 0.0)]
    for threshold in sorted({*maps.ravel().tolist()}, reverse=True):
        said = maps >= threshold
        shares = []
        for one, mask in zip(said, masks, strict=True):
            labels, count = ndimage.label(mask, np.ones((3, 3)))
            shares += [one[labels == region].mean() for region in range(1, count + 1)]
        points.append((said[~masks].mean(), np.mean(shares)))
    rates, overlaps = np.array(points).T
    grid = np.linspace(0, limit, 200_001)
    return np.trapezoid(np.interp(grid, rates, overlaps), grid) / limit


@pytest.mark.parametrize("limit", [0.3, 1.0])
def test_the_overlap_of_regions_is_that_of_every_threshold(limit):
    draws = np.random.default_rng(3)
    masks = np.zeros((4, 12, 12), bool)
    masks[0, 1:3, 1:9] = masks[0, 6:11, 6:11] = masks[1, 0, 0] = masks[1, 1, 1] = True
    masks[2, 4, 4] = True
    maps = np.round(draws.normal(size=masks.shape) + masks, 1)
    got = metrics.per_region_overlap(maps, masks, limit=limit)
    # Where the rate stands still, interpolation over it may take either end.
    assert got == pytest.approx(slow_overlap(maps, masks, limit), abs=2e-3)


def test_a_perfect_map_has_every_area_at_one_and_small_regions_count_as_large_ones():
    masks = np.zeros((2, 9, 9), bool)
    masks[0, :5, :5] = masks[1, 8, 8] = True
    assert metrics.per_region_overlap(masks * 1.0, masks) == pytest.approx(1)
    large = masks.copy()
    large[1] = False  # of two regions the one is told wholly, and the other not before all else
    assert metrics.per_region_overlap(large * 1.0 - masks * 0.5, masks) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "scores,positive,said",
    [
        ([0.1, np.nan], [True, False], "not finite"),
        ([0.1, 0.2], [True, True], "only one of both"),
        ([0.1, 0.2], [False, False], "only one of both"),
        ([0.1], [True, False], "differ in shape"),
    ],
)
def test_what_has_no_curve_is_refused(scores, positive, said):
    for area in (metrics.auroc, metrics.average_precision):
        with pytest.raises(UserError, match=said):
            area(scores, positive)
