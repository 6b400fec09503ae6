"""What every training command shares: its flags, its run folder, its report.

No module of `experiments` imports jax at its top: `--help` must not wait for it.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro

from jaxnets.commands import checks, processes, provenance
from jaxnets.commands.configs import constraints
from jaxnets.commands.configs.constraints import COUNT, MAX_MEMBERS, NOT_NEGATIVE, SEED, Range

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from jaxnets.data import DataSet
    from jaxnets.task import FitOptions, FitResult, Task

T = TypeVar("T")

_opened: Path | None = None
_arguments: list[str] = []

#: Fields that say where and how a run is computed, and not what: the same run may go on with
#: other values of them.
_NOT_WHAT = (
    "run_dir",
    "devices",
    "mode",
    "steps_per_call",
    "shard_params",
    "log_every",
    "save_every",
    "keep",
    "max_rollbacks",
    "memory_budget_mb",
    "compilation_cache",
    "pictures",
    *processes.FIELDS,
)


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Which images, in which form."""

    data: str = "fashion_mnist"
    """Data set: digits, fashion_mnist, tfds:NAME, or folder:PATH (one sub-folder a class)."""
    data_dir: Path | None = None
    """Where prepared TFDS data sets lie (tfds:NAME); by default TFDS's own folder."""
    image_size: int | None = None
    """Resize the shorter side to this and crop the middle square (folder:, tfds:)."""
    channels: Literal[1, 3] | None = None
    """Convert to grey (1) or colour (3) (folder:, tfds:)."""
    skip_bad: bool = False
    """Leave out images that cannot be used, and count them, instead of stopping (folder:)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheOptions:
    """What every command that compiles has."""

    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder, so that the next start need not compile
    them again."""


@dataclasses.dataclass(frozen=True)
class RunOptions(CacheOptions, processes.ProcessOptions):
    """How and where a run is computed."""

    run_dir: Path | None = None
    """The run's folder; the same command on the same folder goes on where it stopped. By default
    runs/<experiment>-<date>-<time>."""
    seed: Annotated[int, SEED] = 0
    """Every random number of the run follows from it."""
    seeds: Annotated[int, Range(least=1, most=MAX_MEMBERS)] = 1
    """Train this many networks at once in one program, with the seeds from --seed on; their mean
    and spread are reported."""
    devices: int | None = None
    """How many devices to use; by default all."""
    mode: Literal["jit", "pmap"] = "jit"
    """How the step goes onto the devices."""
    steps_per_call: Annotated[int, COUNT] = 4
    """Training steps in one call of the compiled program."""
    shard_params: bool = False
    """Divide parameters, optimiser state and averages among the devices, where they are too large
    to be whole on each; the numbers are the same (--mode jit)."""
    log_every: Annotated[int, COUNT] = 50
    """Steps between records of training metrics."""
    eval_every: Annotated[float, NOT_NEGATIVE] = 1.0
    """Epochs between evaluations; 0 evaluates at the end only."""
    save_every: Annotated[float, NOT_NEGATIVE] = 1.0
    """Epochs between checkpoints; 0 saves at the end only."""
    keep: Annotated[int, COUNT] = 2
    """How many of the latest checkpoints are kept."""
    keep_best: Annotated[int, NOT_NEGATIVE] = 0
    """How many of the best are kept beside them: by validation accuracy, or what --judge
    measures of a GAN. `evaluate` and `sample` take the best there is; a run's own report is of its
    last state."""
    max_rollbacks: Annotated[int, NOT_NEGATIVE] = 3
    """How often a run whose numbers are no longer finite goes back to its last good checkpoint, to
    try other random numbers, before it stops."""
    memory_budget_mb: Annotated[int, NOT_NEGATIVE] = 4096
    """A training split larger than this is streamed from disk instead of kept on the device."""


def enable_compilation_cache() -> None:
    """Turns the cache of compiled programs on; says so, and goes on, where it can't be kept."""
    import sys

    from jaxnets.compilation import enable_compilation_cache
    from jaxnets.errors import UserError

    try:
        enable_compilation_cache()
    except UserError as error:
        print(f"warning: {error}", file=sys.stderr)


def load_data(options: DataOptions) -> DataSet:
    """The data set that the options name."""
    from jaxnets import data

    return data.load(
        options.data,
        data_dir=options.data_dir,
        image_size=options.image_size,
        channels=options.channels,
        skip_bad=options.skip_bad,
    )


def with_preset(config: T, presets: Mapping[str, Mapping[str, Any]], name: str) -> T:
    """Fills the fields that are None from the preset of that name, or else from "default".

    What is left None means none: every field has its value, and `config.json` shows it.
    """
    values = {**presets["default"], **presets.get(name, {})}
    unset = {key: value for key, value in values.items() if getattr(config, key) is None}
    return dataclasses.replace(config, **unset)  # type: ignore[type-var]


def given(value: T | None) -> T:
    """The value of a field that a preset has filled."""
    assert value is not None
    return value


def experiment_values(config: Any) -> dict[str, Any]:
    """The fields of a config that a run's numbers depend on."""
    from jaxnets.runs import config_values

    # Evaluations come at the ends of calls, and early stopping heeds where they come.
    what = ("steps_per_call",) if getattr(config, "patience", None) is not None else ()
    return config_values(config, leave_out=tuple(n for n in _NOT_WHAT if n not in what))


def config_from(kind: type[T], values: Mapping[str, Any]) -> T:
    """A config out of the values of a run's `config.json`."""
    from jaxnets.errors import UserError

    values = {name: value for name, value in values.items() if name != provenance.FINGERPRINT}
    fields = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - fields)
    if unknown:
        raise UserError(
            f"the run was made by another version of jaxnets: its config.json has "
            f"{', '.join(unknown)}, which `{kind.__name__.lower()}` does not know"
        )
    return kind(**checks.typed(kind, values))


