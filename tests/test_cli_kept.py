"""What is kept of a run, and by which views a classifier is judged, from the command line."""

import json
from pathlib import Path

import pytest

from command_lines import CLASSIFY, assert_one_error, summary

pytestmark = pytest.mark.usefixtures("workplace")

OFTEN = ["--eval-every", "0.02", "--save-every", "0.02"]
WATCHED = [*CLASSIFY, "--validation-fraction", "0.2", *OFTEN]


def manifests(folder):
    """Step -> what the manifest of its checkpoint tells."""
    paths = (Path(folder) / "checkpoints").glob("*/manifest.json")
    return {int(path.parent.name): json.loads(path.read_text()) for path in paths}


def test_the_best_is_kept_beside_the_latest_and_used(cli):
    line = [*WATCHED, "--epochs", "0.1", "--run-dir", "run", "--keep", 1, "--keep-best", 1]
    assert cli(*line)[0] == 0
    records = [json.loads(text) for text in Path("run/metrics.jsonl").read_text().splitlines()]
    values = {r["step"]: r["validation_accuracy"] for r in records if r["split"] == "eval"}
    last = max(values)
    best = min(values, key=lambda step: (-values[step], step))
    assert len(values) > 2
    kept = {step: manifest["value"] for step, manifest in manifests("run").items()}
    assert kept == {step: values[step] for step in {best, last}}
    code, out, _ = cli("evaluate", "run")
    assert code == 0 and json.loads(out)["step"] == best
    # How many of the latest are kept is not what the run is; what best means, it is.
    assert cli(*line, "--keep", 3)[0] == 0
    assert_one_error(cli(*line, "--keep-best", 2), "keep_best (there 1, asked 2)")


def test_views_change_how_it_is_judged_and_not_what_is_learnt(cli):
    found = {}
    for views in ("plain", "mirror", "mirror_and_shift"):
        assert cli(*CLASSIFY, "--run-dir", views, "--test-views", views)[0] == 0
        (manifest,) = manifests(views).values()
        found[views] = (manifest["leaves"], summary(Path(views))["test_loss"])
    leaves, losses = zip(*found.values(), strict=True)
    assert leaves[0] == leaves[1] == leaves[2]
    assert len(set(losses)) == 3
    assert_one_error(
        cli(*CLASSIFY, "--run-dir", "plain", "--test-views", "mirror"),
        "test_views (there 'plain', asked 'mirror')",
    )
