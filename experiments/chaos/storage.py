"""Disks that fill up, folders that become read-only or are deleted, while a run writes there."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

from experiments.chaos.faults import Chain, Fault, Moment, dealt, lose, shares
from experiments.chaos.striking import Striker
from experiments.chaos.trainee import Trainee

#: What happens to the run's folder. "limit": no file may grow beyond some kilobytes
#: (RLIMIT_FSIZE); "full": a file system of its own (tmpfs) is filled; "read-only": it is mounted
#: again so; "deleted": its checkpoints are.
Trouble = Literal["limit", "full", "read-only", "deleted"]

_LIMIT = 8192  # bytes; what they save in a checkpoint is more
_ROOM = "32m"  # of the small file system, before it is filled


def plan(seed: int, count: int, runs: Sequence[str], possible: Sequence[Trouble]) -> list[Chain]:
    """What happens to which run: the same for the same seed and the same `possible`."""
    deck = dealt(possible, random.Random(f"storage {seed}"))
    chains = []
    for run, share in shares(count, runs).items():
        rng = random.Random(f"storage {run} {seed}")
        for number in range(1, share + 1):
            moment = Moment(rng.choice(("train", "save")), rng.random(), next(deck))
            chains.append(Chain("storage", run, number, (moment,)))
    return chains


def possible(folder: Path) -> tuple[list[Trouble], str]:
    """What can be done on this machine, and why the rest cannot; "" if all can."""
    if not sys.platform.startswith("linux"):
        return ["deleted"], "limit, full and read-only need Linux"
    probe = folder / "probe"
    probe.mkdir(parents=True)
    try:
        _mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", str(probe))
        _unmount(probe)
    except (OSError, subprocess.CalledProcessError) as error:
        why = str(getattr(error, "stderr", "") or error).strip()
        return ["limit", "deleted"], f"full and read-only need to mount file systems ({why})"
    finally:
        probe.rmdir()
    return list(get_args(Trouble)), ""


class Meddler(Striker):
    """Does it; the run goes on, or stops with one sentence and can go on when it is put right."""

    def start(self, arguments: Sequence[str], name: str, chain: Chain, done: int) -> Trainee:
        """A run whose disk will be full gets a small one of its own."""
        folder = Path(arguments[arguments.index("--run-dir") + 1])
        if chain.faults[0].what == "full" and not _mounted(folder):
            folder.mkdir()
            _mount("-t", "tmpfs", "-o", f"size={_ROOM}", "tmpfs", str(folder))
        return self.stage.start(arguments, name)

    def hit(self, trainee: Trainee, fault: Fault, planned: Moment) -> Sequence[str] | None:
        """Lets it happen, waits for the run to stop or to end, and puts it right."""
        if planned.what == "deleted" and trainee.trained():
            return None  # it will not write again, and what is deleted then is gone
        undo = _DO[planned.what](trainee)
        begin = time.monotonic()
        try:
            code = trainee.wait()
        finally:
            undo()
        fault.seconds = time.monotonic() - begin
        said = [line for line in trainee.err.splitlines() if line.startswith("error: ")]
        fault.outcome = "went on to its end" if code == 0 else f"stopped: {(said or ['?'])[-1]}"
        why = trainee.untidy()
        if why is None and code not in (0, 2):
            why = f"the exit code was {code}{trainee.last_words()}"
        if why is None and code == 2 and len(said) != 1:
            why = f"it stopped with {len(said)} sentences{trainee.last_words()}"
        if why is not None:
            lose([fault], why, trainee.folder)
        return trainee.arguments

    def strike(self, chain: Chain) -> list[Fault]:
        """As every striker; then unmounts what was mounted."""
        try:
            return super().strike(chain)
        finally:
            release(self.stage.folder, f"{chain.name}-*")

    def discard(self, folder: Path) -> None:
        """Unmounts it first."""
        if _mounted(folder):
            _unmount(folder)
        super().discard(folder)


def release(folder: Path, pattern: str = "storage-*") -> None:
    """Unmounts what is mounted on sub-folders, and puts the files that lay there in its place."""
    for place in folder.glob(pattern):
        if _mounted(place):
            kept = place.with_name(f"{place.name}.kept")
            shutil.copytree(place, kept)
            while _mounted(place):
                _unmount(place)
            shutil.rmtree(place)
            kept.rename(place)


def _mounted(folder: Path) -> bool:
    """Whether something is mounted there; a folder bound to itself counts."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:  # not Linux, where nothing is mounted here
        return False
    return str(folder).replace(" ", r"\040") in (line.split()[4] for line in lines)


def _limit(trainee: Trainee) -> Callable[[], object]:
    import resource

    hard = resource.prlimit(trainee.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(trainee.pid, resource.RLIMIT_FSIZE, (_LIMIT, hard))
    return lambda: None


def _fill(trainee: Trainee) -> Callable[[], object]:
    filler = trainee.folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return filler.unlink


def _forbid(trainee: Trainee) -> Callable[[], object]:
    folder = trainee.folder
    _mount("--bind", str(folder), str(folder))
    for attempt in range(100):
        try:
            _mount("-o", "remount,bind,ro", str(folder))
            break
        except subprocess.CalledProcessError:  # a file was just opened for writing
            if attempt == 99:
                _unmount(folder)
                raise
            time.sleep(0.01)
    return lambda: _unmount(folder)


def _delete(trainee: Trainee) -> Callable[[], object]:
    while True:
        try:
            shutil.rmtree(trainee.folder / "checkpoints")
            return lambda: None
        except FileNotFoundError:
            return lambda: None
        except OSError:  # the run wrote a file there in the middle of it
            continue


_DO = {"limit": _limit, "full": _fill, "read-only": _forbid, "deleted": _delete}


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True, text=True)


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True, text=True)
