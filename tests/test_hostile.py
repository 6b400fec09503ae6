"""Hostile input: every case is one sentence and exit code 2, and leaves everything as it was."""

import dataclasses
import json
import os
import shlex
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hostile
import hostile_files as files
import hostile_images as images
from experiments.__main__ import commands
from jaxnets.commands import classify as classifier
from jaxnets.commands import common, training
from jaxnets.commands.configs import classify, generate
from jaxnets.commands.configs.reading import config_from
from jaxnets.commands.session import Session
from jaxnets.devices.parallel import make_mesh
from jaxnets.errors import UserError
from jaxnets.run import runs
from jaxnets.run.log import read_records

VALUES = hostile.values_of()
FILES = {**{name: data for name, (data, _) in images.FILES.items()}, **images.generated()}
CLASSIFY = shlex.split("classify --network lenet5 --epochs 0.05 --batch-size 2 --devices 1")

#: What reads a run, and which.
READERS = [
    ("evaluate gan", "gan"),
    ("evaluate classifier", "classifier"),
    ("report gan", "gan"),
]


def test_every_field_has_values_that_it_cannot_have():
    held = {(case.command, case.field) for case in VALUES}
    for command, field, hint in hostile.fields():
        assert (command, field) in held or hostile.is_closed(hint), (command, field)


def each_of(cases, check):
    """Checks all of them, and fails with the names of all that are not as they should be."""
    wrong = []
    for name, case in cases.items():
        try:
            check(case)
        except AssertionError as error:
            wrong.append(f"{name}: {error}")
    assert cases and not wrong, "\n\n".join(wrong)


# ------------------------------------------------------------------------- command lines


@pytest.mark.parametrize("command", hostile.COMMANDS)
def test_a_value_out_of_range_is_refused(command, refuses, monkeypatch):
    parse = commands.parse

    def check(case):
        # The parser is tested with whole lines; of so many cases it would take two minutes.
        given = lambda words: case.config() if words == [command] else parse(words)  # noqa: E731
        monkeypatch.setattr(commands, "parse", given)
        last = " ".join(refuses(command).split())
        assert any(word in last for word in case.words), (case.words, last)

    each_of({case.name: case for case in VALUES if case.command == command}, check)


@pytest.mark.parametrize("line", hostile.LINES, ids=lambda line: line[0][:40])
def test_a_line_that_says_nothing_useful_is_refused(line, refuses):
    refuses(*shlex.split(line[0]), words=line[1:])


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.lists(st.one_of(st.text(max_size=8), st.sampled_from(sorted(hostile.COMMANDS)))))
def test_any_words_at_all_are_a_command_or_the_parsers_error(words):
    code = 0
    try:
        commands.parse(words)
    except SystemExit as left:
        code = left.code
    except UserError as error:
        code = 2 if str(error).startswith(("there is no ", "write --", "--config")) else 1
    assert code in (0, 2)


# ------------------------------------------------------------------------- files of runs


@pytest.mark.parametrize("number", range(len(files.CONFIGS)), ids=list(files.CONFIGS))
def test_a_config_that_describes_no_run_is_refused(number, refuses, place):
    content = list(files.CONFIGS.values())[number]
    for line, name in (READERS[0], READERS[1 + number % (len(READERS) - 1)]):
        (place / name / "config.json").write_bytes(content)
        last = refuses(*line.split())
        assert "config.json" in last or "a run of `" in last, last
        (place / name / "config.json").write_text(files.run_text(name))


def test_a_config_in_the_form_of_another_thing_is_refused(refuses, place):
    for name in files.RUNS:
        (place / name / "config.json").unlink()
        refuses("evaluate", name, words=["has no config.json"])
        (place / name / "config.json").mkdir()
        refuses("evaluate", name, words=["config.json", "Is a directory"])
        (place / name / "config.json").rmdir()
        (place / name / "config.json").symlink_to("config.json")
        refuses("evaluate", name)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from([classify, generate]), st.data())
def test_any_value_of_a_config_is_right_or_named(module, data):
    kind = {classify: classify.Classify, generate: generate.Generate}[module]
    field = data.draw(st.sampled_from([one.name for one in dataclasses.fields(kind)]))
    value = data.draw(JSON)

    def resolved(values):
        return module.resolve(config_from(kind, values))

    try:
        config = resolved({"data": "digits", field: value})
    except UserError as error:
        said = str(error)
    else:  # what is right is written and read again as it is
        written = json.loads(json.dumps(runs.config_values(config)))
        assert resolved(written) == config
        return
    assert f"`{field}`" in said or f"--{field.replace('_', '-')} " in said, said


@pytest.fixture
def begun(place):
    """The folder of a run that has not trained a step yet, and the command that goes on."""
    line = [*CLASSIFY, "--data", "digits", "--run-dir", "begun"]
    config = classify.resolve(commands.parse(line))
    dataset = common.load_data(config, config.data)
    built = classifier.build(config, dataset, make_mesh(1))
    training.open_run("classify", config, dataset, Session(), built)
    return place / "begun", line


@pytest.mark.parametrize("content", files.RECORDS)
def test_records_that_are_none_are_refused(content, begun, refuses):
    folder, line = begun
    good = b'{"split": "train", "step": 2, "loss": 1.0, "epoch": null}\n'
    path = folder / "metrics.jsonl"
    path.write_bytes(good + files.RECORDS[content] + b"\n" + good)
    refuses(*line, words=["line 2 of ", "metrics.jsonl", "put back a copy"])
    path.write_bytes(good + files.RECORDS[content])  # what a killed process leaves
    assert [record["step"] for record in read_records(path)] == [2]


