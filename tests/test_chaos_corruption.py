"""Damage that `chaos` does to checkpoints: that what loads it is caught."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

import tiny
from checkpoint_cases import noisy
from experiments.chaos import corruption
from experiments.chaos.faults import last_line
from experiments.chaos.trainee import Stage
from jaxnets.devices import parallel
from jaxnets.run.checkpoint import Checkpoints


@pytest.fixture(scope="module")
def aim(tmp_path_factory):
    """Checkpoints of two steps of a tiny run."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    about = {"experiment": "classify"}
    mesh = parallel.make_mesh(1)
    first, _ = tiny.classifier()
    states = {
        step: parallel.replicate(
            dataclasses.replace(
                first,
                step=jnp.asarray(step, jnp.int32),
                nets=jax.tree.map(lambda a, step=step: a + a.dtype.type(step), first.nets),
            ),
            mesh,
        )
        for step in (4, 6)
    }
    notes = {step: {"best": step / 10} for step in states}
    with Checkpoints(folder, about=about) as checkpoints:
        for step, state in states.items():
            checkpoints.save(state, notes[step])
    good = {step: (corruption.bits(state), notes[step]) for step, state in states.items()}
    return corruption.Target(folder, about, parallel.replicate(first, mesh), good)


@pytest.fixture
def unchecked(monkeypatch):
    """Checkpoints as Orbax reads them: nothing is compared with what was saved."""
    monkeypatch.setattr(
        "jaxnets.run.checkpoint.read_manifest",
        lambda folder, step: json.loads((folder / "manifest.json").read_text()),
    )
    monkeypatch.setattr("jaxnets.run.checkpoint.changed", lambda tree, there: None)


@noisy
def test_wrong_arrays_are_seen_to_be_lost(aim, tmp_path, unchecked, quiet):
    told = []
    done = corruption.Damage("classify", (("state of another step", 0),), 1)
    fault = corruption.strike(Stage(tmp_path, told.append), aim, done, 1)
    assert fault.lost is not None
    assert fault.folder == tmp_path / "corrupted-classify-1" and fault.folder.is_dir()
    assert "LOST" in told[0] and last_line([fault]) == "1 faults, 0 survived, 1 lost"


def test_a_step_passed_over_in_silence_is_lost(aim, tmp_path, monkeypatch):
    open_ = Checkpoints.__init__
    silent = {"say": lambda text: None}
    monkeypatch.setattr(
        Checkpoints,
        "__init__",
        lambda self, *args, **options: open_(self, *args, **{**options, **silent}),
    )
    done = corruption.Damage("classify", (("truncated file", 0),), 1)
    fault = corruption.strike(Stage(tmp_path, print), aim, done, 1)
    assert fault.lost == "an older step was used, and nothing was said"
