"""Checksums: equal wherever an array lies, others for any other array; files and their manifest."""

import json
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from checkpoint_cases import flip
from jaxnets.devices import parallel
from jaxnets.run import integrity
from jaxnets.run.integrity import Damaged

TYPES = ["bool", "int8", "uint8", "int32", "uint32", "float16", "bfloat16", "float32"]
SHAPES = [(), (0,), (3, 0), (5,), (16, 3)]


def example(dtype, shape, seed=0):
    """Random bits of a type, so NaNs with payloads and denormal numbers too."""
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    size = int(np.prod(shape)) * kind.itemsize
    raw = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    return (raw & 1 if dtype == "bool" else raw).view(kind).reshape(shape)


def text_of(array):
    return integrity.array_sums({"x": jnp.asarray(array)})()["x"][2]


def on_host(array):
    return [int(part) for part in integrity._sums(np, integrity._words(array))]


def by_hand(array):
    """The two sums by Python's integers: what checkpoints on users' disks were written with."""
    size = array.dtype.itemsize
    raw, step = array.tobytes(), min(size, 4)
    words = [int.from_bytes(raw[i : i + step], "little") for i in range(0, len(raw), step)]
    first = sum(w * ((i * 0x9E3779B1) | 1) for i, w in enumerate(words))
    second = sum((w ^ (w >> 15)) * ((i * 0x85EBCA77) | 1) for i, w in enumerate(words))
    return [first % 2**32, second % 2**32]


# ------------------------------------------------------------------------------- sums of arrays


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", TYPES)
def test_sums_are_those_worked_out_by_hand(dtype, shape):
    array = example(dtype, shape)
    expected = by_hand(array)
    assert on_host(array) == expected
    assert text_of(array) == "".join(f"{part:08x}" for part in expected)


@pytest.mark.parametrize("dtype", TYPES)
def test_sums_are_equal_however_an_array_lies(dtype):
    array = example(dtype, (16, 3))
    expected = on_host(array)
    for devices in (1, 2, 8):
        mesh = parallel.make_mesh(devices)
        for spec in (PartitionSpec(), PartitionSpec("data")):
            placed = jax.device_put(array, NamedSharding(mesh, spec))
            assert text_of(placed) == text_of(array)
    for shape in SHAPES:  # what several processes do together, for arrays that none has whole
        array = example(dtype, shape)
        assert integrity._sums_on_devices(jnp.asarray(array)).tolist() == on_host(array)
    assert integrity._sums_on_devices(placed).tolist() == expected


@pytest.mark.parametrize("dtype", ["float64", "int64"])
def test_sums_of_words_of_eight_bytes(dtype):
    array = example(dtype, (16, 3))
    with jax.enable_x64(True):
        placed = jax.device_put(array, NamedSharding(parallel.make_mesh(8), PartitionSpec("data")))
        assert placed.dtype == dtype
        on_devices = integrity._sums_on_devices(placed).tolist()
    assert on_devices == on_host(array) == by_hand(array)


def test_keys_count_as_their_data():
    key = jax.random.key(3)
    found = integrity.array_sums({"key": key})()["key"]
    assert found == integrity.array_sums({"key": jax.random.key_data(key)})()["key"]
    assert found[:2] == ("uint32", [2])
    assert found[2] != integrity.array_sums({"key": jax.random.key(4)})()["key"][2]


def test_every_leaf_has_its_name_type_and_shape():
    tree = {"a": {"kernel": jnp.ones((2, 3))}, "b": (jnp.int32(1), (), jnp.zeros(4, bool))}
    found = integrity.array_sums(tree)()
    assert {name: leaf[:2] for name, leaf in found.items()} == {
        "a.kernel": ("float32", [2, 3]),
        "b.0": ("int32", []),
        "b.2": ("bool", [4]),
    }
    shapes = integrity.shapes_of(tree)
    assert shapes == {name: (kind, shape, "") for name, (kind, shape, _) in found.items()}


# ------------------------------------------------------------------------- files of a checkpoint

STAMPED = {
    "item_handlers": {"state": "handler"},
    "init_timestamp_nsecs": 1,
    "commit_timestamp_nsecs": 2,
}


