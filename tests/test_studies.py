"""`study`: cells are computed once, and the table has mean and spread."""

import json

import pytest

from experiments.studies import cells
from experiments.studies.cells import Cell, Column


@pytest.fixture
def study(tmp_path):
    """A study of three cells whose scores are their seeds; counts what it computes."""
    computed = []

    def measure(cell, folder):
        computed.append(cell.name)
        assert folder.name == cell.name
        return {"recall": cell.seed / 10, **({"extra": 1} if cell.row["method"] == "gan" else {})}

    def conduct(*wanted):
        computed.clear()
        cells.conduct(
            "test",
            wanted,
            measure,
            [Column("recall", "recall", ".1f", 100), Column("extra", "extra")],
            run_dir=tmp_path / "runs",
            out=tmp_path / "out.json",
            about={"data": "digits"},
        )
        return list(computed), json.loads((tmp_path / "out.json").read_text())

    return conduct


_CELLS = [Cell({"method": "gan"}, 0), Cell({"method": "gan"}, 1), Cell({"method": "none"}, 0)]


def test_a_table_has_a_row_for_each_method_with_mean_and_spread(study, capsys):
    computed, out = study(*_CELLS)
    assert len(computed) == 3 and out["data"] == "digits" and len(out["cells"]) == 3
    assert [(row["method"], row["seeds"]) for row in out["table"]] == [("gan", 2), ("none", 1)]
    assert out["table"][0]["scores"]["recall"]["mean"] == pytest.approx(0.05)
    table = capsys.readouterr().out
    assert "| gan | 2 | 5.0 ± 7.1 | 1.00 ± 0.00 |" in table
    assert "| none | 1 | 0.0 ± 0.0 |  |" in table


def test_a_cell_is_computed_again_only_with_other_values(study):
    study(*_CELLS)
    assert study(*_CELLS)[0] == []
    other = Cell({"method": "gan"}, 1, {"steps": 7})
    computed, out = study(_CELLS[0], other)
    assert computed == ["method-gan-seed-1"]
    assert out["cells"][1]["values"] == {"steps": 7}
