"""The command line: what it says of a mistake, which leaves nothing behind."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command_lines import CLASSIFY, GENERATE, assert_one_error
from experiments.__main__ import commands
from jaxnets.commands.program import COMMANDS, EVIDENCE, Program
from signals_sent import environment

pytestmark = pytest.mark.usefixtures("workplace")

#: What joins several flags or the data; each flag's own values are in hostile.py.
MISTAKES = [
    (CLASSIFY, "--data digitz", "digitz", "digits, fashion_mnist"),
    (CLASSIFY, "--network lenet6", "lenet6", "lenet5"),
    (CLASSIFY, "--network vgg16", "16x16", "8x8", "lenet5 or alexnet or res"),
    (CLASSIFY, "--batch-size 1439", "1439", "1438"),
    (CLASSIFY, "--batch-size 12 --devices 8", "12", "8 devices", "multiple of 8"),
    (CLASSIFY, "--micro-batches 3", "16", "3"),
    (CLASSIFY, "--micro-batches 4 --devices 8", "multiple of 32"),
    (CLASSIFY, "--devices 9", "9", "8"),
    (CLASSIFY, "--patience 2", "--validation-fraction"),
    (CLASSIFY, "--ema-decay 1", "--ema-decay must be at least 0 and below 1, got 1"),
    (CLASSIFY, "--mixup 0.2 --batch-size 15", "15"),
    (GENERATE, "--discriminator vgg11", "vgg11", "16x16", "8x8"),
    (GENERATE, "--augment colour", "colour", "color"),
    (GENERATE, "--discriminator-steps 99", "1584", "1438"),
    (GENERATE, "--judge nowhere", "nowhere"),
    (GENERATE, "--keep-best 1", "--judge"),
    (GENERATE, "--keep-best 1 --judge nowhere --eval-every 0", "--eval-every"),
]


@pytest.mark.parametrize(
    "command,flags,words",
    [
        pytest.param(command, flags, words, id=f"{command[0]} {flags}")
        for command, flags, *words in MISTAKES
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(command, flags, words, cli, workplace):
    assert_one_error(cli(*command, *flags.split()), *words)
    assert not list(workplace.iterdir())


def test_tyros_own_errors_have_the_same_exit_code(capsys):
    for arguments in (["clasify"], ["classify", "--epochs", "many"], ["sample"]):
        with pytest.raises(SystemExit) as left:
            commands.main(arguments)
        assert left.value.code == 2
        assert capsys.readouterr().err


def test_the_folder_of_another_run_is_refused(cli, copies):
    before = {p: p.stat().st_mtime_ns for p in copies["classify"].rglob("*")}
    folder = ["--run-dir", copies["classify"]]
    assert_one_error(cli(*GENERATE, *folder), "a run of `classify`, not of `generate`")
    assert_one_error(cli(*CLASSIFY, *folder, "--seed", 1), "seed (there 0, asked 1)")
    assert {p: p.stat().st_mtime_ns for p in copies["classify"].rglob("*")} == before


def test_folders_that_are_no_runs_are_refused(cli, workplace):
    mine = workplace / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("keep")
    assert_one_error(cli(*CLASSIFY, "--run-dir", mine), "not the folder of a run")
    assert_one_error(cli(*CLASSIFY, "--run-dir", mine / "notes.txt" / "run"), "cannot write")
    for command in ("evaluate", "sample"):
        assert_one_error(cli(command, mine), "no config.json")
        assert_one_error(cli(command, workplace / "nowhere"), "nowhere")
        (workplace / "config.json").write_text("{}")
        assert_one_error(cli(command, workplace), "config.json")
        (workplace / "config.json").unlink()
    assert [p.name for p in mine.iterdir()] == ["notes.txt"]


def test_a_folder_without_permission_is_one_sentence(cli, copies, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *args, **kwargs: False)
        assert_one_error(cli(*CLASSIFY, "--run-dir", copies["classify"]), "no permission")
    mkdir = Path.mkdir

    def forbidden(self, *args, **kwargs):
        if self.name == "run":
            raise PermissionError(13, "Permission denied", str(self))
        mkdir(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", forbidden)
    assert_one_error(cli(*CLASSIFY, "--run-dir", "run"), "run", "Permission denied")


def test_runs_that_cannot_be_asked_that(cli, copies):
    classify, generate = copies["classify"], copies["generate"]
    assert_one_error(cli("sample", classify), "samples need one of `generate`")
    for label in (10, -1):
        wrong = cli("sample", generate, "--class-label", label)
        assert_one_error(wrong, f"there is no class '{label}'")
    for truncation in (0.0, 1.5, -1.0):
        assert_one_error(
            cli("sample", generate, "--truncation", truncation), "above 0 and at most 1"
        )
    assert_one_error(cli("sample", generate, "--count", 0), "--count")
    (classify / "file").write_text("")
    assert_one_error(cli("sample", generate, "--out", classify / "file" / "x"), "choose another")
    assert_one_error(cli("evaluate", classify, "--judge", classify), "--judge")
    assert_one_error(cli("evaluate", generate, "--judge", generate), "must be one of `classify`")
    assert_one_error(cli(*GENERATE, "--judge", generate), "must be one of `classify`")
    for folder in (classify, generate):
        shutil.rmtree(folder / "checkpoints")
        assert_one_error(cli("evaluate", folder), "no checkpoint")
    assert_one_error(cli("sample", generate), "no checkpoint")
    assert_one_error(cli(*GENERATE, "--judge", classify), "no checkpoint")
    assert not Path("runs").exists()


def folder_of_images(root, size):
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i in range(5):
            pixels = np.random.default_rng(i).integers(0, 256, (size, size, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")


def test_images_that_cannot_be_used_are_named(cli, workplace):
    images = workplace / "images"
    folder_of_images(images, 8)
    data = ["--data", f"folder:{images}", "--batch-size", 2]
    (images / "cat" / "0.png").write_bytes(b"no picture")
    assert_one_error(cli(*CLASSIFY, *data), "0.png")
    assert_one_error(cli(*CLASSIFY, *data, "--skip-bad", "--network", "vgg16"), "8x8")
    assert not (workplace / "runs").exists()


def test_a_judge_of_images_of_another_size_is_refused(cli, workplace, runs):
    folder_of_images(workplace / "images", 16)
    data = ["--data", "folder:images", "--batch-size", 2]
    assert_one_error(cli(*GENERATE, *data, "--judge", runs["classify"]), "8x8x1", "16x16x3")


@pytest.mark.parametrize("command", EVIDENCE)
def test_what_is_not_installed_says_where_it_is(command, capsys):
    assert Program("jaxnets", COMMANDS).main([command, "--help"]) == 2
    said = f"call `python -m experiments {command}` there\n"
    assert capsys.readouterr().err.endswith(said)
    assert commands.parse([command, *(["quickstart"] if command == "reproduce" else [])])


@pytest.mark.parametrize("arguments", [["--help"], ["list"]])
def test_a_reader_that_has_left_is_no_error(arguments):
    """As in `jaxnets --help | head -1`."""
    read, write = os.pipe()
    os.close(read)
    code = "from experiments.__main__ import commands; commands.process()"
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        stdout=write,
        stderr=subprocess.PIPE,
        env=environment(),
        check=False,
    )
    os.close(write)
    assert (ended.returncode, ended.stderr) == (141, b"")
