"""Checkpoints: exact, whole or absent, and on any devices. Run folders: one run each."""

import dataclasses
import json
import shutil
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checkpoint_cases import assert_same, noisy, one_line, plain, state
from full_disk import no_file_beyond
from jaxnets.devices import parallel
from jaxnets.errors import UserError
from jaxnets.run import runs
from jaxnets.run.checkpoint import Checkpoints
from jaxnets.train.state import Net

NOTES = {"best": 0.25, "stale": 3, "stopped": False, "none": None}


def test_a_state_comes_back_to_the_bit(tmp_path):
    saved = state(7)
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.latest_step() is None
        checkpoints.save(saved, NOTES)
        checkpoints.save(saved, {"ignored": True})  # this step is there already
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.latest_step() == 7
        found, notes = checkpoints.restore(state(0))
    assert_same(found, saved)
    assert notes == NOTES
    assert jax.dtypes.issubdtype(found.key.dtype, jax.dtypes.prng_key)
    np.testing.assert_array_equal(
        jax.random.normal(found.key, (3,)), jax.random.normal(saved.key, (3,))
    )


def test_a_step_before_the_latest_is_not_saved_in_silence(tmp_path, monkeypatch):
    # Nothing failed to be written, so nothing is tried again.
    monkeypatch.setattr(Checkpoints, "_open_again", lambda self: pytest.fail("tried again"))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state(5))
        checkpoints.wait()
        with pytest.raises(UserError, match="already holds step 5, beyond step 3"):
            checkpoints.save(state(3))


@pytest.mark.parametrize("before,after", [(1, 8), (8, 1), (8, 2)])
def test_restored_onto_another_number_of_devices(before, after, tmp_path):
    saved = state(3, mesh=parallel.make_mesh(before))
    mesh = parallel.make_mesh(after)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(saved)
        checkpoints.wait()
        found, _ = checkpoints.restore(state(mesh=mesh))
    chex.assert_trees_all_equal(plain(found), plain(saved))
    for leaf in jax.tree.leaves(found):
        assert leaf.sharding.is_fully_replicated and leaf.sharding.device_set == set(mesh.devices)


def test_what_is_saved_is_the_state_of_that_moment(tmp_path):
    """Training donates the state's buffers while the file is still being written."""

    overwrite = jax.jit(
        lambda s: dataclasses.replace(
            s,
            step=s.step + 1,
            nets=jax.tree.map(lambda x: x * 0 - 1, s.nets),
        ),
        donate_argnums=0,
    )
    like = state(size=1 << 18)
    current = overwrite(jax.tree.map(jnp.copy, like))  # compiled before it counts
    with Checkpoints(tmp_path) as checkpoints:
        for step in (2, 4, 6):
            current = state(step, size=1 << 18)
            # Not taken from `current`: a host's view of a buffer keeps it from being donated.
            expected = plain(state(step, size=1 << 18))
            checkpoints.save(current)
            for _ in range(3):
                current = overwrite(current)
            jax.block_until_ready(current)
            checkpoints.wait()
            found, _ = checkpoints.restore(like)
            chex.assert_trees_all_equal(plain(found), expected)


def test_what_was_restored_may_be_donated(tmp_path):
    saved = state(1, size=1 << 12)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(saved)
        checkpoints.wait()
        first, _ = checkpoints.restore(saved)
        second, _ = checkpoints.restore(saved)
    jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s.nets), donate_argnums=0)(first)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first.nets))
    assert_same(second, saved)


@pytest.mark.parametrize(
    "other",
    [
        lambda: state(features=5),
        lambda: state(size=8),
        lambda: state(second=Net({"w": jnp.zeros(2)}, {}, ())),
        lambda: dataclasses.replace(state(), nets={}),
    ],
    ids=["wider", "smaller input", "one more network", "no network"],
)
def test_the_checkpoint_of_another_network_is_refused(other, tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state(2))
        checkpoints.wait()
        with pytest.raises(UserError, match=r"step 2 .* cannot be read") as error:
            checkpoints.restore(other())
    one_line(error)


