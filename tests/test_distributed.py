"""One run by several processes, which are real ones here, over gloo on one machine."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from command_lines import CLASSIFY, GENERATE, free_port, newest, run, summary
from signals_sent import environment

pytestmark = pytest.mark.usefixtures("workplace")

#: Runs a command and does something in one of its processes: ACT is "process place act", and the
#: place a step whose data is asked for, or "evaluation", which then takes long.
PROCESS = """
import os, signal, sys, time
from experiments.__main__ import commands
from jaxnets.judge import evaluate
from jaxnets.data import ResidentPipeline

who, place, act = os.environ.get("ACT", "x 0 none").split()
act = act if os.environ["WHO"] == who else "none"
feed, batches = ResidentPipeline.feed, evaluate.eval_batches

def do():
    global act
    now, act = act, "none"
    if now == "fail":
        raise OSError(5, "Input/output error", "disk")
    if now != "none":
        os.kill(os.getpid(), int(now))

def wrapped_feed(self, first_step, steps):
    time.sleep(float(os.environ.get("SLEEP", 0)))
    if place.isdecimal() and first_step >= int(place):
        do()
    return feed(self, first_step, steps)

def wrapped_batches(split, size):
    for batch in batches(split, size):
        for _ in range(100 if place == "evaluation" else 1):
            if place == "evaluation":
                do()
                time.sleep(0.2)
            yield batch

