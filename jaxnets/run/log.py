"""What a run leaves to read: metrics as JSON lines and for other programs, progress on screen."""

import contextlib
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxnets.errors import UserError
from jaxnets.files import write_files
from jaxnets.run.writers import OpenWriter, TensorBoard

__all__ = ["MetricLog", "Progress", "read_records"]

_LINE_SECONDS = 60.0  # between plain lines of progress


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
    """Appends records to `metrics.jsonl` in a run's folder, and hands them to other writers."""

    def __init__(
        self,
        folder: Path,
        resume_step: int = 0,
        *,
        unevaluated: bool = False,
        silent: bool = False,
        writers: Sequence[OpenWriter] = (TensorBoard,),
    ):
        """Opens the file and the writers, but with `silent` none: another process writes.

        Records beyond `resume_step`, which an interrupted run wrote and which will now be written
        again, are dropped, and with `unevaluated` those of its evaluation too.
        """
        self._folder, self._silent, self._writers = folder, silent, writers
        self._open(resume_step, unevaluated)

    def _open(self, resume_step: int, unevaluated: bool = False) -> None:
        self._parts: list[Any] = []
        if self._silent:
            return
        path = self._folder / "metrics.jsonl"
        kept = [record for record in read_records(path) if record["step"] <= resume_step]
        if unevaluated:
            kept = [r for r in kept if (r["split"], r["step"]) != ("eval", resume_step)]
        write_files({path: "".join(json.dumps(record) + "\n" for record in kept).encode()})
        self._file = path.open("a")
        self._parts = [self._file, *(opened(self._folder, resume_step) for opened in self._writers)]

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None:
            self._close()
            return
        # What could not be written can't be written now either, and why is said already.
        for part in self._parts:
            with contextlib.suppress(OSError):
                part.close()

    def _close(self) -> None:
        with self._writing():
            for part in self._parts:
                part.close()

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
        with self._writing():
            self._file.write(json.dumps({"split": split, "step": step, **finite}) + "\n")
            self._file.flush()
            numbers = {f"{split}/{k}": v for k, v in finite.items() if v is not None}
            for writer in self._parts[1:]:
                writer.scalars(step, numbers)

    def picture(self, step: int, name: str, path: Path) -> None:
        """Hands a PNG file to the writers; a UserError if one can't write it."""
        with self._writing():
            for writer in self._parts[1:]:
                writer.picture(step, name, path)

    def best(self, name: str, *, higher: bool) -> tuple[float, int] | None:
        """The best value of an evaluation's number so far, and its step; None if there is none."""
        records = [] if self._silent else read_records(self._folder / "metrics.jsonl")
        known = [r for r in records if r["split"] == "eval" and r.get(name) is not None]
        best = max(known, key=lambda r: r[name] if higher else -r[name], default=None)
        return None if best is None else (best[name], best["step"])

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as failure:
            raise UserError(
                f"the metrics of the run could not be written in {self._folder} "
                f"({failure.strerror or failure}); put that right and run the same command again "
                "to go on from the last good checkpoint"
            ) from failure


class Progress:
    """How far a run is: a live bar on a terminal, elsewhere a line now and then."""

    def __init__(
        self,
        total: int,
        batch_size: int,
        examples: int,
        *,
        shown: Mapping[str, str] | None = None,
        silent: bool = False,
    ):
        """Sets it up, for `total` steps of so many images; `start` starts it.

        An epoch is `examples` images; `shown` are the numbers of a line -> what it calls them.
        Where another process shows them this one is silent.
        """
        self.total, self.batch_size = total, batch_size
        self._examples, self._shown = examples, shown
        self._silent = silent
        self._bar: Any = None
        self._first, self._start, self._next_line = 0, 0.0, 0.0
        self._paused, self._once = 0.0, 0.0

    def start(self, done: int) -> None:
        """Starts the clock, and the bar on a terminal, after the steps that an earlier run did."""
        self._first, self._start = done, time.monotonic()
        self._paused = self._once = 0.0
        self._next_line = self._start + _LINE_SECONDS
        if sys.stderr.isatty() and not self._silent:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar
            from rich.table import Column

            self._bar = Bar(
                BarColumn(20, table_column=Column(width=20)),
                TextColumn("{task.description}", table_column=Column(no_wrap=True, ratio=1)),
                console=Console(stderr=True),
                expand=True,
                transient=True,
            )
            self._task = self._bar.add_task("compiling", total=self.total, completed=done)
            self._bar.start()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def leave_out(self, seconds: float, steps: int = 0, *, again: bool = False) -> None:
        """Keeps time, and the steps made in it, out of the speed.

        For a call that compiled first, say, or an evaluation: such time comes `again`, so it counts
        in what is left.
        """
        self._paused += seconds
        self._first += steps
        self._once += 0.0 if again else seconds

    @property
    def seconds(self) -> float:
        """Time of the steps that the speed is of."""
        return time.monotonic() - self._start - self._paused

    def images_per_second(self, step: int) -> float:
        """Mean speed since the first call, NaN before there is one."""
        seconds, steps = self.seconds, step - self._first
        return steps * self.batch_size / seconds if steps > 0 and seconds > 0 else math.nan

    def seconds_left(self, step: int) -> float:
        """Until the last step if all goes on as so far, evaluations included; NaN if not known."""
        seconds, steps = time.monotonic() - self._start - self._once, step - self._first
        return (self.total - step) * seconds / steps if steps > 0 else math.nan

    def __str__(self) -> str:
        return f"{self.epochs(self.total)} epochs, {self.total} steps"

    def epochs(self, step: int) -> str:
        """How many epochs so many steps are, as it is shown."""
        epochs = step * self.batch_size / self._examples
        return f"{round(epochs, 1):g}" if epochs >= 1 else f"{epochs:.2g}"

    def line(self, step: int, values: Mapping[str, float], end: str = "", pace: str = "") -> str:
        """Where the run is, on one line: after the time left the speed, numbers and something."""
        left = self.seconds_left(step)
        epoch = f"epoch {self.epochs(step)}/{self.epochs(self.total)}"
        clock = f"{duration(left)} left" if math.isfinite(left) and step < self.total else ""
        return "  ".join(filter(None, (epoch, clock, pace, brief(values, self._shown)))) + end

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Shows where the run is."""
        waits = self._bar is None and (time.monotonic() < self._next_line or step == self.total)
        if self._silent or waits:
            return
        speed = self.images_per_second(step)
        line = self.line(step, values, pace=f"{speed:,.0f} images/s" if speed > 0 else "")
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=line)
        else:
            self.say(line)

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._silent:
            return
        self._next_line = time.monotonic() + _LINE_SECONDS
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)


def brief(values: Mapping[str, float], shown: Mapping[str, str] | None = None) -> str:
    """Numbers on one line: those that `shown` has a word for, in its order, or else all.

    Of a population each is the mean and the standard deviation of the members that have not
    diverged.
    """
    parts = []
    for name, word in (shown or {k: k for k in values if "/" not in k}).items():
        own = [v for k, v in values.items() if k.startswith(f"{name}/") and math.isfinite(v)]
        if own:
            spread = statistics.stdev(own) if len(own) > 1 else 0.0
            parts.append(f"{word} {statistics.fmean(own):.4g} +- {spread:.2g}")
        elif name in values:
            parts.append(f"{word} {values[name]:.4g}")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """A length of time, as one says it: "40 s", "25 min", "3.5 h", "12 days"."""
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.0f} s"
