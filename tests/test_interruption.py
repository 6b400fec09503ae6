"""Signals: the state is saved and the run leaves, whatever it was doing; nothing stays behind."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from jaxnets import distributed, loop
from jaxnets.checkpoint import Checkpoints
from jaxnets.interruption import Cut, Interrupted, Interruption
from jaxnets.task import Ranking
from small_runs import TOTAL, Crash, bits, crash, fit, records, task

BOTH = [signal.SIGINT, signal.SIGTERM]
NAMES = [number.name for number in BOTH]


def send(number):
    os.kill(os.getpid(), number)


def words(signum):
    return "last words"


def interruption(grace=60.0):
    return Interruption(grace, words)


def watchdogs():
    return [thread for thread in threading.enumerate() if thread.name == "signal watchdog"]


def left_behind():
    """Handlers, the file that signals are written to, and watchdogs of this process."""
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    return [signal.getsignal(number) for number in BOTH], wakeup, len(watchdogs())


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    before = left_behind()
    yield
    for thread in watchdogs():
        thread.join(5.0)
    assert left_behind() == before


# ---------------------------------------------------------------------------------- in a block


@pytest.mark.parametrize("number", BOTH, ids=NAMES)
def test_a_signal_is_noted_and_work_goes_on(number):
    with interruption() as heard:
        assert heard.caught == []
        send(number)
        assert heard.caught == [number]
    assert len(heard.caught) == 1


@pytest.mark.parametrize("first", BOTH, ids=NAMES)
def test_a_ctrl_c_after_a_signal_interrupts_at_once(first):
    reached = []

    def work():
        with interruption():
            send(first)
            reached.append("after the first")
            send(signal.SIGINT)
            reached.append("after the second")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["after the first"]


def test_a_sigterm_that_comes_again_changes_nothing():
    with interruption() as heard:
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        assert heard.caught == [signal.SIGTERM] * 2


@pytest.mark.parametrize("number", BOTH, ids=NAMES)
def test_work_that_may_be_cut_is_left_at_its_next_pause(number):
    reached = []

    def evaluate(heard):
        with heard.cuttable(words):
            reached.append("its beginning")
            send(number)
            distributed.pause()
            reached.append("what comes after a pause")

    with interruption() as heard:
        with pytest.raises(Cut):
            evaluate(heard)
        assert heard.caught == [number]
        with pytest.raises(Cut):  # and is not begun again
            evaluate(heard)
    assert reached == ["its beginning"]


def test_what_comes_after_work_that_may_be_cut_is_not_cut():
    with interruption() as heard:
        with heard.cuttable(words):
            pass
        send(signal.SIGTERM)
        distributed.pause()
        assert heard.caught == [signal.SIGTERM]


def test_an_error_in_the_block_leaves_nothing_behind():
    with pytest.raises(ZeroDivisionError), interruption():
        raise ZeroDivisionError


def test_blocks_leave_no_files_open():
    before = len(os.listdir("/proc/self/fd"))
    for number in BOTH * 10:
        with interruption():
            send(number)
    for thread in watchdogs():
        thread.join(5.0)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_handlers_of_others_come_back():
    def theirs(signum, frame):
        raise AssertionError("not while the block lasts")

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = [signal.signal(number, theirs) for number in BOTH]
    wakeup = signal.set_wakeup_fd(writer)
    try:
        with interruption() as heard:
            send(signal.SIGINT)
            assert heard.caught == [signal.SIGINT]
        assert [signal.getsignal(number) for number in BOTH] == [theirs] * 2
        assert signal.set_wakeup_fd(wakeup) == writer
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in zip(BOTH, before, strict=True):
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)


def test_outside_the_main_thread_it_does_nothing():
    found = {}

    def work():
        before = [signal.getsignal(number) for number in BOTH]
        with interruption() as heard:
            found["same"] = [signal.getsignal(number) for number in BOTH] == before
            with heard.cuttable(words):
                found["watchdogs"] = len(watchdogs())
        found["caught"] = heard.caught

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == {"same": True, "watchdogs": 0, "caught": []}


# -------------------------------------------------------------------------------- the watchdog

BLOCKED = """
import hashlib, signal, sys, time
from jaxnets.interruption import Interruption

