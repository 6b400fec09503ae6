"""What `classify` and `generate` share: what feeds a run, its task, its folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import jax
import optax
from jax.sharding import Mesh

from jaxnets import data
from jaxnets.columns import Column, class_of
from jaxnets.commands import (
    checks,
    common,
    estimate,
    history,
    populations,
    processes,
    provenance,
    starting,
)
from jaxnets.commands.configs.constraints import MAX_STEPS
from jaxnets.commands.configs.options import ClassRunOptions, RunOptions, given
from jaxnets.commands.session import Session
from jaxnets.data import DataSet, Split
from jaxnets.devices import parallel
from jaxnets.errors import UserError
from jaxnets.processes.distributed import writes
from jaxnets.run import runs
from jaxnets.run.load import Description, keep_description
from jaxnets.run.loop import fit
from jaxnets.run.task import Feeder, FitOptions, FitResult, Task
from jaxnets.run.writers import OpenWriter, TensorBoard, WeightsAndBiases, import_wandb
from jaxnets.train import freezing, optimizers
from jaxnets.train.state import TrainState
from jaxnets.train.steps import Step


class Built(Protocol):
    """What a command builds of its config: a task, and what else belongs to it."""

    @property
    def task(self) -> Task:
        """What the loop runs."""
        ...

    @property
    def description(self) -> Description:
        """What the network is that the run trains."""
        ...

    @property
    def train(self) -> Split:
        """The images that the first, or only, member is trained on."""
        ...

    @property
    def steps_per_epoch(self) -> float:
        """How many batches the training images make."""
        ...

    @property
    def start(self) -> starting.Start | None:
        """The weights that it starts from, if not from random ones."""
        ...


B = TypeVar("B", bound=Built)

#: Evaluations and checkpoints of a run that does not say how often: at most one an epoch, and so
#: many in all. An epoch of 50 images is soon over, and 4,000 checkpoints took most of a run's time.
LOOKS, SAVES = 20, 100


@dataclasses.dataclass(frozen=True)
class Feed:
    """What feeds a run, and how long the run is."""

    pipeline: Feeder
    steps_per_epoch: float
    total_steps: int


def labelled(config: ClassRunOptions, images: Split, seed: int) -> Split:
    """The training images that --labels-per-class and --rare leave."""
    rare = {k: n for k, n in rare_classes(config, images.columns).items() if n is not None}
    if config.labels_per_class is None and not rare:
        return images
    return data.take_per_class(images, config.labels_per_class, seed, rare=rare)


def rare_classes(config: ClassRunOptions, columns: Mapping[str, Column]) -> dict[int, int | None]:
    """The classes that --rare names, and how many training images of each it leaves; None for all.

    Raises:
      UserError: for an unknown class, one that is named twice, or a number below 1.
    """
    names = getattr(columns.get("target"), "names", ())
    rare: dict[int, int | None] = {}
    if config.rare and not names:
        raise UserError(f"--rare names classes, and {config.data} has none")
    for text in config.rare:
        name, equals, number = text.rpartition("=")
        alone = not equals or text in names
        if not alone and not (number.isdecimal() and 1 <= int(number) <= MAX_STEPS):
            raise UserError(f"--rare takes CLASS=N, as in 3=30, with N of 1 or more; got {text!r}")
        try:
            label = class_of(names, text if alone else name)
        except UserError as error:
            raise UserError(f"--rare {text}: {error}") from error
        if label in rare:
            raise UserError(f"--rare names the class {names[label]} twice")
        rare[label] = None if alone else int(number)
    return rare


def fitting_batch(config: RunOptions, size: int, images: int, steps: int) -> int:
    """A batch size, halved as long as an epoch has fewer than so many steps.

    Down to 8 examples, or fewer where there are not even those; devices still divide it.
    """
    share = (config.devices or jax.device_count()) * config.micro_batches
    while size > 1 and size // 2 % share == 0 and images < (steps if size > 8 else 1) * size:
        size //= 2
    return size


def make_feed(config: RunOptions, trains: Sequence[Split], step_images: int, mesh: Mesh) -> Feed:
    """What feeds a run whose steps see so many images each."""
    pipeline = populations.pipeline(config, trains, step_images, mesh)
    steps_per_epoch = len(trains[0]) / step_images
    total_steps = checks.total_steps(given(config.epochs), steps_per_epoch)
    return Feed(pipeline, steps_per_epoch, total_steps)


def optimizer(
    config: Any, total_steps: int, frozen: Mapping[str, Any] | None
) -> optax.GradientTransformation:
    """The optimizer that a resolved config with `OptimizerOptions` names.

    Args:
      config: of the run.
      total_steps: of the run, over which the learning rate changes.
      frozen: the variables that it leaves alone (see `jaxnets.train.freezing`).
    """
    rate = given(config.learning_rate)
    chosen = optimizers.make_optimizer(
        given(config.optimizer),
        optimizers.make_schedule(config.schedule, rate, total_steps, config.warmup),
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
        momentum=config.momentum,
    )
    return chosen if frozen is None else freezing.all_but(frozen["params"], chosen)


def make_task(
    config: RunOptions,
    name: str,
    feed: Feed,
    init: Callable[[int], TrainState],
    step: Step,
    scores: Callable[[TrainState, int], Mapping[str, Any]],
    **rest: Any,
) -> Task:
    """The run's task, made of what is one member's.

    Args:
      config: of the run.
      name: of one member's task.
      feed: of the run.
      init: number of a member -> its first state.
      step: of the run.
      scores: (a member's state, its number) -> its numbers.
      rest: further fields of the task.
    """
    return Task(
        name=name + populations.suffix(config),
        init=lambda: populations.init(config, init),
        step=step,
        pipeline=feed.pipeline,
        total_steps=feed.total_steps,
        evaluate=lambda state: populations.numbers(config, state, scores),
        **rest,
    )


@dataclasses.dataclass(frozen=True)
class Finished(Generic[B]):
    """A run that has been trained to its end."""

    config: Any
    mesh: Mesh
    dataset: DataSet
    built: B
    folder: Path
    result: FitResult


def train(
    experiment: str,
    config: Any,
    build: Callable[[Any, DataSet, Mesh], B],
    session: Session,
    suit: Callable[[Any, DataSet], Any] = lambda config, dataset: config,
    tell: Callable[[Any, DataSet], str] = lambda config, dataset: "",
    faster: Callable[[Any, DataSet, Mesh], estimate.Faster | None] = lambda *run: None,
    load: Callable[[Any], DataSet] = lambda config: of_classes(config),
) -> Finished[B]:
    """Loads the data, opens the run's folder and trains to the end.

    Args:
      experiment: name of the command.
      config: resolved.
      build: makes a task of config and data.
      session: the call.
      suit: fills in what depends on the data.
      tell: what is said at the start besides.
      faster: another run, for who has less time.
      load: gives the data.
    """
    processes.start(config, session.hint)
    mesh = parallel.make_mesh(config.devices)
    dataset = load(config)
    config = suit(config, dataset)
    built = build(config, dataset, mesh)
    options = fit_options(config, built.steps_per_epoch)
    folder = open_run(experiment, config, dataset, session, built, tell(config, dataset))
    options = dataclasses.replace(options, resume_hint=session.hint())
    other = partial(faster, config, dataset, mesh)
    tell_time = partial(estimate.told, config, mesh, other)
    task = dataclasses.replace(built.task, tell_time=tell_time)
    return Finished(config, mesh, dataset, built, folder, fit(task, folder, mesh, options))


def of_classes(config: Any) -> DataSet:
    """The data that a config names.

    Raises:
      UserError: if they have boxes, not classes.
    """
    dataset = common.load_data(config, config.data)
    if dataset.columns["target"].kind == "boxes":
        raise UserError(
            f"{dataset.name} has boxes around objects, and this command is for pictures of one "
            "class each"
        )
    return dataset


def fit_options(options: RunOptions, steps_per_epoch: float) -> FitOptions:
    """The loop's options, with epochs turned into steps."""
    eval_every, save_every = (
        max(1.0, given(options.epochs) / times) if asked is None else asked
        for asked, times in ((options.eval_every, LOOKS), (options.save_every, SAVES))
    )

    def steps(epochs: float) -> int:
        return 0 if epochs <= 0 else max(1, round(epochs * steps_per_epoch))

    writers: tuple[OpenWriter, ...] = (TensorBoard,)
    if options.wandb is not None:
        import_wandb()  # before there is a run's folder
        writers = (TensorBoard, partial(WeightsAndBiases, project=options.wandb))
    return FitOptions(
        mode=options.mode,
        steps_per_call=options.steps_per_call,
        shard_params=options.shard_params,
        log_every=options.log_every,
        eval_every=steps(eval_every),
        save_every=steps(save_every),
        keep=options.keep,
        keep_best=options.keep_best,
        max_rollbacks=options.max_rollbacks,
        writers=writers,
    )


def open_run(
    experiment: str,
    config: Any,
    dataset: DataSet,
    session: Session,
    built: Built | None = None,
    told: str = "",
) -> Path:
    """Makes or finds the run's folder, and says where it is, what it starts from, and `told`.

    Without `built` it is of several networks, that nothing describes.
    """
    values = {**common.experiment_values(config), **provenance.fingerprint(dataset)}
    if built is not None:
        values |= {**starting.fingerprint(built.start), **getattr(built, "fingerprints", {})}
    added = getattr(built, "added", None)
    processes.check_data(dataset.name, dataset.fingerprint)

    def make() -> Path:
        provenance.check(config.run_dir, experiment, values, dataset)
        defaults = {**common.experiment_values(type(config)()), **getattr(config, "BEFORE", {})}
        folder = runs.open_run(
            config.run_dir,
            experiment,
            values,
            defaults=defaults,
            ends=getattr(config, "ends", None),
        )
        provenance.keep(folder, dataset)
        if writes() and built is not None:
            keep_description(folder, built.description)
            how = f"{len(built.train):,} examples"
            if added is not None:
                how += f", {len(added.split):,} of them synthetic ({added.told})"
                added.keep(folder)
            how += f" {told}" * bool(told)
            history.keep(folder, built.task.name, session, config, dataset, how)
        return folder

    session.run_dir = processes.share_folder(make)
    if writes():
        start = built.start.told if built is not None and built.start is not None else ""
        print(f"run folder: {session.run_dir}\n{start}".rstrip(), flush=True)
        common.print_notes(dataset)
        if added is not None:
            print(f"note: {added.told}", flush=True)
        if told:
            print(f"note: {told}", flush=True)
    return session.run_dir
