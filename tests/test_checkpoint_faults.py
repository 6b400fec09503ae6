"""Checkpoints that are damaged, missing, others' or unsaved: never loaded as good, always said."""

import dataclasses
import json
import logging
import math
import shutil

import jax
import jax.numpy as jnp
import pytest

from checkpoint_cases import assert_same, flip, noisy, one_line, state
from jaxnets.errors import UserError
from jaxnets.run import checkpoint
from jaxnets.run.checkpoint import Checkpoints


def payload(folder):
    """The largest file of a state: where the arrays are."""
    files = (p for p in (folder / "state").rglob("*") if p.is_file())
    return max(files, key=lambda p: p.stat().st_size)


@pytest.fixture
def three(tmp_path):
    """A folder with the steps 2, 4 and 6, the second of them the best."""
    folder = tmp_path / "c"
    with Checkpoints(folder, keep=3) as checkpoints:
        for step, value in ((2, 0.1), (4, 0.9), (6, 0.5)):
            checkpoints.save(state(step), {"step": step}, value)
    return folder


def listing(folder):
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*")}


def open_quietly(folder, **options):
    said = []
    return Checkpoints(folder, keep=3, say=said.append, **options), said


# -------------------------------------------------------------------------- an older one is used


def test_the_newest_good_one_is_used_and_the_damage_is_told(three):
    flip(payload(three / "6"))
    before = listing(three)
    checkpoints, said = open_quietly(three)
    with checkpoints:
        found, notes = checkpoints.restore(state())
    assert_same(found, state(4))
    assert notes == {"step": 4}
    assert list(checkpoints.damaged) == [6]
    (sentence,) = said
    name = str(payload(three / "6").relative_to(three / "6"))
    assert sentence == (
        f"warning: the checkpoint of step 6 in {three} is damaged, its file {name} has changed; "
        "using step 4"
    )
    assert listing(three) == before  # only to look at


def test_what_is_damaged_is_moved_and_can_be_saved_again(three):
    flip(payload(three / "6"))
    kept = payload(three / "6").read_bytes()
    checkpoints, said = open_quietly(three)
    with checkpoints:
        checkpoints.restore(state(), repair=True)
        assert checkpoints.steps() == [2, 4]
        assert payload(three / "damaged-6").read_bytes() == kept
        checkpoints.save(state(6), {"again": True})
        checkpoints.wait()
        # It is good now, and what was wrong with the old one is not held against it.
        found, notes = checkpoints.restore(state(), repair=True)
        assert_same(found, state(6))
        assert notes == {"again": True}
        assert checkpoints.damaged == {} and len(said) == 1
        assert checkpoints.steps() == [2, 4, 6]
        flip(payload(three / "6"))
        checkpoints.restore(state(), repair=True)
    assert sorted(p.name for p in three.iterdir()) == ["2", "4", "damaged-6", "damaged-6-2"]


@pytest.mark.parametrize("text", ["{", '{"custom_metadata": []}', None])
def test_notes_of_orbax_that_are_damaged_or_gone_do_no_harm(text, three):
    path = three / "6" / "_CHECKPOINT_METADATA"
    path.unlink()
    if text is not None:
        path.write_text(text)
    checkpoints, said = open_quietly(three)
    with checkpoints:
        assert_same(checkpoints.restore(state())[0], state(6))
    assert said == []


def test_a_damaged_best_one_gives_way_to_the_next_best(three):
    flip(payload(three / "4"))
    checkpoints, said = open_quietly(three)
    with checkpoints:
        assert_same(checkpoints.restore(state(), best=True)[0], state(6))
    assert "step 4" in said[0] and said[0].endswith("using step 6")


def test_arrays_are_compared_after_they_were_read(three):
    """Files may be as they were, and what a library makes of them may not."""
    checkpoints, said = open_quietly(three)
    read = checkpoints._orbax.restore

    def careless(place, args):
        found = read(place, args=args)
        if place.name == "6":
            of = found["state"]
            params = jax.tree.map(lambda x: x.at[3, 2].add(1e-6), of.nets["net"].params)
            net = dataclasses.replace(of.nets["net"], params=params)
            found = {**found, "state": dataclasses.replace(of, nets={"net": net})}
        return found

    checkpoints._orbax.restore = careless
    with checkpoints:
        assert_same(checkpoints.restore(state())[0], state(4))
    assert "its array nets.net.params.dense.kernel is not what was saved" in said[0]


