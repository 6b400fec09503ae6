"""What the report of a classifier shows besides its table."""

import io
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image

from jaxnets.commands import findings
from jaxnets.data import DataSet, Split
from jaxnets.judge.evaluate import classification

SIDE = 8


class Left(nn.Module):
    """Says class 1 as surely as the left half is bright."""

    @nn.compact
    def __call__(self, x, *, train):
        y = nn.Conv(1, (1, 1), use_bias=False, kernel_init=nn.initializers.ones)(x)
        left = y[:, :, : SIDE // 2].mean((1, 2, 3))
        return jax.numpy.stack([0 * left, 8 * left], axis=-1), {"penultimate": left[:, None]}


def halves(*shades: int) -> np.ndarray:
    images = np.full((len(shades), SIDE, SIDE, 1), 127, np.uint8)
    images[:, :, : SIDE // 2, 0] = np.array(shades)[:, None, None]
    return images


@pytest.fixture
def data() -> DataSet:
    train = Split(halves(*[0, 255] * 15), np.array([0, 1] * 15, np.int32))
    test = Split(halves(0, 255, 130, 250, 10), np.array([0, 1, 1, 0, 0], np.int32))
    return DataSet("halves", {"train": train, "test": test}, class_names=("dark", "bright"))


def test_classes_are_told_from_the_worst(data):
    sure, labels = 5.0 * np.eye(2), np.array([0, 0, 1, 1, 1, 1])
    told = classification(sure[[0, 1, 1, 1, 1, 1]], labels)
    table = findings.by_class([told], data)
    assert list(table.rows) == [
        ("dark", 15, 2, "50.0%", "100.0%", "66.7%"),
        ("bright", 15, 4, "100.0%", "80.0%", "80.0%"),
    ]
    never = findings.by_class([classification(sure[[0, 0]], np.array([1, 1]))], data)
    assert ("none", "0.0%", "none") in [row[3:] for row in never.rows]


def test_mistakes_and_doubts_are_drawn_with_where_it_looked(data):
    model = Left()
    variables = model.init(jax.random.key(0), np.zeros((1, SIDE, SIDE, 1)), train=False)
    inputs = data.columns["inputs"].decode(data.splits["test"].inputs)
    logits: Any = model.apply(variables, inputs, train=False)
    mistakes, doubts = findings.told_cases(model, variables, np.asarray(logits[0]), data)
    assert "Mistakes" in mistakes.heading and "least certain" in doubts.heading
    (wide, high), (_, all_high) = (
        Image.open(io.BytesIO(section.image)).size  # type: ignore[union-attr, arg-type]
        for section in (mistakes, doubts)
    )
    assert high < 100 and wide > 128 and all_high > 5 * 64  # one mistake, five cases
    picture = Image.open(io.BytesIO(mistakes.image))  # type: ignore[union-attr, arg-type]
    seen = np.asarray(picture.convert("RGB"), int)[high // 2, -66:]
    red = seen[:, 0] - seen[:, 2]
    assert red[5:28].min() > 50 and np.abs(red[40:60]).max() < 20  # left, and only there


def test_what_to_try_next(data):
    assert "Nothing stands out" not in findings.next_steps({}, data).body
    assert "Fewer than 20 training examples: dark, bright." in findings.next_steps({}, data).body
    told = findings.next_steps({"chance": "it guesses; lower it"}, data).body
    assert told.startswith("It guesses; lower it.")


def test_the_most_certain_mistakes_and_the_most_doubtful_cases_come_first(data, monkeypatch):
    labels: list[list[str]] = []
    drawn = findings.report.grid_png

    def noted(*args, row_labels, **more):
        labels.append(list(row_labels))
        return drawn(*args, row_labels=row_labels, **more)

    monkeypatch.setattr(findings.report, "grid_png", noted)
    logits = np.zeros((5, 2), np.float32)
    logits[:, 1] = [1.0, 3.0, -0.5, 4.0, -2.0]  # the first, third and fourth are wrong
    model = Left()
    variables = model.init(jax.random.key(0), np.zeros((1, SIDE, SIDE, 1)), train=False)
    findings.told_cases(model, variables, logits, data)
    mistakes, doubts = labels
    assert mistakes == [
        "dark: taken for bright (98%)",
        "dark: taken for bright (73%)",
        "bright: taken for dark (62%)",
    ]
    assert doubts[0] == mistakes[2] and doubts[-1] == mistakes[0] and len(doubts) == 5
    assert "dark, rightly (88%)" in doubts