def test_a_save_that_was_cut_off_is_not_there(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state(2))
    # What a killed process leaves of step 4: a folder that was not renamed yet.
    (tmp_path / "4.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 2
        checkpoints.save(state(4))
        checkpoints.wait()
        assert int(checkpoints.restore(state())[0].step) == 4


@noisy
def test_a_disk_that_is_full_is_said_and_the_last_checkpoint_stays(tmp_path, quiet):
    big = 1 << 16
    good = state(1, size=big)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(good)
    bad = state(2, size=big)

    def save():
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(bad)

    words = r"step 2 could not be saved .* put that right"
    with no_file_beyond(1 << 16), pytest.raises(UserError, match=words) as error:  # of 1 MB
        save()
    one_line(error)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 1
        assert_same(checkpoints.restore(state(size=big))[0], good)


def test_a_newest_checkpoint_that_is_gone_is_said(tmp_path):
    with Checkpoints(tmp_path / "c", keep=3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(state(step))
    told = []
    with Checkpoints(tmp_path / "c", say=told.append) as checkpoints:
        assert int(checkpoints.restore(state())[0].step) == 3
    assert not told
    shutil.rmtree(tmp_path / "c" / "3")
    with Checkpoints(tmp_path / "c", say=told.append) as checkpoints:
        assert int(checkpoints.restore(state(), repair=True)[0].step) == 2
    (sentence,) = told
    assert "step 3" in sentence and "it is gone; using step 2" in sentence


@noisy
def test_a_save_that_fails_hides_no_other_error(tmp_path, quiet, monkeypatch):
    def fail(*args):
        raise OSError(28, "No space left on device")

    def save_and_fall():
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(state(1))
            raise RuntimeError("the reason")

    monkeypatch.setattr("jaxnets.run.checkpoint.write_manifest", fail)
    with pytest.raises(RuntimeError, match="the reason"):
        save_and_fall()


def test_a_folder_that_cannot_be_made_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write checkpoints to .*file/c"):
        Checkpoints(tmp_path / "file" / "c")

    def forbidden(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", forbidden)
    with pytest.raises(UserError, match="Permission denied"):
        Checkpoints(tmp_path / "c")


# ---------------------------------------------------------------------- folders of runs

CONFIG = {"epochs": 2.0, "widths": (1, 2), "flip": None}


def test_a_run_gets_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = (runs.open_run(None, "classify", CONFIG) for _ in range(2))
    assert first != second and first.parent == second.parent == Path("runs")
    assert first.name.startswith("classify-2")
    elsewhere = runs.open_run(None, "generate", CONFIG, root=tmp_path / "other")
    assert elsewhere.parent == tmp_path / "other"
    assert runs.read_run(first)["experiment"] == "classify"


def test_the_same_configuration_finds_its_run_again(tmp_path):
    folder = runs.open_run(tmp_path / "a" / "b", "classify", CONFIG)
    content = (folder / "config.json").read_text()
    assert json.loads(content)["config"] == {"epochs": 2.0, "widths": [1, 2], "flip": None}
    (folder / "metrics.jsonl").write_text("")
    assert runs.open_run(folder, "classify", dict(CONFIG)) == folder
    assert (folder / "config.json").read_text() == content


def test_another_configuration_is_refused_and_its_fields_are_named(tmp_path):
    folder = runs.open_run(tmp_path / "run", "classify", CONFIG)
    changed = {"epochs": 3.0, "widths": (1, 2), "cutout": 4}
    with pytest.raises(UserError) as error:
        runs.open_run(folder, "classify", changed)
    message = one_line(error)
    for part in ("epochs (there 2.0, asked 3.0)", "cutout (there '(not set)', asked 4)", "flip"):
        assert part in message
    assert "widths" not in message


def test_a_field_that_an_earlier_version_did_not_have_has_its_default(tmp_path):
    folder = runs.open_run(tmp_path / "run", "classify", CONFIG)
    defaults = {"epochs": 9.0, "stages": (), "cutout": 0}
    new = {**CONFIG, "stages": (), "cutout": 0}
    assert runs.open_run(folder, "classify", new, defaults=defaults) == folder
    with pytest.raises(UserError, match=r"configuration: cutout \(there 0, asked 4\); choose"):
        runs.open_run(folder, "classify", {**new, "cutout": 4}, defaults=defaults)
    with pytest.raises(UserError, match=r"epochs \(there 2.0, asked 9.0\)"):
        runs.open_run(folder, "classify", {**new, "epochs": 9.0}, defaults=defaults)