# ------------------------------------------------------------------------------ none can be used


def test_where_none_is_good_all_are_named(three):
    flip(payload(three / "2"))
    (three / "4" / "manifest.json").unlink()
    payload(three / "6").write_bytes(b"")
    before = listing(three)
    checkpoints, _ = open_quietly(three)
    with checkpoints, pytest.raises(UserError, match=r"no checkpoint in .* is good") as error:
        checkpoints.restore(state(), repair=True)
    message = one_line(error)
    for words in ("step 2: its file", "step 4: its manifest.json is missing", "step 6: its file"):
        assert words in message
    assert message.endswith("put back a copy, or start over in another run folder")
    assert listing(three) == before


def test_checkpoints_that_are_gone_are_missed(three):
    with Checkpoints(three.with_name("other")) as checkpoints:
        assert not checkpoints.ever_saved()
        with pytest.raises(UserError, match="there is no checkpoint in"):
            checkpoints.restore(state())
    shutil.rmtree(three)
    with Checkpoints(three) as checkpoints:
        assert checkpoints.ever_saved() and checkpoints.latest_step() is None
        with pytest.raises(UserError, match="are gone, and there was at least one") as error:
            checkpoints.restore(state())
    one_line(error)


def other_types():
    of = state()
    net = of.nets["net"]
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), net.params)
    return dataclasses.replace(of, nets={"net": dataclasses.replace(net, params=half)})


def test_another_type_is_refused(three):
    """Orbax would cast without a word."""
    checkpoints, _ = open_quietly(three)
    with checkpoints, pytest.raises(UserError, match="another network") as error:
        checkpoints.restore(other_types())
    assert (
        "(nets.net.params.dense.kernel is float32[16, 4] there and bfloat16[16, 4] here)"
        in one_line(error)
    )


def test_the_checkpoint_of_another_run_is_passed_over(three):
    mine, others = {"config": {"seed": 1}}, {"config": {"seed": 2}}
    folder = three.with_name("mine")
    with Checkpoints(folder, about=mine) as checkpoints:
        checkpoints.save(state(3))
    with Checkpoints(three.with_name("others"), about=others) as checkpoints:
        checkpoints.save(state(5))
    shutil.copytree(three.with_name("others") / "5", folder / "5")
    checkpoints, said = open_quietly(folder, about=mine)
    with checkpoints:
        assert_same(checkpoints.restore(state())[0], state(3))
    assert "step 5" in said[0] and "it belongs to another run" in said[0]
    shutil.rmtree(folder / "3")
    checkpoints, _ = open_quietly(folder, about=mine)
    with checkpoints, pytest.raises(UserError, match="step 5: it belongs to another run"):
        checkpoints.restore(state())
    with Checkpoints(folder) as checkpoints:  # who does not say whose it should be, may look
        assert_same(checkpoints.restore(state())[0], state(5))


# -------------------------------------------------------------------------- saves that go wrong


@noisy
def test_a_save_that_failed_is_told_by_the_next_call(three, monkeypatch, quiet):
    def full(folder, content):
        raise OSError(28, "No space left on device")

    def then(call):
        checkpoints, _ = open_quietly(three)
        with checkpoints:
            checkpoints.save(state(8))
            call(checkpoints)

    monkeypatch.setattr(checkpoint, "write_manifest", full)
    monkeypatch.setattr(checkpoint, "_PAUSES", (0.0, 0.0))
    for step, call in (
        (10, lambda c: c.save(state(10))),  # which was to make up for it
        (8, lambda c: c.save_and_wait(state(8))),
        (8, lambda c: c.wait()),
        (8, lambda c: c.set_value(8, 0.5)),
        (8, lambda c: c.restore(state())),
        (8, lambda c: None),  # the end of the block
    ):
        sentence = rf"step {step} could not be saved .*No space left"
        with pytest.raises(UserError, match=sentence) as error:
            then(call)
        one_line(error)
        assert not (three / "8").exists() and not (three / "10").exists()
    monkeypatch.undo()
    checkpoints, said = open_quietly(three)
    with checkpoints:
        assert_same(checkpoints.restore(state())[0], state(6))
        checkpoints.save(state(8))
    assert (three / "8" / "manifest.json").exists() and said == []


