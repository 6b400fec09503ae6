"""The benchmark of starts: two processes, the second of which finds what the first compiled."""

import json

import pytest

from experiments.benchmarks import startup
from jaxnets.errors import UserError

TINY = "classify --data digits --network lenet5 --width 0.5 --epochs 1 --batch-size 16 --devices 1"


@pytest.fixture
def kept(monkeypatch):
    """How many compiled programs lie in the folder after each start."""
    counts, start = [], startup._start

    def counted(command, run_dir, programs):
        seconds = start(command, run_dir, programs)
        counts.append(len(list(programs.glob("*-cache"))))
        return seconds

    monkeypatch.setattr(startup, "_start", counted)
    return counts


@pytest.mark.slow
def test_a_later_start_compiles_nothing(tmp_path, monkeypatch, kept):
    monkeypatch.setenv("JAXNETS_CACHE", str(tmp_path))
    found = startup.run(startup.Startup(command=TINY, rounds=2, json=tmp_path / "out.json"))
    assert found == json.loads((tmp_path / "out.json").read_text())
    assert found["programs"] > 5 and found["program_bytes"] > 10_000
    # But for what one did after its first step, before it was ended, and the other did not.
    assert kept[0] > 5 and kept[2] - kept[0] <= kept[0] // 10


@pytest.mark.slow
def test_a_command_that_does_not_train_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXNETS_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="`classify --data x` began no training: error: there is"):
        startup.run(startup.Startup(command="classify --data x"))
