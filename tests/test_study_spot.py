"""`study spot`: one generator is left out in turn, and test pictures are changed on their way."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from experiments.studies import spot as study
from experiments.studies.configs import Spot
from jaxnets.commands.session import Session
from jaxnets.errors import UserError


@pytest.fixture
def config(runs, tmp_path):
    """A study of two copies of one generator."""
    for name in ("one", "two-seed-0"):
        shutil.copytree(runs["generate"], tmp_path / "gans" / name)
    return Spot(
        data="digits",
        generators=("one", "two"),
        runs=tmp_path / "gans",
        methods=("spectrum",),
        pictures=300,
        seeds=1,
        run_dir=tmp_path / "study",
        out=tmp_path / "out.json",
    )


def test_each_generator_is_left_out_once(config, monkeypatch, capsys):
    changes = {name: study.CHANGES[name] for name in ("as they are", "JPEG 70", "resized 0.5")}
    monkeypatch.setattr(study, "CHANGES", changes)
    study.run(config, Session())
    made = json.loads(config.out.read_text())
    assert [row["left out"] for row in made["table"]] == ["one", "two"]
    for row, (seen, left_out) in zip(
        made["table"], [("two-seed-0", "one"), ("one", "two-seed-0")], strict=True
    ):
        scores = row["scores"]
        thresholds = {of["mean"] for name, of in scores.items() if name.endswith("threshold")}
        assert len(thresholds) == 1, "fixed once, in training"
        assert f"seen/JPEG 70/found/{seen}" in scores
        assert f"left out/resized 0.5/found/{left_out}" in scores
    monkeypatch.setattr(study.spot, "run", lambda *_: pytest.fail("it was computed already"))
    study.run(config, Session())
    assert "accuracy, left out" in capsys.readouterr().out


def test_the_changes_are_what_they_are_called():
    rows = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 1), np.uint8)
    lost = {
        name: np.abs(change(rows).astype(int) - rows).mean()
        for name, change in study.CHANGES.items()
    }
    assert lost.pop("as they are") == 0
    assert lost["JPEG 90"] < lost["JPEG 70"] < lost["JPEG 50"]
    assert 0 < lost["resized 0.75"] < lost["resized 0.5"]


def test_one_generator_can_not_be_left_out(config):
    with pytest.raises(UserError, match="--generators needs two or more"):
        study.run(dataclasses.replace(config, generators=("one",)), Session())
    with pytest.raises(UserError, match="there is no run folder"):
        study.run(dataclasses.replace(config, generators=("one", "three")), Session())
