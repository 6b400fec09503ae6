"""Training runs in processes of their own: how they are started, watched and judged."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.chaos.faults import Moment

_TINY = (
    "--data digits --epochs 1.2 --batch-size 16 --steps-per-call 2 --log-every 8 --save-every 0.1"
    " --eval-every 1"
)

#: The runs that are struck: a CNN and a GAN so small that a step takes milliseconds, with a dozen
#: saves and a few evaluations, so that every moment of a run's life comes up.
RUNS: dict[str, tuple[str, ...]] = {
    "classify": tuple(shlex.split(f"classify {_TINY} --network lenet5 --width 0.5")),
    "generate": tuple(shlex.split(f"generate {_TINY} --width 0.1 --no-accuracy-score")),
}

#: A process that lives longer is taken for stuck. The longest that was measured, a cold start on
#: two very busy cores with the whole run after it, took a quarter of it.
HANG_SECONDS = 600.0

_ROOT = Path(__file__).parents[2]
_UNFINISHED = "*.orbax-checkpoint-tmp*"


class Stopped(Exception):
    """The command is being ended: no further process is started."""


class Stage:
    """Where it all happens: the folder, the environment of processes, and the processes.

    Attributes:
      folder: for everything that the runs write.
      say: told about progress, a line at a time.
      lock: held while something is done that two threads must not do at once.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]):
        self.folder, self.say = folder.absolute(), say
        self.lock = threading.Lock()
        self._alive: set[subprocess.Popen[bytes]] = set()
        self._closed = False
        (self.folder / "said").mkdir(parents=True, exist_ok=True)

    @property
    def cache(self) -> Path:
        """The cache folder that the runs share: data that was prepared, programs compiled."""
        return self.folder / "cache"

    def environment(self, devices: int, **more: str) -> dict[str, str]:
        """Of a process: CPU devices, one XLA setting for all, a cache of its own."""
        flags = [
            flag
            for flag in os.environ.get("XLA_FLAGS", "").split()
            if "xla_force_host_platform_device_count" not in flag
        ]
        flags.append(f"--xla_force_host_platform_device_count={devices}")
        kept = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
        return {
            **kept,
            "XLA_FLAGS": " ".join(flags),
            "JAX_PLATFORMS": "cpu",
            "JAXNETS_CACHE": str(self.cache),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), kept.get("PYTHONPATH")])),
            **more,
        }

    def start(
        self, arguments: Sequence[str], name: str, *, devices: int = 1, **environment: str
    ) -> Trainee:
        """Starts `python -m experiments` with these arguments.

        Args:
          arguments: of the command line.
          name: of the files that its output goes to, in `said`.
          devices: how many virtual CPU devices it has.
          environment: variables that it gets beside the usual ones.
        """
        said = self.folder / "said" / name
        with open(f"{said}.out", "wb") as out, open(f"{said}.err", "wb") as err, self.lock:
            if self._closed:
                raise Stopped
            begin = time.monotonic(), time.time()
            process = subprocess.Popen(
                [sys.executable, "-m", "experiments", *arguments],
                cwd=self.folder,
                env=self.environment(devices, **environment),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
            self._alive.add(process)
        return Trainee(self, process, begin, list(arguments), said)

    def gone(self, process: subprocess.Popen[bytes]) -> None:
        """Told of a process that has ended."""
        with self.lock:
            self._alive.discard(process)

    def close(self) -> None:
        """Ends whatever still runs; nothing can be started afterwards."""
        with self.lock:
            self._closed = True
            for process in self._alive:
                process.kill()
                process.wait()
            self._alive.clear()


class Trainee:
    """One process of a training run.

    Attributes:
      arguments: of its command line.
      pid: its process id.
      folder: of its run.
    """

    def __init__(
        self,
        stage: Stage,
        process: subprocess.Popen[bytes],
        begin: tuple[float, float],
        arguments: list[str],
        said: Path,
    ):
        self._stage, self._process, self._said = stage, process, said
        self._begin, self._begin_on_the_clock = begin
        self.arguments, self.pid = arguments, process.pid
        self.folder = Path(arguments[arguments.index("--run-dir") + 1])

    @property
    def age(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self._begin

    @property
    def out(self) -> str:
        """What it has written to standard output."""
        return Path(f"{self._said}.out").read_text(errors="replace")

    @property
    def err(self) -> str:
        """What it has written to standard error."""
        return Path(f"{self._said}.err").read_text(errors="replace")

    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def begun(self) -> bool:
        """Whether it has made a step."""
        return self._total() is not None

    def trained(self) -> bool:
        """Whether it has made its last step."""
        path, total = self.folder / "metrics.jsonl", self._total()
        return path.exists() and f'"train", "step": {total},' in path.read_text()

    def _total(self) -> str | None:
        """How many steps it has, which it says after the first."""
        told = re.search(r" epochs, (\d+) steps; ", self.err)
        return told and told[1]

    def saving(self) -> bool:
        """Whether a checkpoint is being written, that of an earlier process left aside."""
        for path in (self.folder / "checkpoints").glob(_UNFINISHED):
            try:
                if path.stat().st_mtime >= self._begin_on_the_clock:
                    return True
            except FileNotFoundError:  # it has just got its final name
                continue
        return False

    def wait_until(self, holds: Callable[[], bool], *, every: float = 0.01) -> bool:
        """Waits for something; False if the process ended first, or seems stuck."""
        while not holds():
            if not self.alive() or self.age > HANG_SECONDS:
                return False
            time.sleep(every)
        return self.alive()

    def wait_for(self, moment: Moment, usual: Timing, share: float = 1.0) -> bool:
        """Waits for a moment of its life.

        Args:
          moment: which.
          usual: how long the parts of an undisturbed life take.
          share: the part of the training that this process may spend before it is struck.

        Returns:
          Whether it still lives.
        """
        phase, seconds = moment.phase, 0.0
        if phase in ("start", "cold", "compile"):
            whole = usual.start if phase == "start" else usual.cold
            seconds = moment.fraction * whole - self.age
        elif phase == "train":
            self.wait_until(self.begun)
            seconds = moment.fraction * usual.train * share
        elif phase == "save":
            self.wait_until(self.saving, every=0.001)
            seconds = moment.fraction * usual.save
        else:
            self.wait_until(self.trained)
            seconds = moment.fraction * usual.end
        end = time.monotonic() + seconds
        return self.wait_until(lambda: time.monotonic() >= end, every=0.002)

    def send(self, number: int) -> None:
        """Sends it a signal."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """Its exit code, once it has ended; a process that seems stuck is killed.

        Raises:
          Stuck: in that case.
        """
        try:
            code = self._process.wait(timeout=max(0.1, HANG_SECONDS - self.age))
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            self._process.wait()
            self._stage.gone(self._process)
            raise Stuck(f"it hung for {HANG_SECONDS:.0f} s{self.last_words()}") from None
        self._stage.gone(self._process)
        return code

    def last_words(self) -> str:
        """The end of its standard error, for a message."""
        lines = self.err.strip().splitlines()
        return f"; last words: {lines[-1][:300]}" if lines else "; it said nothing"

    def command_to_go_on(self) -> list[str] | None:
        """The arguments of the command that it told its user to go on with."""
        found = re.findall(r"^.*?python -m experiments (.*)$", self.err, re.MULTILINE)
        return shlex.split(found[-1]) if found else None

    def untidy(self) -> str | None:
        """What in its output a user must never see; None if there is nothing."""
        for words in ("Traceback (most recent call last)", "Exception ignored", "Fatal Python"):
            if words in self.err:
                after = self.err[self.err.index(words) :].strip().splitlines()
                return f"it printed a traceback ({after[-1][:200]})"
        return None


class Stuck(Exception):
    """A process that had to be killed because it did not end."""


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds that the parts of an undisturbed run's life take.

    Attributes:
      cold: from the start to the first step where nothing was compiled, nor data prepared.
      start: the same with all of it in the cache.
      train: from the first step to the last.
      save: how long the folder of an unfinished checkpoint is there, on average.
      end: from the last step to the end of the process.
    """

    cold: float
    start: float
    train: float
    save: float
    end: float


def watch(trainee: Trainee) -> tuple[Timing, int]:
    """Follows an undisturbed run to its end: its timing (`cold` its own start), its exit code."""
    times = {}
    saves, saving, in_saves, before = 0, False, 0.0, trainee.age
    while trainee.alive() and trainee.age < HANG_SECONDS:
        now, found = trainee.age, trainee.saving()
        in_saves += (now - before) * saving
        saves += found and not saving
        saving, before = found, now
        if "begun" not in times and trainee.begun():
            times["begun"] = now
        if "begun" in times and "trained" not in times and trainee.trained():
            times["trained"] = now
        time.sleep(0.002)
    code, end = trainee.wait(), trainee.age
    begun, trained = times.get("begun", end), times.get("trained", end)
    save = in_saves / saves if saves else 0.0
    return Timing(begun, begun, trained - begun, save, end - trained), code
