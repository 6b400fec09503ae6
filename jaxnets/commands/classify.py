"""Train a CNN to classify images, sounds or texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxnets import data, losses, models
from jaxnets.columns import Column
from jaxnets.commands import (
    baseline,
    checks,
    common,
    few_labels,
    findings,
    populations,
    samples,
    starting,
    training,
)
from jaxnets.commands.configs.classify import (
    FEWEST_STEPS,
    OWN_VALUES,
    PRESETS,
    Classify,
    resolve,
)
from jaxnets.commands.configs.options import given
from jaxnets.commands.configs.reading import SAMPLES
from jaxnets.commands.history import History
from jaxnets.commands.session import Session
from jaxnets.data import DataSet, Split, augment
from jaxnets.errors import UserError
from jaxnets.judge import evaluate
from jaxnets.judge.evaluate import Classification
from jaxnets.nn.frontends import perturb
from jaxnets.processes import distributed
from jaxnets.run.load import Description
from jaxnets.run.task import Ranking, Task
from jaxnets.train import freezing, state
from jaxnets.train.few_labels import Common
from jaxnets.train.state import TrainState
from jaxnets.train.steps import Step, classifier_step

#: Images of a streamed set that a network's first layer is fitted to.
_LOOKED_AT = 128


@dataclasses.dataclass(frozen=True)
class Built:
    """A classifier's task and what belongs to it."""

    task: Task
    description: Description
    model: nn.Module
    train: Split
    steps_per_epoch: float
    #: (state of one member, split) -> how well it does
    judge: Callable[[TrainState, Split], Classification]
    start: starting.Start | None
    #: generated images among those of `train`
    added: samples.Added | None = None

    @property
    def fingerprints(self) -> dict[str, str]:
        """What `config.json` keeps of those images."""
        return {} if self.added is None else {SAMPLES: self.added.fingerprint}


def describe(config: Classify, dataset: DataSet) -> Description:
    """The classifier that a resolved config names."""
    network = {
        "name": given(config.network),
        "num_classes": dataset.num_classes,
        "width": given(config.width),
        "dropout": given(config.dropout),
        "dtype": config.dtype,
    }
    members = populations.names(config)
    return Description.of("classifier", network, dataset, members=members, views=config.test_views)


def build(config: Classify, dataset: DataSet, mesh: Mesh) -> Built:
    """Turns a resolved config and a data set into a task for the loop."""
    if dataset.num_classes < 2:
        raise UserError(
            f"{dataset.name} has {checks.one_class(dataset)}, and a classifier tells two or more "
            "apart: name a folder with one sub-folder for each class"
        )
    size = given(config.batch_size)
    checks.check_batch(size, mesh, config.micro_batches)
    trains, held_outs, pools, added = _examples(config, dataset)
    description = describe(config, dataset)
    column = dataset.columns["inputs"]
    few_labels.check(config, column)
    feed = few_labels.make_feed(config, trains, pools, mesh)
    model = models.classifier_of(column=column, **description.network)
    weak = _augmentation(config, column)
    augmentation = few_labels.of_labelled(config, weak)
    # These look at their options when they are traced: here, before there is a run's folder.
    if augmentation is not None:
        jax.eval_shape(augmentation, jax.random.key(0), jnp.zeros(column.shape, column.dtype))
    logits = jnp.zeros((1, dataset.num_classes))
    jax.eval_shape(_loss(config, dataset, trains[0]), logits, jnp.zeros(1, jnp.int32))
    if config.mixup:
        checks.check_batch(size, mesh, config.micro_batches, 2)
    frozen = None
    if config.freeze is not None:
        example = jnp.zeros((1, *column.shape), column.dtype)
        frozen = freezing.frozen_up_to(model, example, config.freeze)
    optimizer = training.optimizer(config, feed.total_steps, frozen)
    start = starting.begin(config, config.network, ["classifier"], dataset.num_classes)
    seen = pools if few_labels.is_on(config) else trains
    init = partial(_first_state, config, model, optimizer, seen, start)
    init = few_labels.first_state(config, dataset, feed.total_steps, init)
    checks.network_fits(config, lambda: populations.init(config, init), mesh)

    step_of = partial(_step, config, dataset, trains[0], weak, frozen, feed.total_steps)
    predict = evaluate.make_predict(model, mesh, views=config.test_views)
    rare = training.rare_classes(config, dataset.columns)

    def judge(of: TrainState, split: Split) -> Classification:
        logits, _ = predict(of.nets["classifier"].averaged, split)
        return evaluate.classification(logits, split.target, tuple(rare))

    def scores(of: TrainState, member: int) -> dict[str, float]:
        splits = {"test": dataset.splits["test"], "validation": held_outs[member]}
        return {
            f"{split}_{name}": value
            for split, images in splits.items()
            if images is not None
            for name, value in judge(of, images).metrics.items()
        }

    task = training.make_task(
        config,
        f"{config.network} on {dataset.name}",
        feed,
        init,
        populations.step(config, step_of),
        scores,
        ranking=_ranking(config, held_outs[0]),
        shown=_SHOWN,
        headline=Ranking("test_accuracy" if held_outs[0] is None else "validation_accuracy"),
        warn=findings.watch(config, dataset),
    )
    start = start and start.telling(init)
    steps = feed.steps_per_epoch
    return Built(task, description, model, trains[0], steps, judge, start, added)


