"""`families`: the same minutes for all, and nothing done twice."""

import json
import re

import pytest

from experiments import budget, families
from experiments.configs import Families
from jaxnets.commands.configs.presets import PRESETS
from jaxnets.commands.session import Session
from jaxnets.errors import UserError


@pytest.fixture(scope="module")
def made(tmp_path_factory, runs):
    """The command on digits: one family, two marks, thousandths of a minute."""
    folder = tmp_path_factory.mktemp("families")
    config = Families(
        names=("few",),
        data="digits",
        minutes=(0.004, 0.002),
        seeds=1,
        samples=40,
        accuracy_score=False,
        run_dir=folder / "runs",
        out=folder / "out.json",
        judge=runs["classify"],
    )
    few = pytest.MonkeyPatch()
    narrow = {"generator": "dcgan", "width": 0.1}
    few.setitem(families.ENTRIES, "dcgan", narrow)
    few.setitem(families.ENTRIES, "few", {**narrow, "labels_per_class": 20, "penalty": "none"})
    few.setattr(budget, "WINDOW_SECONDS", 0.01)
    few.setattr(budget, "ROUNDS", 2)
    families.run(config, Session())
    yield config, json.loads((folder / "out.json").read_text())
    few.undo()


def test_every_cell_is_judged_after_its_minutes(made):
    config, found = made
    cells = [(cell["minutes"], cell["seed"], cell["entry"]) for cell in found["cells"]]
    assert cells == [(m, s, e) for m in (0.002, 0.004) for s in (0,) for e in config.names]
    for cell in found["cells"]:
        seconds = found["seconds_per_step"][cell["entry"]]
        assert cell["step"] == max(1, int(60 * cell["minutes"] / seconds))
        assert cell["images"] == PRESETS["dcgan_small"]["batch_size"] * cell["step"]
        assert cell["scores"]["frechet"] > 0
    assert set(found["table"]) == {
        f"{e}, {m:g} minutes" for e in config.names for m in (2e-3, 4e-3)
    }


def test_the_table_has_mean_and_standard_deviation(made):
    _, found = made
    (one, _) = found["cells"]
    assert found["table"]["few, 0.002 minutes"]["frechet"]["mean"] == one["scores"]["frechet"]
    cells = [{**one, "seed": seed, "scores": {"frechet": 3.0 + 2 * seed}} for seed in (0, 1)]
    *_, row = families._table(cells).splitlines()
    assert row.startswith("| few | 0.002 | 2 | ") and re.search(r"4\.\d+ ± 1\.41", row)


def test_what_is_finished_is_not_done_again(made, monkeypatch, capsys):
    config, found = made

    def no_training(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(families, "_scores", no_training)
    monkeypatch.setattr(budget, "_runner", no_training)
    families.run(config, Session())
    assert json.loads(config.out.read_text()) == found
    assert "| few | 0.002 | 1 |" in capsys.readouterr().out


def test_a_cell_of_other_values_is_not_taken(made, monkeypatch):
    config, _ = made
    other = {**families.ENTRIES["few"], "b1": 0.2}
    monkeypatch.setitem(families.ENTRIES, "few", other)
    with pytest.raises(UserError, match=r"another configuration: .*b1"):
        families.run(config, Session())


def test_a_cell_that_was_lost_is_the_same_again(made):
    config, found = made
    last = found["cells"][-1]
    path = config.run_dir / "few-seed-0" / "cell-0.004-minutes.json"
    path.unlink()
    families.run(config, Session())
    again = json.loads(path.read_text())
    assert again["step"] == last["step"] and again["scores"] == last["scores"]
