"""Strike real training runs with faults, and see whether they survive."""

from __future__ import annotations

import dataclasses
import math
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from experiments.chaos import corruption, devices, signals, storage
from experiments.chaos.faults import Chain, Fault, last_line
from experiments.chaos.striking import Striker
from experiments.chaos.trainee import RUNS, Stage
from experiments.chaos.undisturbed import Reference, make_reference
from jaxnets.commands import common
from jaxnets.commands.configs import constraints
from jaxnets.commands.configs.constraints import COUNT, NOT_NEGATIVE, SEED
from jaxnets.commands.session import Session
from jaxnets.errors import UserError
from jaxnets.files import cleaning, write_json

#: Kind of fault -> how many there are in the short form and in the long one.
COUNTS: dict[str, tuple[int, int]] = {
    "kills": (4, 50),
    "terms": (2, 20),
    "devices": (2, 12),
    "corruptions": (20, 200),
    "storage": (4, 16),
}


@dataclasses.dataclass(frozen=True)
class Chaos:
    """Strike real training runs with faults, and see whether they survive.

    Small runs of `classify` and `generate` on digits are killed and told to end at random moments
    and go on by the same command, change the number of their devices, find their checkpoints
    damaged, their disk full or their folder read-only. Each must end with the same bits as a run
    that nothing happened to. The last line reads "N faults, N survived, N lost"; the exit code is 0
    if none was lost, and 1 otherwise.
    """

    long: bool = False
    """Many faults, in about a quarter of an hour, instead of a few in some minutes."""
    seed: Annotated[int, SEED] = 0
    """What is done, and when as a share of a run's life, follows from it."""
    only: str = ",".join(COUNTS)
    """Kinds of faults, with commas between them."""
    of: str = ",".join(RUNS)
    """Which runs are struck."""
    kills: Annotated[int | None, NOT_NEGATIVE] = None
    """How many times a run is killed (SIGKILL); by default 4, or 50 with --long."""
    terms: Annotated[int | None, NOT_NEGATIVE] = None
    """How many times one is told to end (SIGTERM); 2, or 20."""
    devices: Annotated[int | None, NOT_NEGATIVE] = None
    """How many times one goes on on another number of devices; 2, or 12."""
    corruptions: Annotated[int | None, NOT_NEGATIVE] = None
    """How many copies of checkpoints are damaged; 20, or 200."""
    storage: Annotated[int | None, NOT_NEGATIVE] = None
    """How many times the disk is full, the folder read-only or deleted; 4, or 16."""
    jobs: Annotated[int, COUNT] = 2
    """Runs that are made at once."""
    json: Path | None = None
    """A JSON file for every fault, its moment and what became of it."""
    folder: Path | None = None
    """An empty folder for the runs, which is kept; by default a temporary one, kept only if a fault
    was lost."""


#: What does the faults of a kind; those of checkpoints need no run to be struck.
STRIKERS: dict[str, Callable[[Stage, Reference], Striker]] = {
    "kills": signals.Killer,
    "terms": signals.Terminator,
    "devices": devices.Mover,
    "storage": storage.Meddler,
}


def run(config: Chaos, session: Session | None = None) -> int:
    """The command; gives its exit code."""
    counts, runs = _counts(config), _chosen(config.of, RUNS, "of")
    if config.json is not None and config.json.is_dir():
        raise UserError(f"--json {config.json} is a folder; name a file in it")
    folder = _folder(config)
    begin = time.monotonic()
    stage = Stage(folder, lambda text: print(text, file=sys.stderr, flush=True))
    faults: list[Fault] = []
    notes: dict[str, Any] = {}

    def tidy() -> None:
        stage.close()
        storage.release(stage.folder)
        if config.folder is None and all(fault.lost is None for fault in faults):
            shutil.rmtree(stage.folder, ignore_errors=True)

    with cleaning(tidy):
        _strike(stage, config, counts, runs, faults, notes)
    for fault in faults:  # a temporary folder's name says nothing to whoever reads it later
        fault.outcome = fault.outcome.replace(f"{stage.folder}/", "")
    lost = [fault for fault in faults if fault.lost is not None]
    minutes = (time.monotonic() - begin) / 60
    gone = seconds_of_terms(faults)
    _report(faults, notes, minutes, gone)
    if config.json is not None:
        config.json.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "seed": config.seed,
            "long": config.long,
            "result": last_line(faults),
            "minutes": round(minutes, 1),
            "seconds_after_sigterm": gone,
            **notes,
            "machine": common.machine(),
            "faults": [fault.as_json() for fault in faults],
        }
        write_json(config.json, content)
    for fault in lost:
        print(f"LOST: {fault.kind} of {fault.run}, {fault.what}: {fault.lost} ({fault.folder})")
    print(last_line(faults), flush=True)
    return 1 if lost else 0


