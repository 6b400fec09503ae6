"""Flags that several commands have, in groups.

A class with a `GROUP` is a group of `--help`, and that is its title; the fields of other classes
stand before the groups. A command's config inherits from them, so that its fields lie side by side,
as `config.json` has them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import tyro

from jaxnets.commands.configs.constraints import (
    COUNT,
    EPOCHS,
    MAX_MEMBERS,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    Range,
    check,
)
from jaxnets.errors import UserError

T = TypeVar("T")

PositionalRun = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


@dataclasses.dataclass(frozen=True)
class Source:
    """Which data set."""

    data: str = "fashion_mnist"
    """Data set: digits, fashion_mnist, tfds:NAME, folder:PATH (a sub-folder of images a class),
    sounds:PATH (likewise of sounds), or texts:PATH (a table or sub-folders); the last two are for
    `classify` alone."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """How images are read."""

    GROUP: ClassVar[str] = "image"

    data_dir: Path | None = None
    """Where prepared TFDS data sets lie (tfds:NAME); by default TFDS's own folder."""
    image_size: Annotated[tuple[int, ...] | None, tyro.conf.arg(metavar="H [W]")] = None
    """Height and width, or one number for both: images are resized until they cover this, and
    what is beyond is cut off (folder:, tfds:); of objects: they are fitted in whole. By default
    the size that all have."""
    channels: Literal[1, 3] | None = None
    """Convert to grey (1) or colour (3) (folder:, objects:, tfds:)."""
    background: str | None = None
    """Colour that transparent images are laid on (folder:), such as black or #808080; by default
    white."""
    decode_ahead: Annotated[float, NOT_NEGATIVE] = 2.0
    """Gigabytes that decoded images may take in the cache (folder:, tfds:). Where they would take
    more, each is decoded when it is needed."""
    skip_bad: bool = False
    """Leave out images, and boxes, that cannot be used, and count them, instead of stopping
    (folder:, objects:, sounds:, texts:)."""


@dataclasses.dataclass(frozen=True)
class DataOptions(Source, ImageOptions):
    """Which data set, and how its images are read."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MediaOptions:
    """How sounds and texts are read."""

    GROUP: ClassVar[str] = "sound and text"

    rate: Annotated[int | None, COUNT] = None
    """Samples a second that sounds are resampled to; by default the most common rate."""
    seconds: Annotated[float | None, POSITIVE] = None
    """Length that sounds are cut or padded to; by default what 95 of 100 fit into."""
    unit: Literal["words", "characters"] | None = None
    """What a token of a text is; by default a word."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheOptions:
    """What every command that compiles has."""

    GROUP: ClassVar[str] = "compilation"

    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder, so that the next start need not compile
    them again."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessOptions:
    """One run on several processes, on this machine or others."""

    GROUP: ClassVar[str] = "process"

    distributed: bool = False
    """Work on the run together with other processes: start the same command in each, on storage
    that all see. Without the next three flags they are those that the cluster tells of (Cloud TPU,
    Slurm, Kubernetes)."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where the others find it. Outside of private networks all need the
    same secret in the environment, as JAXNETS_SECRET."""
    process_count: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """Which of them this is, from 0."""
    start_timeout: Annotated[float, POSITIVE] = 120.0
    """Seconds that each waits for all others to come."""


@dataclasses.dataclass(frozen=True)
class CheckpointOptions:
    """When a run is evaluated and saved."""

    GROUP: ClassVar[str] = "checkpoint"

    log_every: Annotated[int, COUNT] = 50
    """Steps between records of training metrics."""
    eval_every: Annotated[float | None, NOT_NEGATIVE] = None
    """Epochs between evaluations; 0 evaluates at the end only. By default after each epoch, and 20
    times at most."""
    save_every: Annotated[float | None, NOT_NEGATIVE] = None
    """Epochs between checkpoints; 0 saves at the end only. By default after each epoch, and 100
    times at most."""
    keep: Annotated[int, COUNT] = 2
    """How many of the latest checkpoints are kept."""
    keep_best: Annotated[int, NOT_NEGATIVE] = 0
    """How many of the best are kept beside them: by validation accuracy, or what --judge
    measures of a GAN. `evaluate` and `sample` take the best there is; a run's own report is of its
    last state."""
    max_rollbacks: Annotated[int, NOT_NEGATIVE] = 3
    """How often a run whose numbers are no longer finite goes back to its last good checkpoint, to
    try other random numbers, before it stops."""
    wandb: Annotated[str | None, tyro.conf.arg(metavar="PROJECT")] = None
    """Send the config, numbers and sample pictures to this project of Weights & Biases too;
    WANDB_MODE=offline in the environment keeps them in the run's folder."""


