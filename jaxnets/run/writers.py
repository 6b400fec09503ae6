"""Programs that show a run's numbers and pictures: TensorBoard, Weights & Biases.

A further one is a class like `WeightsAndBiases`, which `FitOptions.writers` is given.
"""

import socket
import sys
import time
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from jaxnets.errors import UserError
from jaxnets.files import read_json

__all__ = ["OpenWriter", "TensorBoard", "WeightsAndBiases", "Writer", "import_wandb"]

_FLUSH_SECONDS = 60.0  # between flushes of TensorBoard's events, which wait for the disk


class Writer(Protocol):
    """Takes a point of each curve, as "train/loss" (finite), and PNG files, until it is closed."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...
    def picture(self, step: int, name: str, path: Path) -> None: ...
    def close(self) -> None: ...


#: (the run's folder, the step that the run goes on from) -> a writer. What was written of later
#: steps is void.
OpenWriter = Callable[[Path, int], Writer]


class TensorBoard:
    """Events for TensorBoard in `tensorboard/`, written by whoever adds them.

    tensorboardX has a thread do it, which gets them through a queue of ten. Where the disk is full
    that thread dies of it, with a traceback, and whoever adds the eleventh number waits for ever.
    """

    def __init__(self, folder: Path, resume_step: int):
        self._parts = parts = _tensorboard()
        (folder / "tensorboard").mkdir(exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names.
        name = f"tensorboard/events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
        self._file = parts.RecordWriter(str(folder / name))
        self._next_flush = 0.0
        self._add(file_version="brain.Event:2")
        start = parts.SessionLog(status=parts.SessionLog.START)
        self._add(step=resume_step + 1, session_log=start)  # drops what was shown of later steps

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._add(step=step, summary=self._parts.scalar(name, value))
        if time.monotonic() > self._next_flush:
            self._file.flush()
            self._next_flush = time.monotonic() + _FLUSH_SECONDS

    def picture(self, step: int, name: str, path: Path) -> None:
        # The file as it is: a mark of synthetic content stays in it.
        with Image.open(path) as image:
            (width, height), channels = image.size, len(image.getbands())
        png = {"encoded_image_string": path.read_bytes(), "colorspace": channels}
        value = {"tag": name, "image": {"height": height, "width": width, **png}}
        self._add(step=step, summary=self._parts.Summary(value=[value]))

    def _add(self, **fields: Any) -> None:
        event = self._parts.Event(wall_time=time.time(), **fields)
        self._file.write(event.SerializeToString())

    def close(self) -> None:
        self._file.close()


def _tensorboard() -> Any:
    """The parts of tensorboardX that write events, without PyTorch.

    Where PyTorch is installed, tensorboardX imports it for a type annotation, and that takes
    longer (1.4 s on a CPU, more with CUDA) than the rest of a start.
    """
    hide = "torch" not in sys.modules
    if hide:
        sys.modules["torch"] = None  # type: ignore[assignment]  # so its import fails
    try:
        from tensorboardX import RecordWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog  # type: ignore[attr-defined]
        from tensorboardX.proto.summary_pb2 import Summary  # type: ignore[attr-defined]
        from tensorboardX.summary import scalar
    finally:
        if hide:
            del sys.modules["torch"]
    return types.SimpleNamespace(
        RecordWriter=RecordWriter,
        Event=Event,
        SessionLog=SessionLog,
        Summary=Summary,
        scalar=scalar,
    )


def import_wandb() -> Any:
    """The package of Weights & Biases.

    Raises:
      UserError: if it is not installed.
    """
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError("--wandb needs the wandb package: pip install 'jaxnets[wandb]'") from None
    return wandb


class WeightsAndBiases:
    """A run of Weights & Biases with the config, the numbers and the pictures.

    Its own environment variables hold: WANDB_MODE=offline keeps all of it in `wandb/`.
    """

    def __init__(self, folder: Path, resume_step: int, *, project: str):
        self._wandb = import_wandb()
        earlier = sorted(folder.glob("wandb/*run-*-*"))  # run-TIME-ID: the same run goes on
        try:
            self._run = self._wandb.init(
                project=project,
                dir=str(folder),
                name=folder.name,
                config=read_json(folder / "config.json"),
                id=earlier[-1].name.rpartition("-")[2] if earlier else None,
                resume="allow",
                settings={"quiet": True},  # not all curves as text at the end
            )
        except self._wandb.Error as error:
            raise UserError(f"--wandb {project}: {' '.join(str(error).split())}") from error
        # Its own count of steps can't go back, as a run does that had diverged.
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    def picture(self, step: int, name: str, path: Path) -> None:
        self._run.log({name: self._wandb.Image(str(path)), "step": step})

    def close(self) -> None:
        self._run.finish()
