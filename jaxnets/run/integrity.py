"""Checksums of a checkpoint: of every array, and of every file that it lies in.

Neither replaces the other. Files are what a disk damages, and a flipped bit in one may well be
read without an error. Arrays are what a run needs, and between an array and its file there is a
library that casts types in silence. The sum of an array is one of integers, modulo 2**32, so it
is the same however the array lies on devices: a checkpoint of eight devices is verified on one.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.errors import UserError
from jaxnets.files import json_digest, read_json, write_json
from jaxnets.processes import distributed
from jaxnets.typing import Array, PyTree

__all__ = [
    "Damaged",
    "Leaf",
    "array_sums",
    "change_manifest",
    "changed",
    "first_line",
    "manifest_alone",
    "misfit",
    "nothing_good",
    "read_manifest",
    "set_aside",
    "shapes_of",
    "silence_orbax",
    "unsaved",
    "write_manifest",
]

#: An array as a manifest has it: (type, shape, checksum or "").
Leaf = tuple[str, list[int], str]

MANIFEST = "manifest.json"
_FORMAT = "jaxnets checkpoint 1"

#: Orbax's notes, written after all else, with the time of it. Nothing is read out of them.
_STAMPED = "_CHECKPOINT_METADATA"


class Damaged(Exception):
    """A checkpoint that is not what was saved; the message names the file or the array."""


def shapes_of(tree: PyTree) -> dict[str, Leaf]:
    """Names, types and shapes of a tree's arrays, the checksums left empty."""
    return {name: (str(a.dtype), list(a.shape), "") for name, a in _leaves(tree).items()}


def array_sums(tree: PyTree) -> Callable[[], dict[str, Leaf]]:
    """Checksums of a tree's arrays, two 32-bit sums each.

    A sum of the array's words, each times an odd number that depends on its place: whatever
    happens to one word changes it.

    Args:
      tree: of NumPy's arrays, or of JAX's on any devices. Typed random keys count as their data.

    Returns:
      A function that gives them, to be called where there is time for it. What needs several
      processes to work together is under way already.
    """
    leaves = {}
    for name, array in _leaves(tree).items():
        if getattr(array, "is_fully_addressable", True):
            leaves[name] = (array, None)
        elif array.is_fully_replicated:
            leaves[name] = (array.addressable_data(0), None)
        else:
            leaves[name] = (array, _sums_on_devices(array))

    def finish() -> dict[str, Leaf]:
        named = {}
        for name, (array, sums) in leaves.items():
            if sums is None:
                sums = _sums(np, _words(np.asarray(array)))
            text = "".join(f"{int(part):08x}" for part in np.asarray(sums))
            named[name] = (str(array.dtype), list(array.shape), text)
        return named

    return finish


def changed(tree: PyTree, there: Mapping[str, Leaf]) -> str | None:
    """The first array that is not what a manifest lists; None if all are."""
    return next((name for name, leaf in array_sums(tree)().items() if leaf != there[name]), None)


def _leaves(tree: PyTree) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): (
            jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _words(array: np.ndarray) -> np.ndarray:
    size = array.dtype.itemsize
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.uint32 if size >= 4 else f"uint{8 * size}").astype(np.uint32)


def _sums(xp: Any, words: Any) -> Any:
    """[2] uint32 of words of any shape, by their places in it."""
    place = xp.arange(words.size, dtype=np.uint32).reshape(words.shape)
    first = words * ((place * np.uint32(0x9E3779B1)) | np.uint32(1))
    second = (words ^ (words >> np.uint32(15))) * ((place * np.uint32(0x85EBCA77)) | np.uint32(1))
    return xp.stack([first.sum(dtype=np.uint32), second.sum(dtype=np.uint32)])


@jax.jit
def _sums_on_devices(array: Array) -> Array:
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    size = array.dtype.itemsize
    kind = jnp.uint32 if size >= 4 else jnp.dtype(f"uint{8 * size}")
    return _sums(jnp, jax.lax.bitcast_convert_type(array, kind).astype(jnp.uint32))


def misfit(there: Mapping[str, Leaf], here: Mapping[str, Leaf]) -> str | None:
    """The first array whose name, type or shape differs, in words; None if all agree.

    Orbax would cast to another type in silence. `there` is what the manifest of a checkpoint
    lists, `here` the state to be read.
    """
    for name in sorted({*there, *here}):
        shown = [f"{of[name][0]}{of[name][1]}" if name in of else "missing" for of in (there, here)]
        if shown[0] != shown[1]:
            return f"{name} is {shown[0]} there and {shown[1]} here"
    return None


