"""Full disks and places that cannot be written, under commands that do not train."""

import contextlib
import subprocess
import sys

import pytest

import hostile_files as files
import hostile_images as images
from command_lines import CLASSIFY
from experiments.benchmarks import measure
from experiments.benchmarks import report as bench_report
from full_disk import no_file_beyond
from jaxnets.commands import common, judging
from jaxnets.commands.configs import options
from jaxnets.devices import parallel
from jaxnets.media import report
from signals_sent import environment


@pytest.fixture
def full_disk():
    """Calls it: from then on no file grows beyond 256 bytes."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(no_file_beyond(256))


def full_after(function, full_disk):
    """The function, after whose return the disk is full."""

    def wrapped(*args, **kwargs):
        result = function(*args, **kwargs)
        full_disk()
        return result

    return wrapped


def untrained(folder, task, mesh, **options):
    """In place of `judging.trained`."""
    return parallel.replicate(task.init(), mesh)


@pytest.mark.parametrize("old", [False, True])
def test_samples_on_a_full_disk_are_all_there_or_none(
    old, refuses, place, monkeypatch, full_disk, runs
):
    monkeypatch.setattr(report, "grid_png", full_after(report.grid_png, full_disk))
    if old:
        for suffix in ("png", "npz"):
            (place / f"made.{suffix}").write_bytes(b"of before")
    out = "made" if old else "new/folder/made"
    sample = ["sample", runs["generate"], "--count", 8, "--out", out]
    refuses(*sample, words=["made", "File too large"])


def test_an_evaluation_on_a_full_disk_leaves_the_old_one(refuses, place, monkeypatch, full_disk):
    monkeypatch.setattr(judging, "trained", untrained)
    (place / "classifier" / "evaluation.json").write_text('{"step": 1}')

    def numbers(values):
        full_disk()
        return {f"number {i}": 0.5 for i in range(100)}

    monkeypatch.setattr(common, "finite", numbers)
    refuses("evaluate", "classifier", words=["classifier/evaluation.json: File too large"])


def test_a_benchmark_on_a_full_disk_leaves_nothing(refuses, monkeypatch, full_disk):
    monkeypatch.setattr(bench_report, "one", lambda result: "")

    def found(case, settings, say):
        full_disk()
        return {"name": case.name, "figures": [0.5] * 1000}

    monkeypatch.setattr(measure, "measure", found)
    line = "bench gan --batch-size 4 --json new/out.json"
    refuses(*line.split(), words=["new/out.json: File too large"])


def test_a_sheet_on_a_full_disk_leaves_nothing(refuses, monkeypatch, full_disk):
    common.load_data(options.DataOptions(), "digits")  # which is prepared once
    monkeypatch.setattr(report, "grid_png", full_after(report.grid_png, full_disk))
    refuses("data", "show", "digits", "--out", "new/sheet.png", words=["sheet.png", "too large"])


@pytest.mark.parametrize("line", ["sample gan --out", "data show digits --out", "bench gan --json"])
def test_a_place_that_cannot_be_written_is_told_before_the_work(line, refuses, monkeypatch):
    def never_reached(*args, **kwargs):
        raise AssertionError("the work was begun")

    for module, name in ((judging, "trained"), (measure, "measure"), (report, "grid_png")):
        monkeypatch.setattr(module, name, never_reached)
    refuses(*line.split(), "/proc/nothing/x", words=["/proc/nothing/x", "choose another"])
    refuses(*line.split(), "/dev/null/x", words=["/dev/null", "choose another"])


def test_printing_to_a_full_disk_is_one_sentence(place):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "experiments", "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=280,
            env=environment(),
        )
    assert done.returncode == 2
    assert done.stderr == "error: cannot read or write: No space left on device\n"


FULL = """
import resource, sys
from experiments.__main__ import commands
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
commands.process()
"""


@pytest.mark.parametrize("source", ["digits", "folder:images"])
def test_data_prepared_on_a_full_disk_leave_nothing(source, place, tmp_path):
    root = images.good_folder(place / "images", count=20)
    cache = tmp_path / "cache"
    before = files.contents(place)
    # A process of its own: the readers and writers below are not all Python's.
    done = subprocess.run(
        [sys.executable, "-c", FULL, "data", "prepare", source],
        capture_output=True,
        text=True,
        timeout=280,
        env=environment(JAXNETS_CACHE=str(cache)),
    )
    assert done.returncode == 2, done.stderr
    (last,) = done.stderr.splitlines()
    assert last.startswith("error: ") and "File too large" in last, last
    assert files.contents(place) == before and root.is_dir()
    left = [path for path in cache.rglob("*") if path.is_file()]
    assert not [path for path in left if path.suffix != ".lock"]


def test_a_run_folder_on_a_full_disk_is_not_left_half_made(refuses, full_disk, monkeypatch):
    monkeypatch.setattr(
        common, "experiment_values", full_after(common.experiment_values, full_disk)
    )
    line = [*CLASSIFY, "--run-dir", "new/run"]
    refuses(*line, words=["cannot write to new/run: File too large"])
