"""The command line: what commands leave, and how they are interrupted and go on."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from command_lines import CLASSIFY, GENERATE, assert_one_error, newest, summary
from jaxnets.commands import common
from jaxnets.commands.session import Session
from jaxnets.data import ResidentPipeline
from jaxnets.judge import evaluate
from jaxnets.run import loop
from signals_sent import environment

pytestmark = pytest.mark.usefixtures("workplace")

STEPS = 4  # 0.05 of 1,438 images, 16 at a time


def weights(folder):
    """A digest of everything in the newest checkpoint, and its step."""
    state, step = newest(folder)
    return evaluate.digest(state), step


# ------------------------------------------------------------------- what commands leave


def test_classify_leaves_numbers_a_report_and_its_configuration(runs):
    folder = runs["classify"]
    left = summary(folder)
    assert left["step"] == STEPS and 0 <= left["test_accuracy"] <= 1
    assert left["machine"]["backend"] == "cpu"
    config = json.loads((folder / "config.json").read_text())
    # Given flags, the preset of digits, and what is left at its default.
    expected = {"width": 0.5, "crop_padding": 1, "flip": False, "momentum": 0.85}
    assert expected.items() <= config["config"].items()
    assert config["experiment"] == "classify" and "run_dir" not in config["config"]
    report = (folder / "report.html").read_text()
    assert "lenet5 on digits" in report and report.count("<svg") == 3
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {record["split"] for record in records} == {"train", "eval"}


def test_generate_leaves_samples_and_a_report(runs):
    folder = runs["generate"]
    assert summary(folder)["step"] == STEPS
    with Image.open(folder / "samples" / f"step-{STEPS:07}.png") as picture:
        assert picture.size[0] >= 80 and picture.size[1] >= 80
    assert "data:image/png" in (folder / "report.html").read_text()


def test_evaluate_a_classifier(cli, copies):
    folder = copies["classify"]
    code, out, _ = cli("evaluate", folder)
    assert code == 0
    left = summary(folder)
    found = json.loads(out)
    assert found == json.loads((folder / "evaluation.json").read_text())
    assert found["step"] == STEPS
    for name in ("test_accuracy", "test_loss", "test_balanced_accuracy"):
        assert found[name] == pytest.approx(left[name], rel=1e-6)


def test_evaluate_a_generator_by_a_judge(cli, copies, runs):
    folder = copies["generate"]
    code, out, _ = cli("evaluate", folder, "--judge", runs["classify"], "--no-accuracy-score")
    assert code == 0
    found = json.loads(out)
    assert 0 <= found["frechet_floor"] < found["frechet_ceiling"]
    assert found["frechet"] > found["frechet_floor"] and found["frechet_samples"] == 180
    assert_one_error(cli("evaluate", folder, "--no-accuracy-score"), "--judge")


def test_samples_of_a_class(cli, copies):
    folder = copies["generate"]
    code, out, _ = cli("sample", folder, "--class-label", 3, "--count", 5)
    assert code == 0
    arrays = folder / "samples" / "sample-class-3-seed-0.npz"
    assert str(arrays) in out
    with np.load(arrays) as content:
        images, labels = content["images"], content["labels"]
    assert images.shape == (5, 8, 8, 1) and images.dtype == np.uint8
    assert labels.tolist() == [3] * 5
    with Image.open(arrays.with_suffix(".png")) as picture:
        assert picture.size[0] >= 5 * 8
    # Image i is the same however many are made, and any place will do.
    assert cli("sample", folder, "--class-label", 3, "--count", 2, "--out", "few")[0] == 0
    with np.load("few.npz") as content:
        np.testing.assert_array_equal(content["images"], images[:2])
    assert cli("sample", folder, "--count", 12, "--truncation", 0.5, "--out", "all.png")[0] == 0
    with np.load("all.npz") as content:
        assert content["labels"].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert Path("all.png").exists() and not Path("all.png.png").exists()


def test_list_shows_what_there_is_and_the_runs(cli, runs):
    code, out, _ = cli("list", "--runs", runs["classify"].parent)
    assert code == 0
    assert "lenet5" in out and "wgan_gp" in out and "folder:..." in out
    lines = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ")}
    assert "classify on digits, test_accuracy 0." in lines[str(runs["classify"])]
    assert "generate on digits" in lines[str(runs["generate"])]
    assert "none" in cli("list")[1]


# ------------------------------------------------------------------------- interruptions


def at_feed(monkeypatch, step, act):
    """Does something when the data of a step are asked for."""
    feed = ResidentPipeline.feed

    def wrapped(self, first_step, steps):
        if first_step == step:
            act()
        return feed(self, first_step, steps)

    monkeypatch.setattr(ResidentPipeline, "feed", wrapped)


def command_to_go_on(err):
    """The arguments of the command that an interrupted one has printed."""
    words = shlex.split(err.strip().splitlines()[-1])
    assert words[:3] == ["python", "-m", "experiments"]
    assert "--run-dir" in words
    return words[3:]


@pytest.mark.parametrize(
    "arguments,number,code",
    [
        (CLASSIFY, signal.SIGINT, 130),
        pytest.param(GENERATE, signal.SIGTERM, 143, marks=pytest.mark.slow),
    ],
    ids=["Ctrl-C in classify", "SIGTERM in generate"],
)
def test_an_interrupted_run_goes_on_to_the_same_bits(
    arguments, number, code, cli, runs, monkeypatch
):
    with monkeypatch.context() as patch:
        at_feed(patch, 0, lambda: os.kill(os.getpid(), number))
        found, out, err = cli(*arguments)
    assert found == code and ("images are shifted by up to 1 pixels" in out) == (code == 130)
    assert "saved at step 2" in err and "Traceback" not in err
    again = command_to_go_on(err)
    folder = Path(again[again.index("--run-dir") + 1])
    assert folder.parent == Path("runs") and weights(folder)[1] == 2
    assert f"(its report: python -m experiments report {folder})" in err
    assert not (folder / "summary.json").exists()
    found, _, err = cli(*again)
    assert found == 0 and "going on from step 2" in err
    assert list(Path("runs").iterdir()) == [folder]
    assert weights(folder) == weights(runs[arguments[0]])


def test_the_command_to_go_on_names_one_run_folder():
    for given in (["--run-dir", "a b"], ["--run-dir=a b"]):
        words = ["classify", *given, "--data", "digits"]
        text = Session("python -m experiments", words, Path("a b")).command_to_go_on()
        assert command_to_go_on(text) == ["classify", "--data", "digits", "--run-dir", "a b"]
    assert Session("jaxnets", ["list"], Path("a")).command_to_go_on() == "jaxnets list --run-dir a"
    assert Session("jaxnets", ["list"]).command_to_go_on() == ""


@pytest.mark.parametrize("command", ["families", "reproduce"])
def test_a_command_of_many_runs_goes_on_with_its_own_folder(command):
    words = [command, "--run-dir", "all"]
    session = Session("python -m experiments", words, Path("all/one"))
    assert command_to_go_on(session.command_to_go_on()) == words


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt  # by Python's own handler, which a caller of `main` has


def test_ctrl_c_outside_the_loop_is_quiet(cli, runs, copies, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(common, "load_data", interrupt)
        for arguments in (CLASSIFY, ["evaluate", copies["classify"]]):
            code, _, err = cli(*arguments)
            assert code == 130
            # No run was begun, so there is none to go on with (least of all an earlier one).
            assert err.strip() == "interrupted"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "replicate", interrupt)
        code, _, err = cli(*CLASSIFY, "--run-dir", "mine")
    assert code == 130 and "Traceback" not in err
    assert cli(*command_to_go_on(err))[0] == 0
    assert weights(Path("mine")) == weights(runs["classify"])


FULL_DISK = """
import resource, sys, time
from pathlib import Path
from experiments.__main__ import commands
from jaxnets.data import ResidentPipeline

feed = ResidentPipeline.feed

def wrapped(self, first_step, steps):
    if first_step == 2:
        while not Path("run/checkpoints/2").is_dir():
            time.sleep(0.02)  # it is written while training goes on
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
    return feed(self, first_step, steps)

ResidentPipeline.feed = wrapped
commands.process()
"""


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_later(cli, runs):
    arguments = [*CLASSIFY, "--run-dir", "run", "--save-every", "0.02"]
    # A process of its own, whose standard error nothing of pytest's keeps clean.
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        env=environment(
            JAX_COMPILATION_CACHE_DIR=str(jax.config.jax_compilation_cache_dir),
            JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        ),
    )
    assert done.returncode == 2, done.stderr
    progress = ("lenet5 on digits", "epoch ")
    said = [line for line in done.stderr.splitlines() if not line.startswith(progress)]
    assert len(said) == 1, done.stderr
    assert said[0].startswith("error: the checkpoint of step 4 could not be saved in ")
    assert weights(Path("run"))[1] == 2
    assert cli(*arguments)[0] == 0
    assert weights(Path("run")) == weights(runs["classify"])
