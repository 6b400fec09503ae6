"""What an undisturbed run takes and leaves: the measure of those that are struck."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.chaos.trainee import Stage, Timing, watch
from jaxnets.errors import UserError


@dataclasses.dataclass(frozen=True)
class Final:
    """What a run has left, without what differs from one undisturbed run to the next.

    Attributes:
      step: of its last checkpoint.
      arrays: of the state in it: name -> (type, shape, bytes).
      sums: the checksums in its manifest.
      curve: records of metrics.jsonl, without the times in them.
    """

    step: int
    arrays: Mapping[str, tuple[str, tuple[int, ...], bytes]]
    sums: Mapping[str, Any]
    curve: list[dict[str, Any]]


def read_final(folder: Path) -> Final:
    """Reads what a finished run has left.

    Raises:
      OSError, ValueError: if it isn't there or can't be read.
    """
    steps = [int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdecimal()]
    step = max(steps)
    place = folder / "checkpoints" / str(step)
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    curve = [{k: v for k, v in r.items() if k != "images_per_second"} for r in records]
    sums = json.loads((place / "manifest.json").read_text())["leaves"]
    return Final(step, read_arrays(place), sums, curve)


def read_arrays(place: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """The arrays in the folder of a checkpoint, through Orbax alone: name -> (type, shape, bytes).

    On purpose not through `jaxnets.run.checkpoint`, which is on trial here.
    """
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    handler = ocp.PyTreeCheckpointHandler()
    state: Any = (place / "state").absolute()  # Orbax's own type of path, by its annotations
    as_numpy = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(state).tree
    )
    read = handler.restore(state, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(read):
        array = np.asarray(leaf)
        found[jax.tree_util.keystr(path)] = (str(array.dtype), array.shape, array.tobytes())
    return found


def difference(found: Final, usual: Final) -> str | None:
    """Where a run ended otherwise than the undisturbed one; None if nowhere, to the bit."""
    if found.step != usual.step:
        return f"its last checkpoint is that of step {found.step}, not {usual.step}"
    if found.arrays.keys() != usual.arrays.keys():
        return "its last checkpoint has other arrays"
    wrong = [name for name in usual.arrays if found.arrays[name] != usual.arrays[name]]
    if wrong:
        return f"{len(wrong)} of {len(usual.arrays)} arrays differ, the first is {wrong[0]}"
    if found.sums != usual.sums:
        return "the arrays are those of the undisturbed run, and their checksums are not"
    if found.curve != usual.curve:
        return "metrics.jsonl differs from that of the undisturbed run"
    return None


@dataclasses.dataclass(frozen=True)
class Reference:
    """A run that nothing disturbs.

    Attributes:
      arguments: of its command line, without --run-dir.
      folder: where it lies.
      timing: of its life.
      final: what it has left.
    """

    arguments: tuple[str, ...]
    folder: Path
    timing: Timing
    final: Final


def make_reference(stage: Stage, name: str, arguments: Sequence[str]) -> Reference:
    """Makes a run twice: from nothing, and with everything in the cache.

    Raises:
      UserError: if it fails, or if the two don't end with the same bits; then there is nothing to
        compare with.
    """
    found = []
    for number in (1, 2):
        folder = stage.folder / f"undisturbed-{name}-{number}"
        trainee = stage.start([*arguments, "--run-dir", str(folder)], folder.name)
        timing, code = watch(trainee)
        if code:
            raise UserError(
                f"the undisturbed run of `{shlex.join(arguments)}` failed{trainee.last_words()}"
            )
        with stage.lock:
            found.append((folder, timing, read_final(folder)))
    (_, cold, first), (folder, warm, final) = found
    differs = difference(first, final)
    if differs:
        raise UserError(f"two undisturbed runs of `{shlex.join(arguments)}` differ: {differs}")
    timing = dataclasses.replace(warm, cold=cold.cold)
    stage.say(
        f"{name}: {final.step} steps undisturbed, twice, with the same bits; first step after "
        f"{timing.start:.1f} s ({timing.cold:.1f} s cold), training {timing.train:.1f} s, a save "
        f"{timing.save * 1e3:.0f} ms, the end {timing.end:.1f} s"
    )
    return Reference(tuple(arguments), folder, timing, final)


def judge(stage: Stage, folder: Path, usual: Final) -> str | None:
    """Where the finished run in a folder ended otherwise than it should; None if nowhere."""
    with stage.lock:
        try:
            return difference(read_final(folder), usual)
        except Exception as error:  # whatever Orbax finds wrong with it
            return f"what it left can't be read: {type(error).__name__}: {str(error)[:200]}"
