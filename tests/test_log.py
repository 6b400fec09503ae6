"""What a run leaves to read: each step's once, readable by TensorBoard, never a reason to hang."""

import json
import math
import struct
import sys
from functools import partial
from unittest.mock import Mock

import pytest

from full_disk import no_file_beyond
from jaxnets.commands import training
from jaxnets.commands.configs.classify import Classify
from jaxnets.errors import UserError
from jaxnets.run.log import MetricLog, read_records
from jaxnets.run.writers import WeightsAndBiases


def shown(folder):
    return [(r["split"], r["step"]) for r in read_records(folder / "metrics.jsonl")]


@pytest.fixture
def written(tmp_path):
    with MetricLog(tmp_path) as log:
        for step in (2, 4, 6):
            log.write("train", step, {"loss": 1.0 / step})
            log.write("eval", step, {"score": math.nan})
    return tmp_path


@pytest.mark.parametrize("step,left", [(6, 6), (5, 4), (4, 4), (0, 0)])
def test_a_log_goes_on_after_the_step_it_is_told(step, left, written):
    expected = [(split, s) for s in (2, 4, 6) for split in ("train", "eval") if s <= left]
    with MetricLog(written, resume_step=step) as log:
        assert shown(written) == expected
        log.write("train", 7, {"loss": 0.1})
    assert shown(written) == [*expected, ("train", 7)]


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


# ------------------------------------------------------------------- TensorBoard and full disks


def events(folder):
    """The events of a run's only file of them, read by the format's description."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = (folder / "tensorboard").iterdir()
    data, found = path.read_bytes(), []
    while data:
        (size,) = struct.unpack("<Q", data[:8])  # then its checksum, the event, and its checksum
        found.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    return found


def test_tensorboard_gets_every_finite_number(tmp_path):
    with MetricLog(tmp_path, resume_step=6) as log:
        log.write("train", 8, {"loss": 0.5, "accuracy": float("nan")})
        log.write("eval", 8, {"score": 2.0})
    version, start, *numbers = events(tmp_path)
    assert version.file_version == "brain.Event:2"
    assert start.step == 7 and start.session_log.status == 1  # START: later steps are purged
    found = [(e.step, e.summary.value[0].tag, e.summary.value[0].simple_value) for e in numbers]
    assert found == [(8, "train/loss", 0.5), (8, "eval/score", 2.0)]
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert records[0] == {"split": "train", "step": 8, "loss": 0.5, "accuracy": None}


def test_weights_and_biases_gets_all_of_it_and_goes_on_with_its_run(tmp_path, monkeypatch):
    wandb = Mock(Error=RuntimeError, Image=str)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    (tmp_path / "config.json").write_text('{"seed": 3}')
    with MetricLog(tmp_path, writers=[partial(WeightsAndBiases, project="p")]) as log:
        log.write("train", 2, {"loss": 0.5, "accuracy": math.nan})
        log.picture(2, "samples", "a.png")
        (tmp_path / "wandb" / "offline-run-20260101_000000-abc").mkdir(parents=True)
        log.rewind(0)
    first, again = (call.kwargs for call in wandb.init.call_args_list)
    assert (first["project"], first["config"], first["id"]) == ("p", {"seed": 3}, None)
    assert again["id"] == "abc"
    got = [call.args[0] for call in wandb.init.return_value.log.call_args_list]
    assert got == [{"train/loss": 0.5, "step": 2}, {"samples": "a.png", "step": 2}]
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install 'jaxnets\[wandb\]'"):
        training.fit_options(Classify(epochs=1.0, wandb="p"), 10)


def fill(log):
    for step in range(1000):  # a queue would have been full after ten
        log.write("train", step, {"a": 1.0, "b": 2.0, "c": 3.0})


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kept", ["metrics.jsonl", "tensorboard"])
def test_a_full_disk_is_one_sentence_and_not_a_hang(kept, tmp_path, monkeypatch):
    log = MetricLog(tmp_path)
    if kept == "tensorboard":  # the other file finds room
        monkeypatch.setattr(log._file, "write", lambda text: len(text))
    with (
        no_file_beyond(4096),
        pytest.raises(UserError, match=r"metrics of the run .* \(File too large\)") as error,
        log,
    ):
        fill(log)
    assert "\n" not in str(error.value)


def test_a_full_disk_at_the_end_is_one_sentence(tmp_path):
    with no_file_beyond(64), pytest.raises(UserError, match="File too large"), MetricLog(tmp_path):
        pass  # what TensorBoard is told first is written when the file is closed


def test_a_log_that_cannot_be_closed_hides_no_other_error(tmp_path):
    def write_and_fall():
        with MetricLog(tmp_path) as log:
            log._file.write("x" * 100)  # kept back for now, and too much when it is closed
            raise UserError("the reason")

    with no_file_beyond(64), pytest.raises(UserError, match="the reason"):
        write_and_fall()
