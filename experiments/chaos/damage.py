"""Ways to damage the files of checkpoints."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["ALONE", "DAMAGES", "content", "damage"]

_BLOCK = 4096  # what a file system writes at once


def content(folder: Path) -> dict[str, bytes]:
    """Every file in a folder, by its path in it; an empty folder counts as a file."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
        if path.is_file() or not any(path.iterdir())
    }


def damage(kind: str, folder: Path, step: int, rng: random.Random) -> str:
    """Damages the checkpoint of a step in a folder of checkpoints.

    Args:
      kind: a name in `DAMAGES`.
      folder: holds the folders of two steps or more.
      step: whose checkpoint is damaged.
      rng: decides what exactly happens.

    Returns:
      What was done, in words.

    Raises:
      AssertionError: if the files are as they were.
    """
    before = content(folder)
    done = DAMAGES[kind](folder / str(step), rng)
    assert content(folder) != before, f"{kind} has changed nothing: {done}"
    return done


def _files(place: Path, at_least: int = 1) -> list[Path]:
    found = (path for path in place.rglob("*") if path.is_file())
    return sorted(path for path in found if path.stat().st_size >= at_least)


def _flip(place: Path, rng: random.Random) -> str:
    """Flips bits anywhere: of all the bytes, the manifest and Orbax's own among them."""
    return _flip_bits(place, rng.choice(_files(place)), rng.choice((1, 1, 2, 8)), rng)


def _flip_array(place: Path, rng: random.Random) -> str:
    """Flips a bit where the arrays are, which is where most of the bytes are."""
    largest = max(_files(place), key=lambda path: (path.stat().st_size, path))
    return _flip_bits(place, largest, 1, rng)


def _flip_bits(place: Path, path: Path, count: int, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    bits = rng.sample(range(8 * len(data)), count)
    for bit in bits:
        data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    return f"{count} bits of {path.relative_to(place)} flipped, the first is {bits[0]}"


def _truncate(place: Path, rng: random.Random) -> str:
    path = rng.choice(_files(place))
    size = path.stat().st_size
    left = rng.choice((0, rng.randrange(size), size - 1))
    os.truncate(path, left)
    return f"{path.relative_to(place)} cut to {left} of {size} bytes"


def _zero(place: Path, rng: random.Random) -> str:
    """Overwrites a block with zeros, as a machine does that went down before it was on disk."""
    blocks = [
        (path, start)
        for path in _files(place)
        for start in range(0, path.stat().st_size, _BLOCK)
        if any(path.read_bytes()[start : start + _BLOCK])
    ]
    path, start = rng.choice(blocks)
    data = bytearray(path.read_bytes())
    end = min(start + _BLOCK, len(data))
    data[start:end] = bytes(end - start)
    path.write_bytes(data)
    return f"bytes {start} to {end - 1} of {path.relative_to(place)} set to zero"


def _append(place: Path, rng: random.Random) -> str:
    path = rng.choice(_files(place))
    count = rng.randrange(1, 100)
    with path.open("ab") as file:
        file.write(rng.randbytes(count))
    return f"{count} bytes added to {path.relative_to(place)}"


def _delete_file(place: Path, rng: random.Random) -> str:
    path = rng.choice(_files(place, 0))
    path.unlink()
    return f"{path.relative_to(place)} deleted"


def _delete_folder(place: Path, rng: random.Random) -> str:
    folders = sorted(path for path in [place, *place.rglob("*")] if path.is_dir())
    path = rng.choice(folders)
    shutil.rmtree(path)
    return f"folder {path.relative_to(place.parent)} deleted"


def _swap_files(place: Path, rng: random.Random) -> str:
    """Two files of the checkpoint, each with the content of the other."""
    files = _files(place, 0)
    one = rng.choice(files)
    other = rng.choice([path for path in files if path.read_bytes() != one.read_bytes()])
    _exchange(one, other)
    return f"{one.relative_to(place)} and {other.relative_to(place)} swapped"


def _swap_between_steps(place: Path, rng: random.Random) -> str:
    """A file of the checkpoint with that of another step; each fits where it comes to lie."""
    other = rng.choice(_others(place))
    names = [path.relative_to(place) for path in _files(place, 0)]
    both = [
        name
        for name in names
        if (other / name).is_file() and (other / name).read_bytes() != (place / name).read_bytes()
    ]
    name = rng.choice(both)
    _exchange(place / name, other / name)
    return f"{name} swapped with that of step {other.name}"


def _swap_arrays(place: Path, rng: random.Random) -> str:
    """The whole state, which then is that of another step under a manifest that is good."""
    other = rng.choice(_others(place))
    _exchange(place / "state", other / "state")
    return f"the state swapped with that of step {other.name}"


def _swap_steps(place: Path, rng: random.Random) -> str:
    other = rng.choice(_others(place))
    _exchange(place, other)
    return f"steps {place.name} and {other.name} swapped"


def _old_copy(place: Path, rng: random.Random) -> str:
    """An older checkpoint, whole and good in itself, under the name of a newer one."""
    other = rng.choice(_others(place))
    shutil.rmtree(place)
    shutil.copytree(other, place)
    return f"step {place.name} replaced by a copy of step {other.name}"


def _others(place: Path) -> Sequence[Path]:
    return sorted(
        path for path in place.parent.iterdir() if path.name.isdecimal() and path != place
    )


def _exchange(one: Path, other: Path) -> None:
    aside = one.with_name(one.name + ".aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


#: Kind of damage -> what does it, given the folder of a checkpoint; says what it has done.
DAMAGES: dict[str, Callable[[Path, random.Random], str]] = {
    "flipped bits": _flip,
    "flipped bit of an array": _flip_array,
    "truncated file": _truncate,
    "zeroed block": _zero,
    "longer file": _append,
    "missing file": _delete_file,
    "missing folder": _delete_folder,
    "swapped files": _swap_files,
    "file of another step": _swap_between_steps,
    "state of another step": _swap_arrays,
    "swapped steps": _swap_steps,
    "older copy": _old_copy,
}

#: Those that leave the checkpoints of other steps alone, and need none to differ from theirs: two
#: of them may be done to two steps.
ALONE = tuple(DAMAGES)[:8]