def _strike(
    stage: Stage,
    config: Chaos,
    counts: dict[str, int],
    runs: Sequence[str],
    faults: list[Fault],
    notes: dict[str, Any],
) -> None:
    """Does all the faults; adds to `faults` as they are judged."""
    with ThreadPoolExecutor(config.jobs) as pool:
        try:
            make = partial(make_reference, stage)
            made_of = pool.map(make, runs, [RUNS[name] for name in runs])
            references = dict(zip(runs, made_of, strict=True))
            made = {
                (kind, run): striker(stage, reference)
                for kind, striker in STRIKERS.items()
                for run, reference in references.items()
            }
            work = [
                pool.submit(made[chain.kind, chain.run].strike, chain)
                for chain in chains(stage, config.seed, counts, runs, notes)
            ]
            for done in work:
                faults += done.result()
        except BaseException:
            stage.close()  # or the pool would wait for the runs to end by themselves
            raise
    movers = [m for m in made.values() if isinstance(m, devices.Mover) and counts["devices"]]
    if movers:
        notes["differences"] = {
            mover.reference.arguments[0]: {"greatest": mover.worst, "losses": mover.worst_loss}
            for mover in movers
        }
    planned = corruption.plan(config.seed, counts["corruptions"], runs)
    aims = {name: corruption.target(references[name]) for name in {p.run for p in planned}}
    for number, one in enumerate(planned, 1):
        faults.append(corruption.strike(stage, aims[one.run], one, number))
        if number % 20 == 0 or number == len(planned):
            stage.say(f"corruptions: {number}/{len(planned)}")


def chains(
    stage: Stage, seed: int, counts: dict[str, int], runs: Sequence[str], notes: dict[str, Any]
) -> list[Chain]:
    """What is done to runs, the longest chains first; notes what can't be done here."""
    planned = [
        *devices.plan(seed, counts["devices"], runs),
        *signals.plan_kills(seed, counts["kills"], runs),
        *signals.plan_terms(seed, counts["terms"], runs),
    ]
    if counts["storage"]:
        possible, why = storage.possible(stage.folder)
        planned += storage.plan(seed, counts["storage"], runs, possible)
        if why:
            notes["skipped"] = f"storage: {why}; {' and '.join(possible)} are tried instead"
            stage.say(f"skipped: {notes['skipped']}")
    return planned


def _counts(config: Chaos) -> dict[str, int]:
    """How many faults of each kind there are to be."""
    kinds = _chosen(config.only, COUNTS, "only")
    constraints.check(config)
    counts = {}
    for kind, usual in COUNTS.items():
        given = getattr(config, kind)
        if given and kind not in kinds:
            raise UserError(f"--{kind} {given} and --only {config.only} contradict each other")
        count = usual[config.long] if given is None else given
        counts[kind] = count if kind in kinds else 0
    if not sum(counts.values()):
        raise UserError("there is no fault to do: ask for some, as by --kills 1")
    return counts


def _chosen(text: str, known: dict[str, Any], flag: str) -> list[str]:
    """Names with commas between them, in the order of those that are known."""
    asked = [name.strip() for name in text.split(",")]
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise UserError(f"--{flag} takes {', '.join(known)}, got {unknown[0]!r}")
    return [name for name in known if name in asked]


def _folder(config: Chaos) -> Path:
    if config.folder is None:
        return Path(tempfile.mkdtemp(prefix="jaxnets-chaos-"))
    if config.folder.exists() and (not config.folder.is_dir() or any(config.folder.iterdir())):
        raise UserError(f"--folder {config.folder} is not empty; name a new one")
    config.folder.mkdir(parents=True, exist_ok=True)
    return config.folder


def seconds_of_terms(faults: Sequence[Fault]) -> dict[str, float] | None:
    """How long processes took to be gone after SIGTERM; None if none was told to."""
    found = sorted(f.seconds for f in faults if f.kind == "terms" and f.seconds is not None)
    if not found:
        return None
    return {
        "median": round(statistics.median(found), 2),
        "nine_in_ten": round(found[math.ceil(0.9 * len(found)) - 1], 2),
        "greatest": round(found[-1], 2),
        "limit": signals.TERM_SECONDS,
    }


def _report(
    faults: Sequence[Fault], notes: dict[str, Any], minutes: float, gone: dict[str, float] | None
) -> None:
    """Prints how many faults of each kind were survived."""
    print(f"\nchaos, {minutes:.1f} minutes")
    for kind in COUNTS:
        of_kind = [fault for fault in faults if fault.kind == kind]
        if of_kind:
            survived = sum(fault.lost is None for fault in of_kind)
            print(f"  {kind:<12} {survived}/{len(of_kind)} survived")
    if gone is not None:
        print(
            f"  after SIGTERM a process was gone within {gone['median']} s (median), "
            f"{gone['nine_in_ten']} s (nine in ten), {gone['greatest']} s (all); the limit is "
            f"{gone['limit']:g} s"
        )
    for run, far in notes.get("differences", {}).items():
        print(
            f"  {run}: over changes of devices the greatest difference is {far['greatest']:.1e} "
            f"(limit {devices.TOLERANCE:.0e}), of losses {far['losses']:.1e} (limit, where a "
            f"ReLU's input has changed sign, {devices.LOSS_TOLERANCE:.0e})"
        )
    if "skipped" in notes:
        print(f"  skipped, and not counted: {notes['skipped']}")
