"""`families`: the same minutes for all, and nothing done twice."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from experiments import families
from experiments.configs import Families
from jaxnets.commands import common
from jaxnets.commands.configs.generate import Generate
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
    )
    few = pytest.MonkeyPatch()
    narrow = {"generator": "dcgan", "width": 0.1}
    few.setitem(families.ENTRIES, "dcgan", narrow)
    few.setitem(families.ENTRIES, "few", {**narrow, "labels_per_class": 20, "penalty": "none"})
    few.setattr(families, "_own_judge", lambda *_: runs["classify"])
    few.setattr(families, "_WINDOW_SECONDS", 0.01)
    few.setattr(families, "_ROUNDS", 2)
    families.run(config, Session())
    yield config, json.loads((folder / "out.json").read_text())
    few.undo()


@dataclasses.dataclass(frozen=True)
class Later(Generate):
    """The flags of a later version."""

    another: float = 0.5
    one: str | None = None


def test_a_later_version_knows_its_cells_again():
    config = families._config_of(Families(), "sngan", 0, Path("runs"), 1.0)
    later = Later(**{f.name: getattr(config, f.name) for f in dataclasses.fields(config)})

    def cell(options, **more):
        values = json.loads(json.dumps(common.experiment_values(options)))
        return {"step": 3, "values": {**values, **more}}

    old = {**cell(config), "scores": {}}
    assert families._is_of(old, cell(later), later)
    for change in ({"penalty": "r1"}, {"another": 0.7}, {"labels_per_class": 3}):
        assert not families._is_of(old, cell(dataclasses.replace(later, **change)), later)
    assert not families._is_of({**old, "step": 4}, cell(later), later)
    # Before there was a choice, and under another default.
    del old["values"]["path_length_weight"]
    assert families._is_of(old, cell(later), later)
    assert not families._is_of(cell(config, ema_warmup=0.5), cell(later), later)


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


@pytest.mark.slow
def test_cells_come_by_seeds_and_then_by_families(made, tmp_path):
    config, _ = made
    names = ("dcgan", "few")
    more = dataclasses.replace(
        config,
        names=names,
        minutes=(0.002,),
        seeds=2,
        run_dir=tmp_path / "runs",
        out=tmp_path / "out.json",
    )
    families.run(more, Session())
    found = json.loads(more.out.read_text())
    cells = [(cell["minutes"], cell["seed"], cell["entry"]) for cell in found["cells"]]
    assert cells == [(0.002, s, e) for s in (0, 1) for e in names]
    for name, row in found["table"].items():
        assert row["frechet"]["std"] > 0, name


def test_what_is_finished_is_not_done_again(made, monkeypatch, capsys):
    config, found = made

    def no_training(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(families, "_scores", no_training)
    monkeypatch.setattr(families, "_runner", no_training)
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


@pytest.mark.slow
def test_another_family_is_timed_beside_those_that_were_and_has_an_accuracy_score(made, tmp_path):
    config, earlier = made
    more = dataclasses.replace(
        config,
        names=("dcgan",),
        minutes=(0.004,),
        seeds=1,
        accuracy_score=True,
        score_epochs=0.1,
        out=tmp_path / "out.json",
    )
    families.run(more, Session())
    found = json.loads(more.out.read_text())
    (cell,) = found["cells"]
    assert cell["entry"] == "dcgan" and set(found["seconds_per_step"]) == {"dcgan"}
    kept = json.loads((config.run_dir / "budget.json").read_text())["seconds_per_step"]
    assert kept == {**earlier["seconds_per_step"], **found["seconds_per_step"]}
    assert 0 <= cell["scores"]["accuracy_score"] <= 1


def test_a_training_that_went_further_is_not_judged_as_a_shorter_one(made):
    config, _ = made
    path = config.run_dir / "few-seed-0" / "cell-0.002-minutes.json"
    kept = path.read_text()
    path.unlink()
    try:
        with pytest.raises(UserError, match="holds a training of"):
            families.run(config, Session())
    finally:
        path.write_text(kept)
