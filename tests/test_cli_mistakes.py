"""The command line: what it says of a mistake, which leaves nothing behind."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command_lines import CLASSIFY, GENERATE, assert_one_error
from experiments.__main__ import commands
from jaxnets.commands.program import COMMANDS, EVIDENCE, Program
from jaxnets.errors import UserError
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
    for command in ("evaluate", "report", "sample"):
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


def folder_of_images(root, size):
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i in range(5):
            pixels = np.random.default_rng(i).integers(0, 256, (size, size, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")


def test_a_judge_of_images_of_another_size_is_refused(cli, workplace, runs):
    folder_of_images(workplace / "images", 16)
    data = ["--data", "folder:images", "--batch-size", 2]
    assert_one_error(cli(*GENERATE, *data, "--judge", runs["classify"]), "8x8x1", "16x16x3")


@pytest.mark.parametrize("command", EVIDENCE)
def test_what_is_not_installed_says_where_it_is(command, capsys):
    assert Program("jaxnets", COMMANDS).main([command, "--help"]) == 2
    said = f"call `python -m experiments {command}` there\n"
    assert capsys.readouterr().err.endswith(said)
    needed = {"reproduce": ["quickstart"], "study": ["few-labels"]}
    assert commands.parse([command, *needed.get(command, [])])


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


# ---------------------------------------------------------------------- flags, as people type them


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("classify --lr 0.1", "there is no flag --lr; is it --learning-rate?"),
        ("classify --bs 3", "is it --batch-size?"),
        ("classify --batchsize=3", "is it --batch-size?"),
        ("classify --no-such-thing", "there is no flag --no-such-thing"),
        ("classify --no-flips", "is it --flip?"),
        ("generate --rate 3", "--generator-learning-rate"),
        ("clasify", 'there is no command "clasify"; choose from'),
        ("clasify", "did you mean classify?"),
    ],
)
def test_a_flag_that_is_not_there_brings_those_that_may_be_meant(line, told):
    with pytest.raises(UserError) as caught:
        commands.parse(line.split())
    assert told in str(caught.value) and len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("classify --epochs ten", "'ten' is not a number"),
        ("classify --batch-size 2.5", "'2.5' is not a whole number"),
        ("generate --penalty-weight much", "'much' is not a number, or START:END"),
        ("sample gan --count 1e3", "'1e3' is not a whole number"),
    ],
)
def test_a_value_of_another_type_is_told_in_words(line, told, capsys):
    with pytest.raises(SystemExit):
        commands.parse(line.split())
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert told in said and "NoneType" not in said and "<class" not in said


def test_a_choice_that_may_be_unset_is_a_flag_and_its_opposite():
    def flip(*words):
        return commands.parse(["classify", *words]).flip

    assert flip() is None and flip("--flip") is True and flip("--no-flip") is False
    assert flip("--flip", "--epochs", "1") is True and flip("--flip", "False") is False
    with pytest.raises(UserError, match="write --flip or --no-flip, not --flip maybe"):
        flip("--flip", "maybe")


def test_a_file_of_values_stands_before_the_flags(tmp_path):
    path = tmp_path / "values.toml"
    path.write_text('epochs = 3\nimage_size = [24, 72]\nflip = false\nnetwork = "lenet5"\n')
    config = commands.parse(["classify", "--epochs", "5", "--config", str(path)])
    assert (config.epochs, config.image_size, config.flip) == (5.0, (24, 72), False)
    assert config.network == "lenet5" and config.width is None
    kept = tmp_path / "config.json"
    kept.write_text('{"config": {"balance": "weights", "width": null}}')
    assert commands.parse(["classify", f"--config={kept}"]).balance == "weights"
    for text, told in (("epoch = 3", "is it --epochs?"), ("epochs 3", "neither TOML nor JSON")):
        path.write_text(text)
        with pytest.raises(UserError, match=told):
            commands.parse(["classify", "--config", str(path)])
    with pytest.raises(UserError, match="can't be read"):
        commands.parse(["classify", "--config", str(tmp_path / "nothing.toml")])


@pytest.mark.parametrize("command", ["classify", "generate"])
def test_help_begins_with_fifteen_flags_and_shows_usual_values(command, capsys):
    with pytest.raises(SystemExit):
        commands.parse([command, "--help"])
    told = capsys.readouterr().out
    first, *_ = re.split(r"\w+ options", told.split("-h, --help", 1)[1])
    assert len(re.findall(r"^\W{0,4}--\w", first, re.MULTILINE)) == 15
    assert "{None}" not in told and "(default: None)" not in told
    assert "--seed INT" in first and "optimizer options" in told
    if command == "classify":
        assert "(default: speed_net)" in " ".join(first.split())


def test_the_version(capsys):
    with pytest.raises(SystemExit):
        commands.parse(["--version"])
    assert capsys.readouterr().out.startswith("jaxnets 0.")


def test_the_file_of_a_run_is_a_file_of_values(tmp_path, workplace):
    values = ["--no-pictures", "--network", "lenet5"]
    assert commands.main([*CLASSIFY, *values, "--run-dir", "run"]) == 0
    again = commands.parse(["classify", "--config", "run/config.json"])
    assert (again.network, again.batch_size, again.data) == ("lenet5", 16, "digits")
