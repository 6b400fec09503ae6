"""What a run leaves to read: metrics as JSON lines and TensorBoard events, progress on screen."""

import contextlib
import json
import math
import socket
import sys
import time
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxnets.errors import UserError
from jaxnets.files import write_files

__all__ = ["MetricLog", "Progress", "read_records"]

_FLUSH_SECONDS = 60.0  # between flushes of TensorBoard's events, which wait for the disk


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`, in order; a last line that was cut off is left out.

    Raises:
      UserError: if any other line is not a record, with `split` and `step`.
    """
    records: list[dict[str, Any]] = []
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    # What a process was writing when it was killed has no line's end yet.
    for number, line in enumerate(lines[:-1], 1):
        try:
            record = json.loads(line)
            split, step, *values = record.pop("split"), record["step"], *record.values()
            if not (isinstance(split, str) and type(step) is int):
                raise ValueError("`split` is no text, or `step` no whole number")
            if not all(v is None or isinstance(v, int | float) for v in values):
                raise ValueError("there are values that are no numbers")
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            raise UserError(
                f"line {number} of {path} is no record of a run's numbers; put back a copy, or "
                "delete the file to go on without those so far"
            ) from error
        records.append({"split": split, **record})
    return records


class MetricLog:
    """Appends records to `metrics.jsonl` and to TensorBoard's events in a run's folder."""

    def __init__(
        self,
        folder: Path,
        *,
        resume_step: int = 0,
        unevaluated: bool = False,
        silent: bool = False,
    ):
        """Opens both, but with `silent` neither: another process writes.

        Records beyond `resume_step`, which an interrupted run wrote and which will now be written
        again, are dropped, and with `unevaluated` those of its evaluation too.
        """
        self._folder, self._silent = folder, silent
        self._open(resume_step, unevaluated)

    def _open(self, resume_step: int, unevaluated: bool = False) -> None:
        if self._silent:
            return
        folder = self._folder
        path = folder / "metrics.jsonl"
        kept = [record for record in read_records(path) if record["step"] <= resume_step]
        if unevaluated:
            kept = [r for r in kept if (r["split"], r["step"]) != ("eval", resume_step)]
        write_files({path: "".join(json.dumps(record) + "\n" for record in kept).encode()})
        self._file = path.open("a")
        self._board = _Board(folder / "tensorboard", purge_step=resume_step + 1)

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or self._silent:
            self._close()
            return
        # What could not be written can't be written now either, and why is said already.
        for file in (self._file, self._board):
            with contextlib.suppress(OSError):
                file.close()

    def _close(self) -> None:
        if self._silent:
            return
        try:
            self._file.close()
            self._board.close()
        except OSError as failure:
            raise self._unwritten(failure) from failure

    def rewind(self, step: int, *, unevaluated: bool = False) -> None:
        """Drops the records of later steps: the run has gone back and will write them again."""
        self._close()
        self._open(step, unevaluated)

    def write(self, split: str, step: int, values: Mapping[str, float]) -> None:
        """Adds one record, `{"split": ..., "step": ..., **values}`.

        Raises:
          UserError: if it can't be written.
        """
        if self._silent:
            return
        finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
        try:
            self._file.write(json.dumps({"split": split, "step": step, **finite}) + "\n")
            self._file.flush()
            for name, value in values.items():
                if finite[name] is not None:
                    self._board.add(f"{split}/{name}", value, step)
        except OSError as failure:
            raise self._unwritten(failure) from failure

    def _unwritten(self, failure: OSError) -> UserError:
        return UserError(
            f"the metrics of the run could not be written in {self._folder} "
            f"({failure.strerror or failure}); put that right and run the same command again to "
            "go on from the last good checkpoint"
        )


class _Board:
    """Events for TensorBoard, written by whoever adds them.

    tensorboardX has a thread do it, which gets them through a queue of ten. Where the disk is full
    that thread dies of it, with a traceback, and whoever adds the eleventh number waits for ever.
    """

    def __init__(self, folder: Path, *, purge_step: int):
        self._parts = _tensorboard()
        folder.mkdir(exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
        self._file = self._parts.RecordWriter(str(folder / name))
        self._next_flush = 0.0
        self._add(file_version="brain.Event:2")
        start = self._parts.SessionLog(status=self._parts.SessionLog.START)
        self._add(step=purge_step, session_log=start)  # drops what was shown of later steps

    def add(self, name: str, value: float, step: int) -> None:
        """Adds one number of a curve."""
        self._add(step=step, summary=self._parts.scalar(name, value))
        if time.monotonic() > self._next_flush:
            self._file.flush()
            self._next_flush = time.monotonic() + _FLUSH_SECONDS

    def _add(self, **fields: Any) -> None:
        event = self._parts.Event(wall_time=time.time(), **fields)
        self._file.write(event.SerializeToString())

    def close(self) -> None:
        """Writes what is not written yet."""
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
        from tensorboardX.summary import scalar
    finally:
        if hide:
            del sys.modules["torch"]
    return types.SimpleNamespace(
        RecordWriter=RecordWriter, Event=Event, SessionLog=SessionLog, scalar=scalar
    )


class Progress:
    """Steps done, speed and time left: a live bar on a terminal, a line now and then elsewhere."""

    def __init__(
        self,
        title: str,
        total: int,
        batch_size: int,
        *,
        line_seconds: float = 15.0,
        silent: bool = False,
    ):
        """Sets it up, for `total` steps of so many images; `start` starts it.

        Plain lines are `line_seconds` apart; where another process shows them this one is silent.
        """
        self.title, self.total, self.batch_size = title, total, batch_size
        self._seconds, self._silent = line_seconds, silent
        self._bar: Any = None
        self._first, self._start, self._next_line, self._paused = 0, 0.0, 0.0, 0.0

    def start(self, done: int) -> None:
        """Starts the clock, and the bar on a terminal, after the steps that an earlier run did."""
        self._first, self._start, self._paused = done, time.monotonic(), 0.0
        self._next_line = self._start
        if sys.stderr.isatty() and not self._silent:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total} steps  {task.fields[note]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(
                self.title, total=self.total, completed=done, note="compiling"
            )
            self._bar.start()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def leave_out(self, seconds: float, steps: int = 0) -> None:
        """Keeps time, and the steps made in it, out of the speed.

        For an evaluation, say, or a call that compiled first.
        """
        self._paused += seconds
        self._first += steps

    def images_per_second(self, step: int) -> float:
        """Mean speed since the first call, NaN before there is one."""
        seconds = time.monotonic() - self._start - self._paused
        steps = step - self._first
        return steps * self.batch_size / seconds if steps > 0 and seconds > 0 else math.nan

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Shows where the run is."""
        if self._silent:
            return
        speed = self.images_per_second(step)
        if self._bar is None and time.monotonic() < self._next_line and step < self.total:
            return
        self._next_line = time.monotonic() + self._seconds
        shown = brief(values)
        pace = ""
        if math.isfinite(speed):
            left = (self.total - step) * self.batch_size / speed
            pace = f"{speed:,.0f} images/s  {_clock(left)} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, note=f"{pace}  {shown}")
        else:
            line = f"{self.title}  step {step}/{self.total}  {pace}  {shown}"
            print(line, file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._silent:
            return
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)


def brief(values: Mapping[str, float]) -> str:
    """Numbers on one line; those of single members of a population ("loss/seed-3") stay out."""
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items() if "/" not in name)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