ResidentPipeline.feed, evaluate.eval_batches = wrapped_feed, wrapped_batches
commands.process()
"""


@pytest.fixture
def begin():
    """Begins a command in several processes; none of them outlives the test."""
    started = []

    def begin(*arguments, count=2, numbers=None, devices=1, port=None, **more):
        port = port or free_port()
        flags = re.sub(
            r"--xla_force_host_platform_device_count=\d+",
            f"--xla_force_host_platform_device_count={devices}",
            os.environ["XLA_FLAGS"],
        )
        fresh = []
        for i in numbers or range(count):
            where = f"--distributed --coordinator localhost:{port} --process-count {count}"
            process = subprocess.Popen(
                [sys.executable, "-c", PROCESS, *arguments, *where.split(), "--process-id", str(i)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment(**more, WHO=str(i), XLA_FLAGS=flags),
            )
            started.append(process)
            fresh.append(process)
        return fresh

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def outcomes(processes, seconds=240):
    """Exit code, standard output and standard error of each."""
    deadline = time.monotonic() + seconds
    found = []
    for process in processes:
        out, err = process.communicate(timeout=max(1.0, deadline - time.monotonic()))
        found.append((process.returncode, out, err))
    return found


def arrays(folder):
    """Everything in the newest checkpoint of a run, by name, and its step."""
    state, step = newest(folder)
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}, step


def assert_the_same_run(one, other, tolerance=1e-5):
    (left, step), (right, other_step) = arrays(one), arrays(other)
    assert step == other_step and left.keys() == right.keys()
    for name, leaf in left.items():
        np.testing.assert_allclose(leaf, right[name], rtol=0, atol=tolerance, err_msg=name)
    curves = [records(folder) for folder in (one, other)]
    assert [r["step"] for r in curves[0]] == [r["step"] for r in curves[1]]
    for a, b in zip(*curves, strict=True):
        for name in set(a) & {"loss", "accuracy", "d_loss", "g_loss", "test_accuracy", "test_loss"}:
            np.testing.assert_allclose(a[name], b[name], atol=1e-4, err_msg=name)


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


LONGER = ["--epochs", "0.12", "--log-every", "2", "--eval-every", "0.06", "--save-every", "0.06"]

RUNS = {
    "classifier": (CLASSIFY, []),
    # Streamed, so that each process reads its own rows of files.
    "gan": (GENERATE, ["--memory-budget-mb", "0"]),
}


@pytest.mark.parametrize("kind", ["classifier", pytest.param("gan", marks=pytest.mark.slow)])
def test_two_processes_train_as_one(kind, begin):
    command, streamed = RUNS[kind]
    secret = {"JAXNETS_SECRET": "correct horse battery staple"}
    several = begin(*command, *LONGER, *streamed, "--devices", "2", "--run-dir", "two", **secret)
    run(command, LONGER, "--devices 2 --run-dir one")
    (code, out, err), (other_code, other_out, other_err) = outcomes(several)
    assert (code, other_code) == (0, 0), err + other_err
    assert "report: " in out and ", 11 steps; compiled in" in err
    said = [line for line in other_out.splitlines() if not line.startswith("[Gloo]")]
    assert (said, other_err) == ([], "")  # one process speaks for all
    assert_the_same_run(Path("two"), Path("one"))
    left, expected = summary(Path("two")), summary(Path("one"))
    assert left["machine"]["devices"] == 2
    assert left.get("test_accuracy") == pytest.approx(expected.get("test_accuracy"), abs=0.01)
    same = [(Path(name) / "config.json").read_text() for name in ("one", "two")]
    assert same[0] == same[1]
    assert {p.name for p in Path("one").iterdir()} == {p.name for p in Path("two").iterdir()}


def step_of_an_interruption(processes, number):
    """At which step all of them have saved and left, each with its own way to go on."""
    found = outcomes(processes)
    assert [code for code, _, _ in found] == [128 + number] * len(found), found
    steps = set()
    for i, (_, _, err) in enumerate(found):
        assert "Traceback" not in err
        said = re.search(r"interrupted by (\w+) and saved at step (\d+).*; go on with:\n(.*)", err)
        assert said and said[1] == number.name and f"--process-id {i}" in said[3]
        steps.add(int(said[2]))
    (step,) = steps
    return step


@pytest.mark.slow
@pytest.mark.parametrize(
    "number,who",
    [(signal.SIGTERM, 1), (signal.SIGINT, 0)],
)
def test_a_signal_at_one_process_saves_and_ends_all_and_one_process_goes_on(number, who, begin):
    longer = [*CLASSIFY, "--epochs", "0.25", "--log-every", "2"]
    several = begin(
        *longer, "--devices", "2", "--run-dir", "run", ACT=f"{who} 4 {int(number)}", SLEEP="0.1"
    )
    step = step_of_an_interruption(several, number)
    assert 4 <= step < 22 and arrays(Path("run"))[1] == step
    run(longer, "--devices 2 --run-dir run")
    run(longer, "--devices 2 --run-dir whole")
    assert_the_same_run(Path("run"), Path("whole"))


@pytest.mark.slow
def test_a_signal_cuts_an_evaluation_off_in_all_processes(begin):
    command = [*CLASSIFY, *LONGER, "--devices", "2", "--run-dir", "run"]
    several = begin(*command, ACT=f"1 evaluation {int(signal.SIGTERM)}")
    assert step_of_an_interruption(several, signal.SIGTERM) == 6
    assert [r["step"] for r in records(Path("run")) if r["split"] == "eval"] == []
    run(command)
    assert [r["step"] for r in records(Path("run")) if r["split"] == "eval"] == [6, 10, 11]


@pytest.mark.parametrize("who", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_process_that_dies_is_named_by_the_other_soon(who, begin):
    several = begin(*CLASSIFY, "--devices", "2", "--run-dir", "run", ACT=f"{who} 2 9")
    several[who].wait(timeout=240)
    # jax itself would notice after 100 s, and would not say it in one sentence.
    code, _, err = outcomes(several, 80)[1 - who]
    assert code == 1
    said = [line for line in err.splitlines() if not line.startswith(("lenet5 on", "epoch "))]
    assert len(said) == 1, err
    assert said[0].startswith(f"error: process {who} of 2 (process {several[who].pid} of ")
    assert "has died, so this one ends too; go on with: python -m exp" in said[0]


@pytest.mark.slow
def test_an_error_of_one_process_is_that_of_the_others_too(begin):
    several = begin(*CLASSIFY, "--devices", "2", "--run-dir", "run", ACT="1 2 fail")
    (code, _, err), (own_code, _, own_err) = outcomes(several)
    sentence = "error: cannot read or write disk: Input/output error"
    assert (own_code, own_err.strip()) == (2, sentence)
    assert code == 2 and err.strip().splitlines()[-1] == f"process 1 of 2 has stopped: {sentence}"


@pytest.mark.slow
def test_processes_of_one_machine_prepare_a_data_set_once(tmp_path):
    code = "from jaxnets.data import load; print(load('digits').fingerprint)"
    several = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(JAXNETS_CACHE=str(tmp_path / "empty")),
        )
        for _ in range(3)
    ]
    found = outcomes(several)
    assert [code for code, _, _ in found] == [0] * 3, found
    assert len({out for _, out, _ in found}) == 1


@pytest.mark.slow
def test_slurm_starts_processes():
    slurm = {"JOB_ID": str(free_port()), "STEP_NODELIST": "localhost", "NTASKS": "1"}
    slurm |= {"PROCID": "0", "LOCALID": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "experiments", *CLASSIFY, "--distributed", "--run-dir", "run"],
        env=environment(**{f"SLURM_{name}": value for name, value in slurm.items()}),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert summary(Path("run"))["step"] == 4


EXTRAS = {
    "early stopping": (
        CLASSIFY,
        "--validation-fraction 0.2 --patience 1 --keep-best 1",
    ),
    "several seeds": (CLASSIFY, "--seeds 2"),
    "several seeds of a GAN": (GENERATE, "--seeds 2"),
    "divided parameters": (CLASSIFY, "--shard-params --width 2"),
    "accuracy score": (GENERATE, "--accuracy-score --score-epochs 0.1"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXTRAS)
def test_what_else_there_is_works_in_two_processes(name, begin):
    command, flags = EXTRAS[name]
    several = begin(*command, *LONGER, *flags.split(), "--devices", "2", "--run-dir", "two")
    found = outcomes(several)
    assert [code for code, _, _ in found] == [0, 0], found
    run(command, LONGER, flags, "--devices 2 --run-dir one")
    assert_the_same_run(Path("two"), Path("one"))
    left, expected = (summary(Path(name)) for name in ("two", "one"))
    for key in ("classification_accuracy_score", "test_accuracy"):
        assert left.get(key) == pytest.approx(expected.get(key), abs=0.02)


@pytest.mark.slow
def test_a_judge_and_damaged_checkpoints_in_two_processes(begin, copies):
    judge = ["--judge", str(copies["classify"]), "--keep-best", "1"]
    command = [*GENERATE, *LONGER, *judge, "--run-dir", "two", "--devices", "2"]
    for _ in range(2):
        found = outcomes(begin(*command))
        assert [code for code, _, _ in found] == [0, 0], found
        newest = max(
            (p for p in Path("two/checkpoints").iterdir() if p.name.isdecimal()),
            key=lambda p: int(p.name),
        )
        (newest / "manifest.json").write_text("{}")
    assert "is damaged" in found[0][2] and "is damaged" not in found[1][2]
    assert summary(Path("two"))["frechet"] > 0
