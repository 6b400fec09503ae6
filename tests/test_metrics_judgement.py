"""A number carries what it means, and says so."""

import dataclasses
import json

import pytest

from jaxnets.errors import UserError
from jaxnets.metrics import Judgement

KID = Judgement(
    "kid",
    0.0123,
    0.0004,
    extractor="lenet5 trained on digits",
    digest="c3bb7c05e65a",
    reference="digits, test",
    samples=1719,
    real=719,
    resize="none",
)


def test_a_line_says_it_all():
    assert str(KID) == (
        "kid 0.0123 +- 0.0004 (1,719 samples against 719 of digits, test; lenet5 trained on "
        "digits, weights c3bb7c05e65a; resize: none)"
    )
    bare = dataclasses.replace(KID, name="inception", spread=None, real=0, note="too few")
    assert str(bare) == (
        "inception 0.0123 (1,719 samples; lenet5 trained on digits, weights c3bb7c05e65a; "
        "resize: none; too few)"
    )


def test_a_record_survives_json():
    assert Judgement(**json.loads(json.dumps(KID.record()))) == KID


@pytest.mark.parametrize("field", ["name", "extractor", "digest", "reference", "resize"])
def test_nothing_is_left_out(field):
    with pytest.raises(UserError, match=f"without its {field}"):
        dataclasses.replace(KID, **{field: ""})


@pytest.mark.parametrize("counts", [{"samples": 0}, {"real": -1}])
def test_counts_are_counts(counts):
    with pytest.raises(UserError, match="a score of"):
        dataclasses.replace(KID, **counts)
