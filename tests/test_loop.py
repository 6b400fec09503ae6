"""Runs that are cut off and go on, with the same bits; runs that stop early; what they leave."""

import dataclasses
import itertools
import math
import os
import re
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxnets import data
from jaxnets.commands import estimate, generate
from jaxnets.commands.configs.classify import Classify
from jaxnets.commands.configs.generate import Generate, resolve
from jaxnets.data import ResidentPipeline, StreamingPipeline
from jaxnets.devices.parallel import make_mesh
from jaxnets.errors import UserError
from jaxnets.metrics import Mean
from jaxnets.run import log, loop
from jaxnets.run.log import Progress
from jaxnets.run.task import Ranking
from small_runs import MAKE, TOTAL, Crash, bits, crash, fit, images, records, task


@pytest.fixture(scope="module", params=MAKE)
def kind(request):
    """The name of a task, with its step compiled but once for the module."""
    return request.param


@pytest.mark.parametrize("at", [pytest.param(1, marks=pytest.mark.slow), 9])
def test_a_run_that_crashed_goes_on_to_the_same_bits(kind, at, tmp_path):
    whole = fit(task(kind), tmp_path / "whole")
    with pytest.raises(Crash):
        fit(task(kind, at=at, fault=crash), tmp_path / "cut")
    resumed = fit(task(kind), tmp_path / "cut")
    assert bits(resumed.state) == bits(whole.state)
    assert int(resumed.state.step) == TOTAL


def test_streaming_gives_the_bits_of_resident_data(tmp_path):
    resident = fit(task("classifier"), tmp_path / "resident")
    streaming = dataclasses.replace(task("classifier"), pipeline=StreamingPipeline(images(), 16, 3))
    assert bits(fit(streaming, tmp_path / "streaming").state) == bits(resident.state)


def test_a_finished_run_only_evaluates_again(tmp_path):
    first = fit(task("classifier"), tmp_path)
    again = fit(task("classifier", at=0, fault=crash, scores=[0.5]), tmp_path)
    assert bits(again.state) == bits(first.state)
    assert again.metrics == {"score": 0.5}


def test_calls_lie_on_a_grid_of_steps_wherever_the_run_goes_on(tmp_path):
    calls = []

    class Recording(ResidentPipeline):
        def feed(self, first_step, steps):
            calls.append((first_step, steps))
            return super().feed(first_step, steps)

    def count(state, batch):
        state = dataclasses.replace(state, step=state.step + 1)
        return state, {"loss": Mean.of(jnp.zeros(2))}

    def go_on(until, steps_per_call):
        pipeline = Recording(images(), 16, 3)
        counting = task("classifier", change=lambda _: count, pipeline=pipeline, total_steps=until)
        fit(counting, tmp_path, steps_per_call=steps_per_call)

    go_on(until=4, steps_per_call=2)
    go_on(until=10, steps_per_call=3)
    assert calls == [(0, 2), (2, 2), (4, 2), (6, 3), (9, 1)]


def test_early_stopping_ends_with_the_best_state(tmp_path):
    rule = Ranking("score", patience=2)
    scores = [0.1, 0.3, float("nan"), 0.2, 0.9]
    result = fit(task("classifier", scores=scores, ranking=rule), tmp_path, eval_every=2)
    assert result.stopped_early
    assert int(result.state.step) == 4  # the second evaluation; the fourth was the last
    assert [r["step"] for r in records(tmp_path, "eval")] == [2, 4, 6, 8]
    again = fit(task("classifier", scores=[0.3], ranking=rule), tmp_path, eval_every=2)
    assert again.stopped_early
    assert bits(again.state) == bits(result.state)


def test_patience_survives_a_crash(tmp_path):
    rule = Ranking("score", patience=2)
    options = {"eval_every": 2, "save_every": 2}
    cut = task("classifier", scores=[0.5, 0.4], ranking=rule, at=4, fault=crash)
    with pytest.raises(Crash):
        fit(cut, tmp_path, **options)
    result = fit(task("classifier", scores=[0.3], ranking=rule), tmp_path, **options)
    assert result.stopped_early
    assert int(result.state.step) == 2


