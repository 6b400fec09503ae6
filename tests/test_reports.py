"""`report RUN`: of runs that have ended and that have not, with their data and without."""

import json
import shutil

import pytest

from command_lines import assert_one_error
from jaxnets.commands import pictures
from jaxnets.commands.configs import generate
from jaxnets.commands.history import History


@pytest.mark.parametrize("name", ["classify", "generate"])
def test_a_report_is_that_of_the_end_of_the_training(name, cli, copies):
    page = copies[name] / "report.html"
    before = page.read_text()
    page.unlink()
    code, out, err = cli("report", copies[name])
    assert code == 0 and f"report: {page}" in out, err
    assert page.read_text().startswith(before.removesuffix("\n</main></body></html>\n"))
    assert ("Cases that it was least certain" in page.read_text()) == (name == "classify")
    assert ("training images are shifted by up to 1 pixels" in before) == (name == "classify")
    for told in ("--steps-per-call 2", "1,438 train", "10 classes", "0 of 1,797", "CPU cores"):
        assert told in before


def test_a_report_of_an_interrupted_run_says_how_far_it_came(cli, copies):
    folder = copies["classify"]
    (folder / "summary.json").unlink()
    metrics = folder / "metrics.jsonl"
    code, out, err = cli("report", folder)
    assert code == 0 and "of 0.05" in out and "test accuracy" in out, err
    page = (folder / "report.html").read_text()
    assert "has not ended: it has come to epoch 0.0445 of 0.05, step 4, and its last" in page
    assert "evaluation at step 4" in page and f"with --run-dir {folder}" in page
    shutil.rmtree(folder / "checkpoints")
    metrics.write_text(metrics.read_text().splitlines(keepends=True)[0])
    code, out, err = cli("report", folder)
    page = (folder / "report.html").read_text()
    assert code == 0 and "it has no checkpoint yet" in page and "accuracy" in page, err
    assert "mistakes are left out: " in page and "mistakes are left out: " in out
    metrics.unlink()
    assert_one_error(cli("report", folder), "has no numbers yet")


@pytest.mark.parametrize("name", ["classify", "generate"])
def test_without_its_data_a_report_says_what_it_leaves_out(name, cli, copies):
    config = copies[name] / "config.json"
    record = json.loads(config.read_text())
    record["config"]["data_fingerprint"] = "0" * 16
    config.write_text(json.dumps(record))
    assert cli("report", copies[name])[0] == 0
    page = (copies[name] / "report.html").read_text()
    assert "left out: the data are not those that it was trained with" in page
    assert "Confusion matrix" not in page and "Samples and real images" not in page
    assert "1,438 train" in page and "epoch</text>" in page
    assert ("Samples</h2>" in page) == (name == "generate")


def test_a_gans_distance_is_drawn_over_the_epochs(tmp_path):
    names = [f"{name}/seed-{k}" for name in ("frechet", "frechet_floor") for k in (0, 1)]
    records = [{"step": n, "epoch": 2 * n, **dict.fromkeys(names, 9 / n)} for n in (1, 2, 3)]
    lines = "".join(json.dumps({"split": "eval", **record}) + "\n" for record in records)
    (tmp_path / "metrics.jsonl").write_text(lines)
    (curve,) = pictures._curves(History(tmp_path, generate.resolve(generate.Generate(seeds=2))))
    for told in ("Frechet distance", "samples, seed-1", "floor (real images), seed-0", "epoch"):
        assert f"{told}</text>" in curve
