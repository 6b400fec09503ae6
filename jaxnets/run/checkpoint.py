"""Checkpoints of a whole training state through Orbax."""

import contextlib
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jaxnets import __version__
from jaxnets.devices.placement import on_one_device
from jaxnets.errors import UserError
from jaxnets.files import read_json, write_json
from jaxnets.processes import distributed
from jaxnets.run.integrity import (
    Damaged,
    Leaf,
    array_sums,
    change_manifest,
    changed,
    first_line,
    manifest_alone,
    misfit,
    nothing_good,
    read_manifest,
    set_aside,
    shapes_of,
    silence_orbax,
    unsaved,
    write_manifest,
)
from jaxnets.run.runs import belongs
from jaxnets.train.state import TrainState

__all__ = ["Checkpoints"]

T = TypeVar("T")

#: Seconds before each further attempt to write a state whose save has failed.
_PAUSES = (0.2, 1.0, 3.0)


class Checkpoints:
    """The checkpoints of one run, in one folder.

    Saves are asynchronous and atomic: training goes on while a copy of the state is written, and
    a save that was cut off is not there. One that failed is made up for by the next save; where
    that fails too, or another call comes first, it is raised.

    Every checkpoint has a manifest with checksums of its arrays and of its files, and with the
    configuration of its run; what does not agree with it is never restored.

    With several processes, all make the same calls. Each writes and reads its own part of the
    arrays, and process 0 what there is besides.

    Attributes:
      directory: where they are.
      damaged: step -> what is wrong with it, of the checkpoints that the last `restore` passed
        over.
    """

    def __init__(
        self,
        directory: Path,
        *,
        keep: int = 2,
        keep_best: int = 0,
        higher_is_better: bool = True,
        about: Mapping[str, Any] | None = None,
        say: Callable[[str], None] | None = None,
    ):
        """Opens the folder, creating it where it is missing.

        Args:
          directory: the folder of these checkpoints and nothing else.
          keep: how many of the latest are kept, at least 1.
          keep_best: how many of those with the best values are kept beside them.
          higher_is_better: what best means.
          about: the run that they are of, as JSON types; the checkpoint of another is not restored.
          say: told, in one sentence, what was put right.

        Raises:
          UserError: if the folder can't be made or written to.
        """
        self.directory = Path(directory).absolute()  # Orbax refuses relative paths
        self.damaged: dict[int, str] = {}
        self._index = self.directory.with_name(self.directory.name + ".json")
        self._keep, self._keep_best = keep, keep_best
        self._sign = 1 if higher_is_better else -1
        self._about = None if about is None else dict(about)
        self._say = say or (lambda text: None)
        self._values: dict[int, float] = {}  # step -> value; NaN, which never ranks, where none
        self._saving: int | None = None  # the step last handed to Orbax
        self._manifest: dict[str, Any] = {}  # of that step
        self._sums: Callable[[], dict[str, Leaf]] = dict
        self._open()

    def _open(self) -> None:
        import orbax.checkpoint as ocp

        silence_orbax()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write checkpoints to {self.directory}: {error}") from error
        self._ocp = ocp
        self._orbax = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(),
            async_options=ocp.AsyncOptions(post_finalization_callback=self._complete),
        )
        self._values = dict(distributed.on_first(self._list))

    def _list(self) -> list[tuple[int, float]]:
        """The steps on disk and their values; a damaged one does not rank, `restore` names it."""
        values = []
        for step in sorted(int(f.name) for f in self.directory.iterdir() if f.name.isdecimal()):
            value = None
            with contextlib.suppress(Damaged):
                value = manifest_alone(self.directory / str(step))["value"]
            values.append((step, math.nan if value is None else float(value)))
        return values

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None:
            self.wait()
            self._orbax.close()
        else:  # closing waits for the save under way, whose failure would hide what is known
            with contextlib.suppress(Exception):
                self._orbax.close()

    def steps(self) -> list[int]:
        """The steps of the checkpoints there are, the oldest first, damaged ones included."""
        return sorted(self._values)

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, or None if there is none."""
        return max(self._values, default=None)

    def newest_on_disk(self) -> int | None:
        """`latest_step` without the save under way; takes no locks, and any thread may ask."""
        with contextlib.suppress(OSError):
            return max((int(n) for n in os.listdir(self.directory) if n.isdecimal()), default=None)
        return None

    def best_step(self) -> int | None:
        """The step of the checkpoint with the best value; None if none has one."""
        return next(iter(self._ranked()), None)

    def _ranked(self) -> list[int]:
        """The steps that have a value, the best first; of equals the older."""
        ranked = [step for step in self.steps() if math.isfinite(self._values[step])]
        return sorted(ranked, key=lambda step: -self._sign * self._values[step])

    def ever_saved(self) -> bool:
        """Whether there has been a checkpoint here, which may be gone."""
        return self.latest_step() is not None or self._index.exists()

    def would_be_kept(self, value: float) -> bool:
        """Whether a state with this value would be among the best."""
        as_good = [s for s in self._ranked() if self._sign * (self._values[s] - value) >= 0]
        return math.isfinite(value) and len(as_good) < self._keep_best

    def save(
        self, state: TrainState, notes: dict[str, Any] | None = None, value: float | None = None
    ) -> None:
        """Starts to save the state under its own step; does nothing if that step is saved.

        `notes` are what else a resumed run must know, as JSON types; `value` is what the checkpoint
        is ranked by. One that is not finite never ranks.

        Raises:
          UserError: if it could not be written, and the one before it neither.
        """
        step = int(state.step)
        self._mend_folder()
        if step in self._values:
            return
        if (latest := self.latest_step()) is not None and step < latest:
            raise UserError(
                f"{self.directory} already holds step {latest}, beyond step {step}; use another "
                "run folder"
            )
        begin = partial(self._begin, step, state, notes, value)
        self._insist(step, lambda: (self.wait(), begin()), begin)

    def _begin(
        self, step: int, state: TrainState, notes: dict[str, Any] | None, value: float | None
    ) -> None:
        # The caller donates the state's buffers, and on CPU what Orbax holds are views of them: so
        # a copy. Of one device: Orbax cuts what is on several, by as many programs to compile.
        copy = jax.tree.map(jnp.copy, on_one_device(state))
        self._sums = array_sums(copy)
        rank = math.nan if value is None or not math.isfinite(value) else float(value)
        self._manifest = {"step": step, "value": _or_none(rank), "about": self._about}
        args = self._ocp.args
        items = args.Composite(state=args.StandardSave(copy), notes=args.JsonSave(notes or {}))
        try:
            self._orbax.save(self.directory / str(step), args=items)
        except Exception as error:  # Orbax raises whatever its storage layer did
            raise unsaved(self.directory, step, error) from error
        self._values[step], self._saving = rank, step

    def save_and_wait(
        self, state: TrainState, notes: dict[str, Any] | None = None, value: float | None = None
    ) -> None:
        """As `save`, and returns once it is on disk: for a run that ends there.

        Raises:
          UserError: if it could not be written.
        """
        step = int(state.step)
        self.save(state, notes, value)
        value = self._values.get(step)  # that of an earlier `save` of this step
        self._insist(step, self.wait, partial(self._begin, step, state, notes, value))

    def set_value(self, step: int, value: float) -> None:
        """Ranks a checkpoint that was saved before its value was known."""
        self.wait()
        self._values[step] = value if math.isfinite(value) else math.nan
        if jax.process_index() == 0:
            change_manifest(self.directory / str(step), value=_or_none(value))

    def wait(self) -> None:
        """Returns once everything is on disk.

        Raises:
          UserError: if a save could not be written.
        """
        if self._saving is None:
            return
        step, self._saving = self._saving, None
        value = self._values.pop(step)
        try:
            self._orbax.wait_until_finished()
            if jax.process_index() == 0 and not (self.directory / str(step)).is_dir():
                raise FileNotFoundError("someone deleted it")
        except Exception as error:
            raise unsaved(self.directory, step, error) from error
        self._values[step] = value
        first = jax.process_index() == 0
        if first:
            write_json(self._index, {"latest": step})
        kept = {*self.steps()[-self._keep :], *self._ranked()[: self._keep_best]}
        for old in set(self._values) - kept:
            del self._values[old]
            if first:
                shutil.rmtree(self.directory / str(old), ignore_errors=True)

    def restore(
        self, like: TrainState, *, best: bool = False, repair: bool = False
    ) -> tuple[TrainState, dict[str, Any]]:
        """Reads the newest checkpoint that is good.

        Args:
          like: a state of the same structure, shapes and types; what is read is put where its
            arrays are, on whatever number of devices.
          best: reads that with the best value, where there is one.
          repair: moves what is damaged out of the way, to `damaged-<step>`, so that the run can
            save those steps again. Without it nothing is changed.

        Returns:
          The state, and the notes saved with it.

        Raises:
          UserError: if there is none, or none that is good, or it is that of another network.
        """
        return self.first_good(lambda step: self._read(step, like), best=best, repair=repair)

    def first_good(
        self, read: Callable[[int], T], *, best: bool = False, repair: bool = False
    ) -> T:
        """What `read` makes of the newest good checkpoint, or of the best one: see `restore`.

        Args:
          read: step -> what is wanted of that checkpoint; raises `Damaged` where it is not good.
          best: as for `restore`.
          repair: as for `restore`.
        """
        self.wait()
        self.damaged = {}  # what was damaged earlier may have been saved again since
        order = self.steps()[::-1]
        if order and (newest := self._newest_saved()) > order[0]:
            self.damaged[newest] = "it is gone"
        if best:
            ranked = self._ranked()
            order = ranked + [step for step in order if step not in ranked]
        for step in distributed.agree(order):
            try:
                restored = read(step)
            except Damaged as error:
                self.damaged[step] = str(error)
                continue
            for wrong, why in sorted(self.damaged.items()):
                self._say(
                    f"warning: the checkpoint of step {wrong} in {self.directory} is damaged, "
                    f"{why}; using step {step}"
                )
            if repair:  # of a best one that is no longer the latest, what came later too
                moved = [s for s in self.steps() if s in self.damaged or s > step]
                distributed.on_first(lambda moved=moved: set_aside(self.directory, moved))
                for s in moved:
                    del self._values[s]
            return restored
        ever = self._index.exists()
        raise UserError(nothing_good(self.directory, self.damaged, ever_saved=ever))

    def _newest_saved(self) -> int:
        """The newest step that was known to be whole, which may be gone; -1 if none is known."""
        try:
            return int(read_json(self._index)["latest"])
        except (UserError, OSError, KeyError, TypeError, ValueError):
            return -1

    def _read(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        manifest = read_manifest(self.directory / str(step), step)
        if not belongs(manifest["about"], self._about):
            raise Damaged("it belongs to another run")
        there = {name: tuple(leaf) for name, leaf in manifest["leaves"].items()}
        if (other := misfit(there, shapes_of(like))) is not None:
            raise UserError(
                f"the checkpoint of step {step} in {self.directory} cannot be read: it is of "
                f"another network ({other})"
            )
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        args = self._ocp.args
        wanted = args.Composite(state=args.StandardRestore(target), notes=args.JsonRestore())
        try:
            read = self._orbax.restore(self.directory / str(step), args=wanted)
        except Exception as error:
            raise Damaged(f"it cannot be read: {first_line(error)}") from error
        # Arrays that were read may lie in buffers that JAX must not donate: take copies.
        state = jax.tree.map(jnp.copy, read["state"])
        for name in distributed.gather(changed(state, there)):  # each process has read its own copy
            if name is not None:
                raise Damaged(f"its array {name} is not what was saved")
        return state, dict(read["notes"])

    def _insist(self, step: int, save: Callable[[], object], again: Callable[[], None]) -> None:
        """Saves; where that fails, makes the folder anew and saves again, and waits.

        A folder that is deleted while a checkpoint is written there is such a case, and a deletion
        may take its time. Where the disk is full, all attempts fail.
        """
        try:
            save()
            return
        except UserError as error:
            if error.__cause__ is None or jax.process_count() > 1:  # no write has failed, or one
                raise  # of several processes, all of which would have to know
            why = first_line(error.__cause__)
        for number, seconds in enumerate(_PAUSES, 1):
            time.sleep(seconds)
            try:
                self._open_again()
                again()
                self.wait()
                break
            except UserError:
                if number == len(_PAUSES):
                    raise
        lost = f"a checkpoint was lost while it was written to {self.directory} ({why})"
        self._say(f"warning: {lost}; step {step} is saved in its place")

    def _mend_folder(self) -> None:
        """Makes the folder again if someone deleted it, or part of it, while the run went on."""
        done = [s for s in self._values if s != self._saving]
        gone = [s for s in done if not (self.directory / str(s)).is_dir()]
        if (self.directory.is_dir() and not gone) or jax.process_count() > 1:
            return  # several processes would have to agree on what they see
        self._open_again()
        place = f"from {self.directory} while the run went on"
        self._say(f"warning: checkpoints were deleted {place}; it goes on saving there")

    def _open_again(self) -> None:
        with contextlib.suppress(Exception):  # the save under way lost its folder
            self._orbax.close()
        self._saving = None
        self._open()

    def _complete(self) -> None:
        """Called by Orbax, in its own thread, before a complete save gets its final name."""
        (folder,) = self.directory.glob(f"{self._manifest['step']}.orbax-checkpoint-tmp*")
        content = {**self._manifest, "jaxnets": __version__, "leaves": self._sums()}
        self._sums = dict  # lets go of the copy
        write_manifest(folder, content)


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