def test_previews_logs_and_short_lines_are_written(tmp_path, capsys):
    def preview(state, folder):
        Image.new("L", (2, 2)).save(folder / f"{int(state.step)}.png")
        return {"samples": folder / f"{int(state.step)}.png"}

    shown = {"loss": "training loss", "score": "points"}
    told = {"scores": [0.1, 0.5, 0.25], "shown": shown, "headline": Ranking("score")}
    fit(task("classifier", preview=preview, **told), tmp_path, eval_every=4)
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == ["10.png", "4.png", "8.png"]
    (board,) = (tmp_path / "tensorboard").iterdir()
    assert board.read_bytes().count(b"\x89PNG") == 3
    last = records(tmp_path, "train")[-1]
    assert last["epoch"] == pytest.approx(TOTAL * 16 / 40)
    assert {"loss", "accuracy", "grad_norm", "images_per_second"} <= set(last)
    start, *lines = capsys.readouterr().err.splitlines()
    assert start.startswith("classifier: 4 epochs, 10 steps; compiled in ")
    of = r"epoch [\d.]+/4  (\d+ s left  )?training loss [\d.]+  points 0"
    best = [r"\.1 \(best so far\)", r"\.5 \(best so far\)", r"\.25 \(best 0\.5, epoch 3\.2\)"]
    assert all(re.fullmatch(of + end, line) for end, line in zip(best, lines, strict=True))
    of_members = {"loss": math.nan, "loss/a": 1.0, "loss/b": 3.0, "loss/c": math.nan}
    assert log.brief(of_members, shown) == "training loss 2 +- 1.4"


@pytest.mark.parametrize(
    "fields,words",
    [
        ({"ranking": Ranking("f1", patience=1)}, "to be told by 'f1', and the evaluation gives sc"),
        ({"total_steps": 0}, "0 training steps"),
    ],
)
def test_a_task_that_cannot_be_run_is_refused(fields, words, tmp_path):
    with pytest.raises(UserError, match=words):
        fit(task("classifier", **fields), tmp_path, eval_every=2)


def test_speed_leaves_out_what_was_not_training(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("jaxnets.run.log.time.monotonic", lambda: now[0])
    progress = Progress(total=100, batch_size=32, examples=64)
    progress.start(10)
    assert np.isnan(progress.images_per_second(10))
    now[0] += 30.0  # a call of 4 steps that compiled
    progress.leave_out(30.0, 4)
    assert np.isnan(progress.images_per_second(14))
    now[0] += 2.0  # 4 steps
    now[0] += 5.0  # an evaluation
    progress.leave_out(5.0)
    assert progress.images_per_second(18) == pytest.approx(4 * 32 / 2.0)
    now[0] += 20.0  # a shorter last call, compiled too
    progress.leave_out(20.0, 2)
    assert progress.images_per_second(20) == pytest.approx(4 * 32 / 2.0)


def test_a_long_run_is_told_of_once_and_again_at_another_speed(tmp_path, monkeypatch):
    told = []

    def go_on(until, tick):
        ticks = itertools.count(0.0, tick)
        monkeypatch.setattr(log, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
        monkeypatch.setattr(loop, "time", log.time)
        tell = lambda left, whole: told.append((left, whole)) or ""  # noqa: E731
        fit(task("classifier", total_steps=until, tell_time=tell), tmp_path)

    go_on(until=20, tick=1.0)
    go_on(until=40, tick=1.0)
    ((left, whole),) = told
    assert 0 < left < whole
    go_on(until=60, tick=10.0)
    assert len(told) == 2 and told[1][1] > 10 * whole


def test_a_long_run_names_what_takes_less(monkeypatch):
    mesh, config = make_mesh(1), Classify(epochs=40.0)
    said = [
        estimate.told(config, mesh, partial(tuple, other), left, 7200.0)
        for other, left in (((), 500.0), (("--x", 4000.0), 7200.0), (("--x", 40.0), 6600.0))
    ]
    assert said == [
        "",
        "about 2 h to go on this CPU; a new run with --epochs 3.3 would take about 10 min",
        "about 1.8 h to go on this CPU; a new run with --x would take about 40 s",
    ]
    assert 60 < estimate.measured(task("classifier", total_steps=10**9), mesh, 2) < 1e9
    monkeypatch.setattr(estimate, "measured", lambda task, *_: task.total_steps)
    for preset, other in (("dcgan_64", ("--preset sngan_small", 90)), ("dcgan_small", None)):
        asked = Generate(data="digits", preset=preset, epochs=2.0)
        assert generate._faster(asked, resolve(asked), data.load("digits"), mesh) == other


def test_a_log_does_not_wait_for_torch(tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    code = "import jaxnets.run.log as log; log.MetricLog(log.Path('.')); import torch"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd()])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    # The last line of the code may import it: it is hidden only while the log is opened.
    assert done.stderr.strip() == "torch was imported"
    assert (tmp_path / "tensorboard").exists()
