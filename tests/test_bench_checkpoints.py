"""The benchmark of checkpoints: what it counts as their cost, and what it saves."""

import json

import jax
import pytest

from experiments.benchmarks import checkpoints, machine
from experiments.benchmarks.checkpoints import Window

TINY = "checkpoints --network lenet5 --batch-size 8 --image-size 8 --rounds 2 --min-seconds 0.001"


def test_the_cost_is_what_a_save_adds_to_a_window():
    saves = [Window(3.5, 0.25, 0.5), Window(3.25, 0.125), Window(3.0, 0.25)]
    others = [Window(3.0), Window(3.0), Window(2.0)]
    found = checkpoints.figures(saves, others, save_seconds=20)
    assert found["extra_seconds"]["values"] == [1.0, 0.25, 1.0]
    assert found["background_seconds"]["values"] == [0.75, 0.125, 0.75]
    assert found["blocking_seconds"]["median"] == 0.25
    assert found["share"] == pytest.approx(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classifier", "gan"])
def test_what_is_saved_is_what_a_run_saves(kind, cli, tmp_path):
    path = tmp_path / "out.json"
    flags = (*TINY.split(), "--kind", kind, "--width", 0.1, "--max-share", 100, "--json", path)
    code, out, _ = cli("bench", *flags, "--folder", tmp_path)
    assert code == 0
    found = json.loads(path.read_text())
    assert json.loads(out) == found
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.json"]
    config = checkpoints.Checkpoints(
        kind=kind, network="lenet5", width=0.1, batch_size=8, image_size=8
    )
    state = checkpoints._training(config, machine.start(1)).state
    numbers = jax.tree.map(lambda leaf: leaf.nbytes, jax.device_get(state.nets))
    assert found["checkpoint_bytes"] > sum(jax.tree.leaves(numbers))
    assert found["arrays"] == len(jax.tree.leaves(state))
    learned = "classifier" if kind == "classifier" else "generator"
    assert state.nets[learned].ema is not None
    assert len(found["with_save_seconds"]) == len(found["without_seconds"]) == 2
    assert 0 < found["blocking_seconds"]["min"] < found["with_save_seconds"][0]


@pytest.mark.parametrize("share,code", [(0.04, 0), (0.06, 1)])
def test_the_exit_code_says_whether_it_costs_too_much(share, code, cli, monkeypatch):
    monkeypatch.setattr(checkpoints, "_measure", lambda *arguments: {"share": share})
    got, out, _ = cli("bench", "checkpoints")
    assert got == code
    assert ("6.0% of the training, more than the 5.0%" in out) == bool(code)
    assert cli("bench", "checkpoints", "--max-share", 0.5)[0] == 0