@noisy
@pytest.mark.parametrize("failures", [1, 2])
def test_a_save_that_failed_is_made_up_for_by_the_next(failures, three, monkeypatch, quiet):
    """As where a folder is deleted: that may take longer than one attempt to write there."""
    write, left = checkpoint.write_manifest, [OSError(2, "No such file")] * failures

    def failing(folder, content):
        if left:
            raise left.pop()
        write(folder, content)

    monkeypatch.setattr(checkpoint, "write_manifest", failing)
    monkeypatch.setattr(checkpoint, "_PAUSES", (0.0, 0.0))
    checkpoints, said = open_quietly(three, keep_best=1)
    with checkpoints:
        checkpoints.save(state(8))
        checkpoints.save(state(10), {"step": 10}, 0.7)
        assert (three / "10" / "manifest.json").exists()  # it was waited for
        checkpoints.save(state(12))
    assert len(said) == 1 and "No such file" in said[0]
    assert said[0].endswith("; step 10 is saved in its place")
    with Checkpoints(three) as again:
        assert again.steps() == [4, 6, 10, 12] and again.best_step() == 4
        assert_same(again.restore(state())[0], state(12))


def test_a_folder_that_is_deleted_meanwhile_is_made_again(three):
    checkpoints, said = open_quietly(three)
    with checkpoints:
        shutil.rmtree(three)
        checkpoints.save(state(8))
        checkpoints.wait()
        assert checkpoints.steps() == [8]
        shutil.rmtree(three / "8")
        checkpoints.save(state(10))
        checkpoints.wait()
        assert_same(checkpoints.restore(state())[0], state(10))
    assert [f"checkpoints were deleted from {three}" in text for text in said] == [True] * 2


@pytest.mark.parametrize("last", [False, True], ids=["in between", "the last"])
def test_a_checkpoint_that_is_deleted_as_soon_as_it_is_there_is_made_again(
    last, three, monkeypatch
):
    """Whoever deletes a folder begins somewhere: here with the newest, the others still there."""
    checkpoints, said = open_quietly(three)
    finish, deleted = checkpoints._orbax.wait_until_finished, []

    def finish_and_delete():  # Orbax calls it too, before it saves
        finish()
        if not deleted and (three / "8").is_dir():
            shutil.rmtree(three / "8")
            deleted.append(8)

    monkeypatch.setattr(checkpoints._orbax, "wait_until_finished", finish_and_delete)
    with checkpoints:
        if last:
            checkpoints.save(state(8), {"best": 1}, value=7.0)
            checkpoints.save_and_wait(state(8), {"best": 1})
        else:
            checkpoints.save(state(8))
            checkpoints.save(state(10))
    assert len(said) == 1 and "(FileNotFoundError: someone deleted it); step" in said[0]
    with Checkpoints(three) as again:
        newest = 8 if last else 10
        found, notes = again.restore(state())
        assert_same(found, state(newest))
        assert again.latest_step() == newest
        if last:
            assert notes == {"best": 1}
            assert json.loads((three / "8" / "manifest.json").read_text())["value"] == 7.0


def test_manifests_of_before_are_still_read(three):
    """They are on users' disks: another format needs another name, and a way to read both."""
    content = json.loads((three / "6" / "manifest.json").read_text())
    assert content["format"] == "jaxnets checkpoint 1"
    assert set(content) == {
        "about", "digest", "files", "format", "jaxnets", "leaves", "step", "value",
    }  # fmt: skip
    assert math.isclose(content["value"], 0.5) and content["step"] == 6
    assert content["leaves"]["nets.net.model_state.batch_stats.mean"][:2] == ["float32", [4]]


def test_of_several_writes_that_fail_none_is_logged_beside_the_sentence(three, caplog):
    """Which of them asyncio tells of is a matter of time; what it says of others is shown."""
    with Checkpoints(three):
        pass
    tell = logging.getLogger("asyncio").error
    failed = "Task exception was never retrieved\nfuture: <Task coro=<{}() done, defined at {}>>"
    tell(failed.format("async_serialize_from_host", "/lib/orbax/checkpoint/serialization.py:126"))
    tell(failed.format("theirs", "/home/theirs.py:1"))
    assert [record.getMessage().split("coro=<")[1] for record in caplog.records] == [
        "theirs() done, defined at /home/theirs.py:1>>"
    ]
