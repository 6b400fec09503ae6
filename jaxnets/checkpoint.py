"""Checkpoints of a whole training state through Orbax; the only module that knows Orbax."""

import json
import logging
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp

from jaxnets.errors import UserError
from jaxnets.state import TrainState

__all__ = ["Checkpoints"]


class Checkpoints:
    """The checkpoints of one run, in one folder.

    Saves are asynchronous and atomic: training goes on while a copy of the state is written, and
    a save that was cut off is not there. A save that failed is raised by the next call, `wait` or
    the end of the `with` block.

    Attributes:
      directory: where they are.
    """

    def __init__(self, directory: Path, *, keep: int = 2):
        """Opens the folder, creating it where it is missing.

        Args:
          directory: the folder of these checkpoints and nothing else.
          keep: how many of the latest are kept.

        Raises:
          UserError: if the folder can't be made or written to.
        """
        import orbax.checkpoint as ocp
        from orbax.checkpoint import checkpoint_managers

        self.directory = Path(directory).absolute()  # Orbax refuses relative paths
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write checkpoints to {self.directory}: {error}") from error
        self._ocp = ocp
        logging.getLogger("absl").addFilter(_not_of_orbax)  # adding it again changes nothing
        self._saving: int | None = None  # the step last handed to Orbax
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.LatestN(keep)
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.wait()
        self._manager.close()

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, or None if there is none."""
        return self._manager.latest_step()

    def save(self, state: TrainState, notes: dict[str, Any] | None = None) -> None:
        """Starts to save the state under its own step; does nothing if that step is saved.

        Args:
          state: whatever its sharding.
          notes: what else a resumed run must know, as JSON types.

        Raises:
          UserError: if this save, or the one before it, could not be written.
        """
        step = int(state.step)
        if step == self.latest_step():
            return
        # The caller goes on to donate the state's buffers, and on CPU what Orbax holds are views
        # of them: without the copy, the file would show a mixture of two steps.
        copy = jax.tree.map(jnp.copy, state)
        args = self._ocp.args
        # What a save raises is often the failure of the one before it.
        before, self._saving = self._saving, step
        try:
            saved = self._manager.save(
                step,
                args=args.Composite(
                    state=args.StandardSave(copy), notes=args.JsonSave(notes or {})
                ),
            )
        except Exception as error:  # Orbax raises whatever its storage layer did
            failed = step if before in (None, *self._manager.all_steps()) else before
            raise self._unsaved(failed, error) from error
        if not saved:
            raise UserError(
                f"{self.directory} already holds step {self.latest_step()}, beyond step {step}; "
                "use another run folder"
            )

    def wait(self) -> None:
        """Returns once everything is on disk.

        Raises:
          UserError: if a save could not be written.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._unsaved(self._saving, error) from error

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Reads the newest checkpoint.

        Args:
          like: a state of the same structure, shapes and types; what is read is put where its
            arrays are, on whatever number of devices.

        Returns:
          The state, and the notes saved with it.

        Raises:
          UserError: if there is none, or it is that of another network or unreadable.
        """
        step = self.latest_step()
        if step is None:
            raise UserError(f"there is no checkpoint in {self.directory}")
        self._check_fit(step, like)
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), like
        )
        args = self._ocp.args
        try:
            read = self._manager.restore(
                step,
                args=args.Composite(state=args.StandardRestore(target), notes=args.JsonRestore()),
            )
        except Exception as error:
            raise UserError(
                f"the checkpoint of step {step} in {self.directory} cannot be read: "
                f"{_first_line(error)}; delete the folder {self.directory / str(step)} to go on "
                "from the checkpoint before it"
            ) from error
        # Arrays that were read may lie in buffers that JAX must not donate: take copies.
        return jax.tree.map(jnp.copy, read["state"]), dict(read["notes"])

    def _check_fit(self, step: int, like: TrainState) -> None:
        """Compares shapes and types first: a read that fails half-way leaves noise behind."""
        try:
            found = self._manager.item_metadata(step)["state"].tree
            there = {
                jax.tree_util.keystr(path, simple=True, separator="."): (leaf.shape, leaf.dtype)
                for path, leaf in jax.tree_util.tree_leaves_with_path(found)
            }
        except Exception:  # damaged: reading it says how
            return
        asked = jax.eval_shape(
            lambda: jax.tree.map(
                lambda leaf: (
                    jax.random.key_data(leaf)
                    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
                    else leaf
                ),
                like,
            )
        )
        here = {
            jax.tree_util.keystr(path, simple=True, separator="."): (leaf.shape, leaf.dtype)
            for path, leaf in jax.tree_util.tree_leaves_with_path(asked)
        }
        for name in sorted({*there, *here}):
            if there.get(name) != here.get(name):
                shown = [
                    f"{of[name][1]}{list(of[name][0])}" if name in of else "missing"
                    for of in (there, here)
                ]
                raise UserError(
                    f"the checkpoint of step {step} in {self.directory} cannot be read: it is of "
                    f"another network ({name} is {shown[0]} there and {shown[1]} here)"
                )

    def _unsaved(self, step: int | None, error: Exception) -> UserError:
        free = shutil.disk_usage(self.directory).free if self.directory.is_dir() else 0
        return UserError(
            f"the checkpoint of step {step} could not be saved in {self.directory} "
            f"({free / 1e6:,.0f} MB free there): {_first_line(error)}; free some space and run "
            "the same command again to go on from the last good checkpoint"
        )


def _not_of_orbax(record: logging.LogRecord) -> bool:
    """A failure is raised here, in one sentence; Orbax logs it too, four times with tracebacks."""
    return "orbax" not in record.pathname


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
      UserError: if the file is missing, or not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"there is no {path}") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
