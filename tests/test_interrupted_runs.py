"""Signals in a run: it saves and leaves, goes on to the same bits, and evaluates what it missed."""

import dataclasses
import signal
import subprocess
from pathlib import Path

import pytest

from jaxnets.processes import distributed
from jaxnets.run import loop
from jaxnets.run.checkpoint import Checkpoints
from jaxnets.run.interruption import Interrupted
from jaxnets.run.task import Ranking
from signals_sent import python, send
from small_runs import TOTAL, Crash, bits, crash, fit, records, task

ENDLESS = """
import dataclasses, sys, time
{places}
from pathlib import Path
from small_runs import fit, task

def evaluate(state):
    print("evaluating", flush=True)
    time.sleep(600)

one = dataclasses.replace(task("classifier"), evaluate=evaluate)
fit(one, Path({folder!r}), eval_every=4, grace_seconds=12.0)
"""


def test_a_second_ctrl_c_does_not_wait_for_the_run(tmp_path):
    def twice():
        send(signal.SIGINT)
        send(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(task("classifier", at=5, fault=twice), tmp_path)
    assert int(fit(task("classifier"), tmp_path).state.step) == TOTAL


def evaluated(scores, cut_at=None):
    """An evaluation that gives scores by step, and gets a signal at one step."""

    def evaluate(state):
        step = int(state.step)
        if step == cut_at:
            send(signal.SIGTERM)
            distributed.pause()
            raise AssertionError("an evaluation is left at its next pause")
        return {"score": scores[step]}

    return evaluate


@pytest.mark.parametrize(
    "cut_at", [4, *(pytest.param(n, marks=pytest.mark.slow) for n in (6, TOTAL))]
)
def test_an_evaluation_that_was_cut_off_is_made_when_the_run_goes_on(cut_at, tmp_path):
    scores = {2: 0.1, 4: 0.9, 6: 0.2, 8: 0.3, 10: 0.4}
    options = {"eval_every": 2, "save_every": 2, "keep": 1, "keep_best": 1}

    def run(name, cut_at=None):
        one = task("classifier", ranking=Ranking("score"))
        one = dataclasses.replace(one, evaluate=evaluated(scores, cut_at))
        return fit(one, tmp_path / name, **options)

    whole = run("whole")
    with pytest.raises(Interrupted) as caught:
        run("cut", cut_at)
    assert caught.value.step == cut_at
    resumed = run("cut")
    assert bits(resumed.state) == bits(whole.state)
    assert resumed.metrics == whole.metrics == {"score": 0.4}
    for name in ("whole", "cut"):
        shown = {r["step"]: r["score"] for r in records(tmp_path / name, "eval")}
        assert shown == scores
        assert len(records(tmp_path / name, "eval")) == len(scores)
        with Checkpoints(tmp_path / name / "checkpoints") as checkpoints:
            assert (checkpoints.steps(), checkpoints.best_step()) == ([4, 10], 4)


def test_an_evaluation_is_told_once_however_often_a_run_is_killed(tmp_path):
    """Killed after an evaluation that was made up for, and before the next save."""
    scores = dict.fromkeys(range(TOTAL + 1), 0.5)
    one = task("classifier")
    with pytest.raises(Interrupted):
        fit(dataclasses.replace(one, evaluate=evaluated(scores, 4)), tmp_path, eval_every=4)
    with pytest.raises(Crash):
        fit(task("classifier", at=4, fault=crash), tmp_path, eval_every=4)
    assert [r["step"] for r in records(tmp_path, "eval")] == [4]
    fit(task("classifier"), tmp_path, eval_every=4)
    assert [r["step"] for r in records(tmp_path, "eval")] == [4, 8, 10]


def test_a_signal_after_the_last_step_is_not_forgotten(tmp_path, monkeypatch):
    """What a command does after the loop, a report say, may take long."""
    save = Checkpoints.save
    steps = []

    def signalled(self, state, *args):
        save(self, state, *args)
        steps.append(int(state.step))
        if steps[-2:] == [TOTAL, TOTAL]:  # the save after the last step, that all have made
            send(signal.SIGTERM)

    monkeypatch.setattr(Checkpoints, "save", signalled)
    with pytest.raises(Interrupted, match="SIGTERM and saved at step 10"):
        fit(task("classifier"), tmp_path)


def test_last_words_name_what_is_on_disk(tmp_path, monkeypatch):
    said = []
    advance = loop._Run._advance

    def asked(run):
        run.checkpoints.wait()
        # Of a save under way nothing may be promised.
        (run.checkpoints.directory / f"{run.step}.orbax-checkpoint-tmp").mkdir()
        said.append(run._last_words(signal.SIGTERM))
        advance(run)

    monkeypatch.setattr(loop._Run, "_advance", asked)
    fit(task("classifier"), tmp_path, resume_hint="go on with: it", grace_seconds=2.5)
    assert said[0] == (
        "the call under way did not end within 2.5 s of the signal, so the run leaves without "
        "saving; no step was saved yet; go on with: it"
    )
    newest = ["no step was saved yet"] * 2 + ["the newest checkpoint is 4"] * 2
    newest.append("the newest checkpoint is 8")
    assert [text in words for text, words in zip(newest, said, strict=True)] == [True] * 5


def test_an_evaluation_without_pauses_is_ended_with_its_state_saved(tmp_path):
    """By the watchdog's thread, while the main thread still evaluates."""
    places = f"sys.path.insert(0, {str(Path(__file__).parent)!r})"
    code = ENDLESS.format(places=places, folder=str(tmp_path))
    with python(code, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == "evaluating\n"
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=200)
    assert process.returncode == 143
    said = "interrupted by SIGTERM and saved at step 4; run the same command again"
    assert err.splitlines()[-1] == said, err
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.steps() == [4]
    resumed = fit(task("classifier"), tmp_path, eval_every=4)
    assert [r["step"] for r in records(tmp_path, "eval")] == [4, 8, 10]
    assert int(resumed.state.step) == TOTAL
