"""Records of a run: each step's once, whatever the run went through."""

import json
import math

import pytest

from jaxnets.log import MetricLog, read_records


def shown(folder):
    return [(r["split"], r["step"]) for r in read_records(folder / "metrics.jsonl")]


@pytest.fixture
def written(tmp_path):
    with MetricLog(tmp_path) as log:
        for step in (2, 4, 6):
            log.write("train", step, {"loss": 1.0 / step})
            log.write("eval", step, {"score": math.nan})
    return tmp_path


def test_what_is_no_number_is_null(written):
    lines = (written / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {"split": "train", "step": 2, "loss": 0.5}
    assert lines[1] == '{"split": "eval", "step": 2, "score": null}'


@pytest.mark.parametrize("step,left", [(6, 6), (5, 4), (4, 4), (0, 0)])
def test_a_log_goes_on_after_the_step_it_is_told(step, left, written):
    expected = [(split, s) for s in (2, 4, 6) for split in ("train", "eval") if s <= left]
    with MetricLog(written, resume_step=step) as log:
        assert shown(written) == expected
        log.write("train", 7, {"loss": 0.1})
    assert shown(written) == [*expected, ("train", 7)]


def test_what_will_be_evaluated_again_is_dropped_too(written):
    with MetricLog(written, resume_step=4, unevaluated=True):
        assert shown(written) == [("train", 2), ("eval", 2), ("train", 4)]


def test_a_log_can_be_wound_back_and_written_on(written):
    with MetricLog(written, resume_step=6) as log:
        log.write("train", 8, {"loss": 9.0})
        log.rewind(4)
        assert shown(written)[-1] == ("eval", 4)
        log.write("train", 6, {"loss": 0.25})
        log.rewind(4, unevaluated=True)
        assert shown(written)[-1] == ("train", 4)
        log.write("train", 6, {"loss": 0.125})
    records = read_records(written / "metrics.jsonl")
    assert [r["loss"] for r in records if r["split"] == "train"] == [0.5, 0.25, 0.125]
    assert not (written / "metrics.tmp").exists()
    # Each part has a file of its own, though all of them were begun within a second.
    assert len(list((written / "tensorboard").iterdir())) == 4


def test_a_line_that_was_cut_off_is_dropped(written):
    path = written / "metrics.jsonl"
    path.write_text(path.read_text() + '{"split": "train", "st')
    with MetricLog(written, resume_step=6) as log:
        log.write("train", 8, {"loss": 0.1})
    assert shown(written)[-2:] == [("eval", 6), ("train", 8)]