class _Examples(NamedTuple):
    """What each member is trained on, what is held out, all that is left to train, and samples."""

    trains: Sequence[Split]
    held_outs: Sequence[Split | None]
    pools: Sequence[Split]
    added: samples.Added | None


def _examples(config: Classify, dataset: DataSet) -> _Examples:
    seeds = populations.seeds(config)
    of_seed = {seed: _splits(config, dataset, seed) for seed in set(seeds)}
    trains, held_outs, pools = zip(*(of_seed[seed] for seed in seeds), strict=True)
    added = samples.added(config, dataset, trains[0])
    if added is not None:  # a sweep's members have the same images
        trains = (data.joined(trains[0], added.split),) * len(trains)
    return _Examples(trains, held_outs, pools, added)


def _step(
    config: Classify,
    dataset: DataSet,
    train: Split,
    weak: augment.Augmentation | None,
    frozen: Mapping[str, Any] | None,
    total_steps: int,
    swept: Mapping[str, Any],
) -> Step:
    """The step of a member whose numbers are those of the config, or swept."""
    of, column = dataclasses.replace(config, **swept), dataset.columns["inputs"]
    parts = (
        models.classifier_of(column=column, **describe(of, dataset).network),
        _loss(of, dataset, train),
        training.optimizer(of, total_steps, frozen),
    )
    rest: Any = {
        "augment": few_labels.of_labelled(config, weak),
        "ema_decay": of.ema_decay,
        "micro_batches": of.micro_batches,
        "frozen": frozen,
    }
    if few_labels.is_on(config):
        return few_labels.step(of, column, Common(*parts, **rest, weak=weak), total_steps)
    return classifier_step(*parts, **rest, mixup_alpha=of.mixup)


def _splits(config: Classify, dataset: DataSet, seed: int) -> tuple[Split, Split | None, Split]:
    """The images that a member is trained on, those held out, and all that are left to train."""
    train, held_out = dataset.splits["train"], dataset.splits.get("validation")
    if config.validation_fraction:
        train, held_out = data.split_validation(train, config.validation_fraction, seed)
    pool = training.labelled(dataclasses.replace(config, labels_per_class=None), train, seed)
    return training.labelled(config, train, seed), held_out, pool


def _augmentation(config: Classify, column: Column) -> augment.Augmentation | None:
    """What is done to a training example of a kind of data."""
    if column.kind == "image":
        crop, flip = config.crop_padding or 0, bool(config.flip)
        return augment.augmentation(crop, flip, config.cutout, config.degrade)
    changes = (config.crop_padding, config.flip, config.cutout, config.degrade)
    if any(changes) or config.test_views != "plain":
        raise UserError(
            "--crop-padding, --flip, --cutout, --degrade and --test-views are for images; "
            f"{config.data} has none"
        )
    if column.kind == "sound":
        return partial(perturb, shift=config.shift, speed=config.speed)
    if config.mixup:
        raise UserError("--mixup blends images or sounds; words can't be blended")
    return None


def _loss(config: Classify, dataset: DataSet, train: Split) -> Callable[..., jax.Array]:
    """The loss, with what balances the classes."""
    counts, weights = np.bincount(train.target, minlength=dataset.num_classes), None
    if config.balance == "weights":
        weights = losses.inverse_weights(counts)
    elif config.balance == "effective":
        weights = losses.effective_weights(counts, config.balance_beta)
    loss = partial(
        losses.CLASSIFICATION_LOSSES[config.loss],
        label_smoothing=config.label_smoothing,
        class_weights=weights,
        **({"gamma": config.focal_gamma} if config.loss == "focal" else {}),
    )
    return losses.balanced_softmax(loss, counts) if config.balance == "softmax" else loss