@pytest.fixture
def folder(tmp_path):
    """What a checkpoint of step 3 looks like."""
    folder = tmp_path / "3"
    (folder / "state" / "d").mkdir(parents=True)
    (folder / "state" / "d" / "one").write_bytes(bytes(range(100)))
    (folder / "state" / "d" / "two").write_bytes(bytes(range(100, 200)))
    (folder / "state" / "_METADATA").write_text("{}")
    (folder / "empty").write_bytes(b"")
    (folder / "_CHECKPOINT_METADATA").write_text(json.dumps(STAMPED))
    integrity.write_manifest(folder, {"step": 3, "value": None, "leaves": {}})
    return folder


def files_of(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "_CHECKPOINT_METADATA")


def test_a_manifest_names_every_file_and_is_read_back(folder):
    found = integrity.read_manifest(folder, 3)
    assert (found["step"], found["value"], found["leaves"]) == (3, None, {})
    named = {str(folder / name) for name in found["files"]}
    assert named == {str(p) for p in files_of(folder) if p.name != "manifest.json"}
    assert len(named) == 4
    assert integrity.manifest_alone(folder) == found


HARM = {
    "a flipped bit": (flip, "has changed"),
    "cut off": (lambda p: p.write_bytes(p.read_bytes()[:-1]), "bytes instead of"),
    "emptied": (lambda p: p.write_bytes(b""), "has 0 bytes instead of"),
    "longer": (lambda p: p.write_bytes(p.read_bytes() + b"x"), "bytes instead of"),
    "missing": (lambda p: p.unlink(), "is missing"),
    "a folder": (lambda p: (p.unlink(), p.mkdir()), "is missing"),
}

#: An empty file has nothing to flip and nothing to lose.
HARM_OF_CONTENT = ("a flipped bit", "cut off", "emptied")


@pytest.mark.parametrize("harm", HARM)
def test_a_file_that_is_not_as_it_was_is_named(harm, folder, tmp_path):
    act, words = HARM[harm]
    for path in files_of(folder):
        if path.name == "manifest.json" or (path.name == "empty" and harm in HARM_OF_CONTENT):
            continue
        whole = tmp_path / "whole"
        shutil.copytree(folder, whole)
        act(whole / path.relative_to(folder))
        with pytest.raises(Damaged, match=f"{path.relative_to(folder)} .*{words}"):
            integrity.read_manifest(whole, 3)
        shutil.rmtree(whole)


def test_a_file_that_the_disk_does_not_give_is_named(folder, monkeypatch):
    def bad_sector(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(integrity, "_digest_of_file", bad_sector)
    with pytest.raises(Damaged, match=r"empty cannot be read \(Input/output error\)"):
        integrity.read_manifest(folder, 3)


def test_files_of_others_are_let_be(folder):
    before = integrity.read_manifest(folder, 3)
    (folder / "state" / ".nfs0001").write_text("left by a file system")
    assert integrity.read_manifest(folder, 3) == before


def test_any_flipped_bit_of_the_manifest_is_noticed(folder):
    path = folder / "manifest.json"
    raw, bits = path.read_bytes(), np.random.default_rng(0)
    for place in range(len(raw)):
        changed = bytearray(raw)
        changed[place] ^= 1 << int(bits.integers(8))
        path.write_bytes(changed)
        with pytest.raises(Damaged, match=r"its manifest\.json is"):
            integrity.read_manifest(folder, 3)


def test_the_checkpoint_of_another_step_is_not_taken_for_this_one(folder):
    with pytest.raises(Damaged, match="the checkpoint of step 3 under another name"):
        integrity.read_manifest(folder, 4)


def test_a_manifest_can_be_changed_and_stays_whole(folder):
    before = integrity.read_manifest(folder, 3)
    integrity.change_manifest(folder, value=0.5)
    after = integrity.read_manifest(folder, 3)
    assert {k: v for k, v in after.items() if k != "digest"} == {
        **{k: v for k, v in before.items() if k != "digest"},
        "value": 0.5,
    }
    flip(folder / "state" / "d" / "one")
    with pytest.raises(Damaged, match="has changed"):
        integrity.read_manifest(folder, 3)
