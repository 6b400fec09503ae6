"""`chaos` on real training runs: a few faults of each kind, and one that must be seen as lost."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from experiments.chaos import chaos, signals
from experiments.chaos.faults import Chain, Moment
from experiments.chaos.trainee import RUNS, Stage
from experiments.chaos.undisturbed import make_reference

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    stage = Stage(tmp_path_factory.mktemp("chaos"), lambda text: print(text, flush=True))
    yield stage
    stage.close()


@pytest.fixture(scope="module")
def reference(stage):
    """The CNN's run, undisturbed: half as long as the command's own."""
    line = list(RUNS["classify"])
    line[line.index("--epochs") + 1] = "1.2"
    return make_reference(stage, "classify", line)


def test_a_run_that_ends_otherwise_is_seen(stage, reference):
    """Another seed stands for a run that is not resumed rightly."""
    other = dataclasses.replace(reference, arguments=(*reference.arguments, "--seed", "1"))
    chain = Chain("kills", "classify", 9, (Moment("train", 0.5),))
    (fault,) = signals.Killer(stage, other).strike(chain)
    assert "arrays differ" in fault.lost and (fault.folder / "metrics.jsonl").exists()


@pytest.mark.timeout(600)
def test_the_short_form_loses_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "experiments", "chaos", "--json", "chaos.json"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    left = json.loads((tmp_path / "chaos.json").read_text())
    count = len(left["faults"])
    assert done.stdout.splitlines()[-1] == f"{count} faults, {count} survived, 0 lost"
    assert {fault["kind"] for fault in left["faults"]} == set(chaos.COUNTS)