def _first_state(
    config: Classify,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    trains: Sequence[Split],
    start: starting.Start | None,
    member: int,
) -> TrainState:
    """The state that a member begins with."""
    init_key, run_key = jax.random.split(jax.random.key(populations.seeds(config)[member]))
    images, column = trains[member].inputs, trains[member].columns["inputs"]

    def prepared(variables: dict[str, Any]) -> dict[str, Any]:
        if start is not None:
            return start.into("classifier", variables)
        if column.kind != "image" or config.network not in models.CLASSIFIERS:
            return variables
        prepare = models.CLASSIFIERS[given(config.network)].prepare
        if prepare is None:
            return variables
        step = max(1, len(images) // _LOOKED_AT)
        some = images[::step] if trains[member].lazy else images[:5000]
        return prepare(variables, data.normalise(some))

    net = state.init_net(
        model,
        init_key,
        jnp.zeros((1, *column.shape), column.dtype),
        train=False,
        optimizer=optimizer,
        ema=config.ema_decay is not None,
        prepare=prepared,
    )
    return TrainState.create(run_key, {"classifier": net})


def suited(asked: Classify, config: Classify, dataset: DataSet) -> Classify:
    """The config with the batch that suits how many images there are, where none was asked for.

    Data sets with values of their own keep them, unless they have fewer images than a batch. The
    learning rate goes with the batch.

    Args:
      asked: what the user said.
      config: that, resolved.
      dataset: the images.
    """
    size, rate = given(config.batch_size), given(config.learning_rate)
    train = training.labelled(config, dataset.splits["train"], config.seed)
    images = int(len(train) * (1 - config.validation_fraction))
    own = config.data in PRESETS or config.data.startswith(OWN_VALUES)
    # With unlabelled examples, an epoch is a pass over those.
    steps = 1 if own or few_labels.is_on(config) else FEWEST_STEPS
    batch = training.fitting_batch(config, size, images, steps)
    if asked.batch_size is not None or batch == size:
        return config
    rate = rate if asked.learning_rate is not None else rate * batch / size
    return dataclasses.replace(config, batch_size=batch, learning_rate=rate)


def _told(config: Classify, dataset: DataSet) -> str:
    """How many images a step sees, and what is done to them."""
    if dataset.columns["inputs"].kind != "image":
        return ""
    return f"in batches of {config.batch_size}, training images are {findings.augmented(config)}"


def _ranking(config: Classify, held_out: Split | None) -> Ranking | None:
    """What says which state is the best, where a flag asks for it."""
    if config.patience is None and config.keep_best <= 0:
        return None
    if held_out is None:
        flag = "--patience" if config.patience is not None else "--keep-best"
        raise UserError(f"{flag} needs images to watch: set --validation-fraction too")
    return Ranking("validation_accuracy", patience=config.patience)


#: What a line of progress shows.
_SHOWN = {
    "loss": "training loss",
    "accuracy": "training accuracy",
    "test_accuracy": "test accuracy",
    "validation_accuracy": "validation accuracy",
}


def run(config: Classify, session: Session) -> Path:
    """The command; gives the run's folder."""
    asked, config = config, resolve(config)
    done = training.train("classify", config, build, session, partial(suited, asked), _told)
    folder, dataset, numbers = done.folder, done.dataset, done.result.metrics
    built, test = done.built, dataset.splits["test"]
    members = populations.members(done.config, done.result.state)
    members = [members[number] for number in populations.looked_at(done.config, numbers)]
    members = [member for member in members if not populations.has_diverged(member)]
    judged = [built.judge(member, test) for member in members]
    first = evaluate.to_look_at(members[0])
    if not distributed.writes():
        return folder
    if dataset.columns["inputs"].kind == "tokens":
        accuracy, model = baseline.tfidf_accuracy(built.train, test)
        numbers = {**numbers, "linear_test_accuracy": accuracy, "linear_model": model}
    numbers = {**numbers, "classes": findings.class_numbers(judged, dataset.class_names)}
    common.write_summary(folder, numbers, done.result)
    history, variables = History(folder, done.config), first.nets["classifier"].averaged
    trained = built.description.trained(built.model, variables, int(first.step))
    findings.write(history, findings.of_data(history, dataset, trained, judged))
    return folder