def test_records_in_the_form_of_a_folder_are_refused(begun, refuses):
    folder, line = begun
    (folder / "metrics.jsonl").mkdir()
    refuses(*line, words=["metrics.jsonl"])


@pytest.mark.parametrize("kind", files.CHECKPOINTS)
def test_checkpoints_that_are_none_are_refused(kind, refuses, place):
    for name, line in (("gan", "sample gan"), ("classifier", "evaluate classifier")):
        files.CHECKPOINTS[kind](place / name)
        assert "checkpoint" in refuses(*line.split())


def test_what_lies_among_the_runs_does_not_stop_the_list(cli, place):
    for number, (name, content) in enumerate(files.CONFIGS.items()):
        folder = place / "runs" / f"{number:03}"
        folder.mkdir(parents=True)
        (folder / "config.json").write_bytes(content)
        other = place / "runs" / f"summary-{number:03}"
        other.mkdir()
        (other / "config.json").write_text(files.run_text("gan"))
        (other / "summary.json").write_bytes(content)
        assert name  # the number says which
    for content in ("[]", '{"test_accuracy": "high"}', '{"frechet": [1]}'):
        other = place / "runs" / f"summary-{len(content)}"
        other.mkdir()
        (other / "config.json").write_text(files.run_text("gan"))
        (other / "summary.json").write_text(content)
    (place / "runs" / "folder" / "config.json").mkdir(parents=True)
    code, out, err = cli("list")
    assert code == 0 and not err
    lines = [line.split(maxsplit=1) for line in out.splitlines() if line.startswith("  runs/")]
    assert len(lines) == 2 * len(files.CONFIGS) + 4
    told = dict(lines)
    assert told["runs/000"] == "(its config.json cannot be read)"
    assert told["runs/summary-000"] == "generate on digits (its summary.json cannot be read)"


CASE = {"name": "a", "devices": 1, "mode": "jit", "steps_per_call": 1, "plain": False}
CASE |= {"step_seconds": {"median": 1.0}, "share_of_peak": {"median": 0.5}}


@pytest.mark.parametrize(
    "change",
    [
        {"name": []},
        {"devices": "two"},
        {"step_seconds": 1.0},
        {"step_seconds": {"median": "fast"}},
        {"step_seconds": {"median": 0}},
        {"share_of_peak": {}},
        {"against": {"name": "torch"}},
        {"against": 3},
    ],
    ids=str,
)
def test_a_case_to_compare_is_looked_at(change, refuses, cli, place):
    def write(case):
        content = {"format": "jaxnets benchmark 1", "machine": {}, "cases": [case]}
        (place / "a.json").write_text(json.dumps(content))

    write(CASE)
    assert cli("bench", "--compare", "a.json", "a.json")[0] == 0
    write({**CASE, **change})
    refuses("bench", "--compare", "a.json", "a.json", words=["a.json was not written by"])


# ------------------------------------------------------------------------- images


@pytest.mark.parametrize("name", FILES, ids=lambda name: ascii(name))
def test_an_image_that_cannot_be_used_is_named(name, refuses, place):
    root = images.good_folder(place / "images")
    (root / "cat" / name).write_bytes(FILES[name])
    reason = images.FILES.get(name, (b"", ""))[1]
    line = ["data", "prepare", "folder:images", "--image-size", "8"]
    refuses(*line, words=[hostile.shown(f"cat/{name}"), reason, "--skip-bad"])


def test_an_image_without_permission_is_named(refuses, place, monkeypatch):
    images.good_folder(place / "images")
    whole = Path.open

    def forbidden(self, *args, **kwargs):
        if self.name == "1.png" and args == ("rb",):  # not when this test reads it
            raise PermissionError(13, "Permission denied", str(self))
        return whole(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", forbidden)
        last = refuses(*CLASSIFY, "--data", "folder:images")
    assert all(
        f"{name}/1.png (can't be read: Permission denied)" in last for name in ("cat", "dog")
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--batch-size 128", ["batch size 128", "4 examples"]),
        ("--image-size 2", ["lenet5", "2x2"]),
        ("--image-size 1000000", ["64 megapixels"]),
        ("--crop-padding 8", ["crop padding 8"]),
    ],
)
def test_a_size_that_does_not_suit_a_folder_is_refused(flags, words, refuses, place):
    images.good_folder(place / "images")
    refuses(*CLASSIFY, "--data", "folder:images", *flags.split(), words=words)


def test_a_folder_without_permission_is_named(refuses, place, monkeypatch):
    images.good_folder(place / "images")
    (place / "images" / "cat" / "closed").mkdir()
    whole = os.scandir

    def forbidden(path=".", **kwargs):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return whole(path, **kwargs)

    before = files.contents(place)
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", forbidden)
        code = commands.main([*CLASSIFY, "--data", "folder:images"])
    assert code == 2 and files.contents(place) == before


@pytest.mark.parametrize("where", ["file", "file/below", "~no-such-user/x", "/proc/nothing"])
def test_a_cache_that_cannot_be_is_refused(where, refuses, place, monkeypatch):
    images.good_folder(place / "images")
    monkeypatch.setenv("JAXNETS_CACHE", where)
    refuses("data", "prepare", "folder:images", words=["JAXNETS_CACHE"])


def test_what_the_cases_start_from_is_taken(cli, place):
    """Otherwise they would be refused for another reason."""
    images.good_folder(place / "images")
    assert cli("data", "prepare", "folder:images")[0] == 0
    for name in files.RUNS:
        config = json.loads((place / name / "config.json").read_text())["config"]
        module = {"gan": generate, "classifier": classify}[name]
        kind = {"gan": generate.Generate, "classifier": classify.Classify}[name]
        assert module.resolve(config_from(kind, config)).batch_size == 16