def check_numbers(config: Any) -> None:
    """Fails early, in one sentence, for numbers that no run can be made with."""
    from jaxnets.errors import UserError

    constraints.check(config)
    if config.seed + config.seeds > 2**31:
        raise UserError(f"--seeds must be at most {2**31 - config.seed}, got {config.seeds}")
    if config.shard_params and config.mode != "jit":
        raise UserError("--shard-params must be left out with --mode pmap, got True")


def check_batch(batch_size: int, mesh: Mesh, *parts: int) -> None:
    """Fails early, in one sentence, for a batch that devices or parts do not divide."""
    from jaxnets.errors import UserError

    share = mesh.size
    for part in parts:
        share *= part
    if batch_size < 1 or batch_size % share:
        what = f"the {mesh.size} devices" if mesh.size > 1 or share == 1 else "the parts"
        if share != mesh.size:
            what = f"{mesh.size} device(s) times {share // mesh.size} part(s)"
        raise UserError(
            f"batch size {batch_size} is not divisible by {what}; choose a multiple of {share}"
        )


def fit_options(options: RunOptions, steps_per_epoch: float) -> FitOptions:
    """The loop's options, with epochs turned into steps."""
    from jaxnets.task import FitOptions

    def steps(epochs: float) -> int:
        return 0 if epochs <= 0 else max(1, round(epochs * steps_per_epoch))

    return FitOptions(
        mode=options.mode,
        steps_per_call=options.steps_per_call,
        shard_params=options.shard_params,
        log_every=options.log_every,
        eval_every=steps(options.eval_every),
        save_every=steps(options.save_every),
        keep=options.keep,
        keep_best=options.keep_best,
        max_rollbacks=options.max_rollbacks,
    )


def start_run(
    experiment: str,
    config: Any,
    dataset: DataSet,
    task: Task,
    mesh: Mesh,
    steps_per_epoch: float,
) -> tuple[Path, FitResult]:
    """Opens the run's folder and trains to the end."""
    from jaxnets.loop import fit

    options = fit_options(config, steps_per_epoch)
    folder = open_run(experiment, config, dataset)
    hint = f"go on with: {how_to_go_on()}"
    return folder, fit(task, folder, mesh, dataclasses.replace(options, resume_hint=hint))


def open_run(experiment: str, config: Any, dataset: DataSet) -> Path:
    """Makes or finds the run's folder, and says where it is."""
    global _opened
    from jaxnets import runs

    values = {**experiment_values(config), **provenance.fingerprint(dataset)}
    processes.check_data(dataset.name, dataset.fingerprint)

    def make() -> Path:
        provenance.check(config.run_dir, experiment, values, dataset)
        defaults = {**experiment_values(type(config)()), **getattr(config, "BEFORE", {})}
        folder = runs.open_run(config.run_dir, experiment, values, defaults=defaults)
        provenance.keep(folder, dataset)
        return folder

    _opened = processes.share_folder(make)
    if processes.writes():
        print(f"run folder: {_opened}", flush=True)
    return _opened


def begin_command(arguments: Sequence[str]) -> None:
    """Called at the start of a command: an earlier one of this process has nothing to go on."""
    global _opened, _arguments
    _opened, _arguments = None, list(arguments)


def how_to_go_on() -> str:
    """The command that resumes the run that this process has opened; "" if there is none."""
    if _opened is None:
        return ""
    if _arguments[:1] in (["reproduce"], ["families"]):  # their --run-dir is that of all runs
        return f"python -m experiments {shlex.join(_arguments)}"
    kept, skip = [], False
    for argument in _arguments:
        if not skip and not argument.startswith("--run-dir="):
            skip = argument == "--run-dir"
            kept += [] if skip else [argument]
        else:
            skip = False
    return f"python -m experiments {shlex.join([*kept, '--run-dir', str(_opened)])}"


def start_processes(config: RunOptions) -> None:
    """Joins the other processes of the run, if there are to be any; before jax has its devices."""
    processes.start(config, hint=lambda: f"go on with: {line}" if (line := how_to_go_on()) else "")


def machine() -> dict[str, Any]:
    """What a number was measured on."""
    import os
    import platform

    import flax
    import jax

    import jaxnets

    device = jax.devices()[0]
    return {
        "jaxnets": jaxnets.__version__,
        "jax": jax.__version__,
        "flax": flax.__version__,
        "python": platform.python_version(),
        "backend": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "cores": os.cpu_count(),
    }


def write_summary(folder: Path, numbers: Mapping[str, Any], result: FitResult | None) -> None:
    """Writes `summary.json`: the final numbers by name, the time they took, and where."""
    from jaxnets.files import write_json

    timing = {}
    if result is not None:
        timing = {
            "step": int(result.state.step),
            "stopped_early": result.stopped_early,
            "train_seconds": round(result.seconds, 1),
            "compile_seconds": round(result.compile_seconds, 1),
            "images_per_second": round(result.images_per_second, 1),
        }
    write_json(folder / "summary.json", {**finite(numbers), **finite(timing), "machine": machine()})


def finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with NaN and infinity, which JSON has not, as None."""
    import math

    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


def print_table(title: str, rows: list[tuple[str, str]]) -> None:
    """A short table of names and numbers on the terminal."""
    width = max(len(name) for name, _ in rows)
    print(f"\n{title}")
    for name, value in rows:
        print(f"  {name:<{width}}  {value}")


PositionalRun = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