@dataclasses.dataclass(frozen=True)
class DeviceOptions:
    """How a step is computed; but for --dtype, the numbers are the same."""

    GROUP: ClassVar[str] = "device"

    mode: Literal["jit", "pmap"] = "jit"
    """How the step goes onto the devices."""
    steps_per_call: Annotated[int, COUNT] = 4
    """Training steps in one call of the compiled program."""
    micro_batches: Annotated[int, COUNT] = 1
    """Parts in which a batch is computed, to save memory; gradients add up."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation; parameters are float32 in any case."""
    shard_params: bool = False
    """Divide parameters, optimiser state and averages among the devices, where they are too large
    to be whole on each (--mode jit)."""
    memory_budget_mb: Annotated[int, NOT_NEGATIVE] = 4096
    """A training split larger than this is streamed from disk instead of kept on the device."""
    workers: Annotated[int | None, NOT_NEGATIVE] = None
    """Processes that decode images when they are needed (--decode-ahead); 0 decodes in this one. By
    default as many as there are cores. The batches are the same."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StartOptions:
    """What the weights are before the first step."""

    GROUP: ClassVar[str] = "start"

    init_from: str | None = None
    """Start from trained weights: another run's folder; for `classify` also imagenet (of
    efficientnet_lite0), an exported .safetensors file, or torchvision's and timm's ResNet-18, 34
    and 50 for images of 128 pixels or more, as a .pth, .pt or .safetensors file or
    hf:OWNER/NAME[/FILE]. If the number of classes differs, the last layer is new."""


@dataclasses.dataclass(frozen=True)
class RunOptions(
    DataOptions, StartOptions, CheckpointOptions, DeviceOptions, ProcessOptions, CacheOptions
):
    """What every training command has."""

    run_dir: Path | None = None
    """The run's folder; the same command on the same folder goes on where it stopped. By default
    runs/<command>-<date>-<time>."""
    epochs: Annotated[float | None, EPOCHS] = None
    """Passes over the training images."""
    seed: Annotated[int, SEED] = 0
    """Every random number of the run follows from it."""
    seeds: Annotated[int, Range(least=1, most=MAX_MEMBERS)] = 1
    """Train this many networks at once in one program, with the seeds from --seed on; their mean
    and spread are reported."""
    sweep: str = ""
    """Train a network, or GAN, for each value of a number, all in one program, and tell which is
    the best: NAME=VALUE,VALUE,... such as learning_rate=0.1,0.2, or gamma=0.1,1 of a GAN; `list`
    has the numbers."""
    devices: int | None = None
    """How many devices to use; by default all."""


@dataclasses.dataclass(frozen=True)
class ClassRunOptions(RunOptions):
    """What every training command on examples of classes has."""

    labels_per_class: int | None = None
    """Train on this many images of each class only."""
    rare: Annotated[tuple[str, ...], tyro.conf.arg(metavar="CLASS[=N] ...")] = ()
    """Train on only N images of a class, by its name or number. `classify` reports recall and
    average precision of these classes, and the accuracy of the others; of CLASS alone all images
    stay."""


#: A run may go on by other processes.
PROCESS_FIELDS = tuple(field.name for field in dataclasses.fields(ProcessOptions))

#: Fields that say where and how a run is computed, and not what: the same run may go on with
#: other values of them.
NOT_WHAT = (
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
    "workers",
    "compilation_cache",
    "pictures",
    "wandb",
    *PROCESS_FIELDS,
)


def with_preset(config: T, values: Mapping[str, Any]) -> T:
    """Fills the fields that are None.

    What is left None means none: every field has its value, and `config.json` shows it.
    """
    unset = {key: value for key, value in values.items() if getattr(config, key) is None}
    return dataclasses.replace(config, **unset)  # type: ignore[type-var]


def given(value: T | None) -> T:
    """The value of a field that a preset has filled."""
    assert value is not None
    return value


def check_numbers(config: RunOptions) -> None:
    """Fails early, in one sentence, for numbers that no run can be made with."""
    check(config)
    if config.seed + config.seeds > 2**31:
        raise UserError(f"--seeds must be at most {2**31 - config.seed}, got {config.seeds}")
    if config.shard_params and config.mode != "jit":
        raise UserError("--shard-params needs --mode jit, got --mode pmap")