def set_aside(directory: Path, steps: Iterable[int]) -> None:
    """Renames checkpoints to `damaged-<step>`, or the next such name."""
    for step in steps:
        place, number = directory / f"damaged-{step}", 1
        while place.exists():
            number += 1
            place = directory / f"damaged-{step}-{number}"
        os.replace(directory / str(step), place)


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes what `read_manifest` verifies, and `content`, into a checkpoint that is complete."""
    files = {
        str(path.relative_to(folder)): [path.stat().st_size, _digest_of_file(path)]
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != _STAMPED
    }
    _write(folder, {"format": _FORMAT, **content, "files": files})


def change_manifest(folder: Path, **changes: Any) -> None:
    """Writes other values for some of what a manifest tells."""
    manifest = {**read_json(folder / MANIFEST), **changes}
    del manifest["digest"]
    _write(folder, manifest)


def _write(folder: Path, manifest: Mapping[str, Any]) -> None:
    if not folder.is_dir():  # deleted: to be made again with a manifest only, it is no checkpoint
        raise FileNotFoundError(2, "No such folder", str(folder))
    write_json(folder / MANIFEST, {**manifest, "digest": json_digest(manifest)})


def manifest_alone(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint as it was written, whatever became of the other files.

    Raises:
      Damaged: if it is missing or is not as it was written.
    """
    try:
        manifest = read_json(folder / MANIFEST)
    except (UserError, OSError) as error:
        missing = isinstance(error.__cause__, FileNotFoundError)
        raise Damaged(f"its {MANIFEST} {'is missing' if missing else 'is damaged'}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise Damaged(f"its {MANIFEST} is of another format")
    content = {k: v for k, v in manifest.items() if k != "digest"}
    if json_digest(content) != manifest.get("digest"):
        raise Damaged(f"its {MANIFEST} is damaged")
    return manifest


def read_manifest(folder: Path, step: int) -> dict[str, Any]:
    """The manifest of a checkpoint, after every file has been compared with it.

    A file that it does not name is none of the checkpoint's, and is not looked at. With several
    processes, all must call it; process 0 reads the files.

    Raises:
      Damaged: if any of them is missing, can't be read or is not as it was written, or if the
        checkpoint is that of another step.
    """

    def verify() -> tuple[dict[str, Any], str]:
        try:
            return _verified(folder, step), ""
        except Damaged as error:
            return {}, str(error)

    manifest, damage = distributed.on_first(verify)
    if damage:
        raise Damaged(damage)
    return manifest


def _verified(folder: Path, step: int) -> dict[str, Any]:
    manifest = manifest_alone(folder)
    if manifest["step"] != step:
        raise Damaged(f"it is the checkpoint of step {manifest['step']} under another name")
    for name, (size, digest) in manifest["files"].items():
        path = folder / name
        try:
            if not path.is_file():
                raise Damaged(f"its file {name} is missing")
            if (there := path.stat().st_size) != size:
                raise Damaged(f"its file {name} has {there:,} bytes instead of {size:,}")
            if _digest_of_file(path) != digest:
                raise Damaged(f"its file {name} has changed")
        except OSError as error:  # a bad sector, say: an older checkpoint may still be good
            raise Damaged(f"its file {name} cannot be read ({error.strerror})") from error
    return manifest


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def nothing_good(directory: Path, damaged: Mapping[int, str], *, ever_saved: bool) -> str:
    """Why no checkpoint of a folder can be restored, in one sentence; `damaged` is by step."""
    advice = "or start over in another run folder"
    if damaged:
        each = "; ".join(f"step {step}: {why}" for step, why in sorted(damaged.items()))
        return f"no checkpoint in {directory} is good ({each}); put back a copy, {advice}"
    if ever_saved:
        gone = f"the checkpoints in {directory} are gone, and there was at least one"
        return f"{gone}; put them back, {advice}"
    return f"there is no checkpoint in {directory}"


def unsaved(directory: Path, step: int, error: Exception) -> UserError:
    """What a user is told of a checkpoint that could not be written, for whatever reason."""
    free = shutil.disk_usage(directory).free if directory.is_dir() else 0
    return UserError(
        f"the checkpoint of step {step} could not be saved in {directory} "
        f"({free / 1e6:,.0f} MB free there): {first_line(error)}; put that right and run the same "
        "command again to go on from the last good checkpoint"
    )


def first_line(error: BaseException) -> str:
    """An error in short: its type, and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def silence_orbax() -> None:
    """Keeps Orbax from logging failures that are raised, in one sentence, by whoever called it."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_not_of_orbax)  # adding it again changes nothing


def _not_of_orbax(record: logging.LogRecord) -> bool:
    """A failure is raised here, in one sentence; Orbax logs it too, four times with tracebacks.

    Of several writes that failed at once it raises the first, and asyncio tells of the others.
    """
    return "orbax" not in (record.getMessage() if record.name == "asyncio" else record.pathname)