def last_words(signum):
    {words}

with Interruption(0.3, last_words):
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # one call that Python can't leave
"""

TWICE = """
import time
from jaxnets.interruption import Interruption, Watchdog

with Watchdog(0.0, lambda signum: "the command's words"):
    with Interruption(60.0, lambda signum: "the loop's") as heard:
        print("ready", flush=True)
        while not heard.caught:
            time.sleep(0.01)
        print("noted", flush=True)
        time.sleep(60)
"""

ENDLESS = """
import dataclasses, sys, time
{places}
from pathlib import Path
from small_runs import fit, task

def evaluate(state):
    print("evaluating", flush=True)
    time.sleep(600)

one = dataclasses.replace(task("classifier"), evaluate=evaluate)
fit(one, Path({folder!r}), eval_every=4, grace_seconds=1.0)
"""

IN_TIME = """
import os, signal, time
from jaxnets.interruption import Interruption

signal.signal(signal.SIGUSR1, lambda *_: None)
with Interruption(0.3, lambda signum: "last words"):
    os.kill(os.getpid(), signal.SIGUSR1)  # none of its business
    time.sleep(0.6)
    os.kill(os.getpid(), signal.SIGTERM)  # saved, and left, in time
time.sleep(0.6)
print("alive")
"""


@contextmanager
def python(code, **options):
    """A process that does not outlive the block."""
    path = os.pathsep.join([str(Path(loop.__file__).parents[1]), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        **options,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", BOTH, ids=NAMES)
def test_a_call_that_does_not_end_is_ended(number):
    words = 'return f"too long for signal {int(signum)}"'
    with python(BLOCKED.format(words=words), stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=100)
    assert process.returncode == 128 + number
    assert err == f"too long for signal {int(number)}\n"


@pytest.mark.parametrize("number", BOTH, ids=NAMES)
def test_a_second_ctrl_c_ends_a_command_at_once(number):
    with python(TWICE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == "noted\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=100)
    assert (process.returncode, err) == (130, "the command's words\n")


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


def test_a_signal_that_was_ignored_before_is_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruption() as heard:
            send(signal.SIGINT)
            send(signal.SIGTERM)
            assert heard.caught == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("words", ["return 'said to no one'", "raise ZeroDivisionError"])
def test_it_ends_whether_or_not_its_last_words_can_be_said(words):
    reader, writer = os.pipe()
    os.close(reader)  # the terminal is gone: who writes there gets an error
    try:
        with python(BLOCKED.format(words=words), stderr=writer) as process:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=100)
    finally:
        os.close(writer)
    assert process.returncode == 128 + signal.SIGTERM


def test_who_leaves_in_time_is_not_ended():
    with python(IN_TIME, stderr=subprocess.PIPE) as process:
        out, err = process.communicate(timeout=100)
    assert (process.returncode, out, err) == (0, "alive\n", "")


# ------------------------------------------------------------------------------------ in a run


@pytest.mark.parametrize("number", BOTH, ids=NAMES)
def test_a_run_saves_and_leaves_and_goes_on_to_the_same_bits(number, tmp_path):
    whole = fit(task("classifier"), tmp_path / "whole")
    with pytest.raises(Interrupted) as caught:
        fit(task("classifier", at=5, fault=lambda: send(number)), tmp_path / "cut")
    assert (caught.value.step, caught.value.signum) == (6, number)
    assert str(caught.value) == f"interrupted by {number.name} and saved at step 6"
    with Checkpoints(tmp_path / "cut" / "checkpoints") as checkpoints:
        assert checkpoints.steps() == [4, 6]
    resumed = fit(task("classifier"), tmp_path / "cut")
    assert bits(resumed.state) == bits(whole.state)


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
