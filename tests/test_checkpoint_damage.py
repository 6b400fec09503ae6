"""Hundreds of checkpoints, each damaged in a way of its own: none is loaded as good."""

import shutil

import jax
import numpy as np
import pytest

from checkpoint_cases import noisy, plain, state
from jaxnets.checkpoint import Checkpoints
from jaxnets.errors import UserError


def files_of(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file())


def flip_bits(folder, rng):
    path = files_of(folder)[rng.integers(len(files_of(folder)))]
    raw = bytearray(path.read_bytes())
    for _ in range(int(rng.integers(1, 4))):
        if raw:
            raw[int(rng.integers(len(raw)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(raw)


def cut_off(folder, rng):
    path = files_of(folder)[rng.integers(len(files_of(folder)))]
    raw = path.read_bytes()
    path.write_bytes(raw[: int(rng.integers(len(raw) + 1))])


def remove(folder, rng):
    files_of(folder)[rng.integers(len(files_of(folder)))].unlink()


def swap(folder, rng):
    """Two files of a checkpoint, or the same file of two checkpoints."""
    files = files_of(folder)
    one, two = (files[i] for i in rng.choice(len(files), 2, replace=False))
    if rng.integers(2):
        other = folder.with_name("4" if folder.name == "6" else "6")
        two = other / one.relative_to(folder)
    if two.exists():
        kept = one.read_bytes()
        one.write_bytes(two.read_bytes())
        two.write_bytes(kept)


def swap_folders(folder, rng):
    rest = folder.with_name("rest")
    other = folder.with_name("4" if folder.name == "6" else "6")
    folder.rename(rest)
    other.rename(folder)
    rest.rename(other)


KINDS = [flip_bits, flip_bits, cut_off, remove, swap, swap_folders]


def corrupt(tmp_path, count, seed):
    """How often damage was found, and how often it was in nothing that is read."""
    pristine, folder = tmp_path / "pristine", tmp_path / "c"
    with Checkpoints(pristine) as checkpoints:
        for step in (4, 6):
            checkpoints.save(state(step), {"step": step})
    good = {step: plain(state(step)) for step in (4, 6)}
    like = state()
    rng = np.random.default_rng(seed)
    refused = older = untouched = 0
    for number in range(count):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(pristine, folder)
        kind = KINDS[number // 2 % len(KINDS)]
        # Every other time both, so that no good one is left to hide behind.
        for name in ("4", "6") if number % 2 and kind is not swap_folders else ("6",):
            kind(folder / name, rng)
        with Checkpoints(folder) as checkpoints:
            try:
                found, notes = checkpoints.restore(like)
            except UserError:
                refused += 1
                continue
        assert notes["step"] == int(found.step)
        jax.tree.map(np.testing.assert_array_equal, plain(found), good[int(found.step)])
        older += int(found.step) == 4
        untouched += int(found.step) == 6
    return refused, older, untouched


@noisy
@pytest.mark.parametrize(
    "count", [36, pytest.param(200, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_what_is_damaged_is_never_loaded_as_good(count, tmp_path, quiet):
    refused, older, untouched = corrupt(tmp_path, count, seed=count)
    print(
        f"{count} damaged checkpoints: {refused} refused, {older} passed over for an older one, "
        f"{untouched} damaged in nothing that is read"
    )
    assert refused + older + untouched == count
    assert refused > count // 4 and older > count // 4
    assert untouched <= count // 6  # times that Orbax notes down, files that are swapped twice
