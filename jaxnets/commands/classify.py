"""Train a CNN to classify images."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from jaxnets.commands import checks, common, populations, processes
from jaxnets.commands.configs.constraints import COUNT, DECAY, EPOCHS, NOT_NEGATIVE, POSITIVE

if TYPE_CHECKING:
    import flax.linen as nn
    from jax.sharding import Mesh

    from jaxnets.data import DataSet, Split
    from jaxnets.evaluate import Classification
    from jaxnets.state import TrainState
    from jaxnets.task import Task

#: Values of the fields that are None, by data set.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {
        "epochs": 20.0,
        "batch_size": 128,
        "width": 0.5,
        "learning_rate": 0.2,
        "crop_padding": 2,
        "flip": True,
    },
    # Digits must not be mirrored.
    "digits": {"epochs": 60.0, "crop_padding": 1, "flip": False},
    "fashion_mnist": {"epochs": 8.0, "batch_size": 512, "learning_rate": 0.75},
}


@dataclasses.dataclass(frozen=True)
class Classify(common.RunOptions, common.DataOptions):
    """Train a CNN to classify images; with the defaults, Fashion-MNIST.

    A flag whose default is None takes the value that suits the data set; config.json in the run's
    folder shows it.
    """

    network: str = "speed_net"
    """lenet5, alexnet, vgg11, vgg16, resnet_3x2, resnet18, resnet34, resnet50, wide_resnet_16_4,
    wide_resnet_28_10 or speed_net."""
    width: Annotated[float | None, POSITIVE] = None
    """Factor on every number of channels; 1 is the published size."""
    dropout: float = 0.0
    """Share of units that dropout zeroes, where the network has dropout."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation; parameters are float32 in any case."""

    epochs: Annotated[float | None, EPOCHS] = None
    """Passes over the training images."""
    batch_size: Annotated[int | None, COUNT] = None
    """Images a step, over all devices."""
    micro_batches: Annotated[int, COUNT] = 1
    """Parts in which a batch is computed, to save memory; gradients add up."""
    optimizer: str = "nesterov"
    """sgd, nesterov, adam, rmsprop, lion or lamb."""
    learning_rate: Annotated[float | None, NOT_NEGATIVE] = None
    """The highest learning rate."""
    schedule: str = "linear"
    """constant, cosine or linear, after the warm-up."""
    warmup: float = 0.23
    """Share of the steps in which the learning rate climbs."""
    momentum: Annotated[float, DECAY] = 0.85
    """Of sgd and nesterov."""
    weight_decay: Annotated[float, NOT_NEGATIVE] = 0.009
    """Decoupled, times the learning rate; not on norms and biases."""
    clip_norm: Annotated[float | None, POSITIVE] = None
    """Greatest global norm of a gradient."""
    ema_decay: Annotated[float | None, DECAY] = 0.95
    """Decay of the moving average of the weights that is evaluated; None uses the weights."""

    loss: str = "cross_entropy"
    """cross_entropy or focal."""
    focal_gamma: Annotated[float, NOT_NEGATIVE] = 2.0
    """Exponent of the focal loss."""
    label_smoothing: float = 0.2
    """Share of the target that is spread over all classes."""
    balance_classes: bool = False
    """Weigh classes by the inverse of their frequency in the training images."""

    crop_padding: int | None = None
    """Pixels by which training images are shifted at random."""
    flip: bool | None = None
    """Mirror training images at random."""
    cutout: int = 0
    """Side of the square that is blanked at random; 0 is off."""
    mixup: Annotated[float, NOT_NEGATIVE] = 0.0
    """Parameter of mixup's Beta distribution; 0 is off."""

    test_views: Literal["plain", "mirror", "mirror_and_shift"] = "plain"
    """What a test image is judged by: itself; the mean over it and its mirror image; or, as in
    airbench, over shifts by a pixel too."""
    validation_fraction: float = 0.0
    """Share of the training images that is held out, by class, to be evaluated on; 0 uses the
    data set's own validation split, where it has one."""
    patience: Annotated[int | None, COUNT] = None
    """Stop after this many evaluations without a better validation accuracy."""
    labels_per_class: int | None = None
    """Train on this many images of each class only."""

    @property
    def experiment(self) -> str:
        """Name of the command."""
        return "classify"


@dataclasses.dataclass(frozen=True)
class Built:
    """A classifier's task and what belongs to it."""

    task: Task
    model: nn.Module
    train: Split
    steps_per_epoch: float
    judge: Any  # (state of one member, split) -> Classification


def resolve(config: Classify) -> Classify:
    """The config with every value in its place."""
    from jaxnets.errors import UserError

    # The presets are tuned for the speed net and momentum.
    if config.optimizer not in ("sgd", "nesterov"):
        usual = {"learning_rate": 2e-4 if config.optimizer == "lion" else 2e-3}
        config = common.with_preset(config, {"default": usual}, config.data)
    if config.network != "speed_net":
        usual = {"width": 1.0, "learning_rate": 0.05}
        config = common.with_preset(config, {"default": usual}, config.data)
    config = common.with_preset(config, PRESETS, config.data)
    common.check_numbers(config)
    if config.patience is not None and config.eval_every <= 0:
        raise UserError("--patience counts evaluations: set --eval-every above 0")
    return config


def network(config: Classify, dataset: DataSet) -> nn.Module:
    """The classifier that a resolved config names."""
    from jaxnets.models import make_classifier

    return make_classifier(
        config.network,
        num_classes=dataset.num_classes,
        image_shape=dataset.splits["train"].inputs.shape[1:],
        width=config.width,  # type: ignore[arg-type]
        dropout=config.dropout,
        dtype=config.dtype,
    )


def build(config: Classify, dataset: DataSet, mesh: Mesh) -> Built:
    """Turns a resolved config and a data set into a task for the loop."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxnets import augment, data, evaluate, losses, models, optimizers, state, steps
    from jaxnets.errors import UserError
    from jaxnets.task import Ranking, Task

    assert config.batch_size and config.epochs and config.learning_rate is not None
    common.check_batch(config.batch_size, mesh, config.micro_batches)

    def splits(seed: int) -> tuple[Split, Split | None]:
        train, held_out = dataset.splits["train"], dataset.splits.get("validation")
        if config.validation_fraction:
            train, held_out = data.split_validation(train, config.validation_fraction, seed)
        if config.labels_per_class is not None:
            train = data.take_per_class(train, config.labels_per_class, seed)
        return train, held_out

    trains, held_outs = zip(*(splits(seed) for seed in populations.seeds(config)), strict=True)
    train, held_out = trains[0], held_outs[0]
    pipeline = populations.pipeline(config, trains, config.batch_size, mesh)
    steps_per_epoch = len(train) / config.batch_size
    total_steps = checks.total_steps(config.epochs, steps_per_epoch)

    model = network(config, dataset)
    class_weights = None
    if config.balance_classes:
        counts = np.bincount(train.target, minlength=dataset.num_classes)
        class_weights = jnp.asarray(
            len(train) / (dataset.num_classes * np.maximum(counts, 1)), jnp.float32
        )
    loss = partial(
        losses.classification_loss(config.loss),
        label_smoothing=config.label_smoothing,
        class_weights=class_weights,
        **({"gamma": config.focal_gamma} if config.loss == "focal" else {}),
    )
    augmentation = augment.augmentation(config.crop_padding or 0, bool(config.flip), config.cutout)
    # These look at their options when they are traced: here, before there is a run's folder.
    key, image = jax.random.key(0), jnp.zeros(train.inputs.shape[1:])
    jax.eval_shape(augmentation, key, image)
    jax.eval_shape(loss, jnp.zeros((1, dataset.num_classes)), jnp.zeros(1, jnp.int32))
    if config.mixup:
        common.check_batch(config.batch_size, mesh, config.micro_batches, 2)
    optimizer = optimizers.make_optimizer(
        config.optimizer,
        optimizers.make_schedule(config.schedule, config.learning_rate, total_steps, config.warmup),
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
        momentum=config.momentum,
    )

    def prepared(variables: dict[str, Any], member: int) -> dict[str, Any]:
        prepare = models.CLASSIFIERS[config.network].prepare
        if prepare is None:
            return variables
        return prepare(variables, data.normalise(trains[member].inputs[:5000]))

    def init(member: int) -> TrainState:
        init_key, run_key = jax.random.split(jax.random.key(config.seed + member))
        example = jnp.zeros((1, *train.inputs.shape[1:]))
        net = state.init_net(
            model,
            init_key,
            example,
            train=False,
            optimizer=optimizer,
            ema=config.ema_decay is not None,
            prepare=partial(prepared, member=member),
        )
        return state.TrainState.create(run_key, {"classifier": net})

    checks.network_fits(config, lambda: populations.init(config, init), mesh)
    step = steps.classifier_step(
        model,
        loss,
        optimizer,
        augment=augmentation,
        mixup_alpha=config.mixup,
        ema_decay=config.ema_decay,
        micro_batches=config.micro_batches,
    )
    predict = evaluate.make_predict(model, mesh, views=config.test_views)

    def judge(of: TrainState, split: Split) -> Classification:
        logits, _ = predict(of.nets["classifier"].averaged, split)
        return evaluate.classification(logits, split.target)

    def scores(of: TrainState, member: int) -> dict[str, float]:
        found = {f"test_{k}": v for k, v in judge(of, dataset.splits["test"]).metrics.items()}
        if (held_out := held_outs[member]) is not None:
            metrics = judge(of, held_out).metrics
            found |= {f"validation_{name}": value for name, value in metrics.items()}
        return found

    ranking = None
    if config.patience is not None or config.keep_best > 0:
        if held_out is None:
            flag = "--patience" if config.patience is not None else "--keep-best"
            raise UserError(f"{flag} needs images to watch: set --validation-fraction too")
        ranking = Ranking("validation_accuracy", patience=config.patience)
    task = Task(
        name=f"{config.network} on {dataset.name}" + populations.suffix(config),
        init=lambda: populations.init(config, init),
        step=populations.step(config, lambda _: step),
        pipeline=pipeline,
        total_steps=total_steps,
        evaluate=lambda of: populations.numbers(config, of, scores),
        ranking=ranking,
    )
    return Built(task, model, train, steps_per_epoch, judge)


def run(config: Classify) -> Path:
    """The command."""
    from jaxnets import parallel, report
    from jaxnets.log import read_records

    config = resolve(config)
    common.start_processes(config)
    mesh = parallel.make_mesh(config.devices)
    dataset = common.load_data(config)
    built = build(config, dataset, mesh)
    folder, result = common.start_run(
        "classify", config, dataset, built.task, mesh, built.steps_per_epoch
    )
    found = [
        built.judge(one, dataset.splits["test"])
        for one in populations.members(config, result.state)
        if not populations.has_diverged(one)
    ]
    if not processes.writes():
        return folder
    common.write_summary(folder, result.metrics, result)
    records = read_records(folder / "metrics.jsonl")
    rows = [
        ("test accuracy", populations.shown(result.metrics, "test_accuracy", ".2%")),
        (
            "mean recall of the classes",
            populations.shown(result.metrics, "test_balanced_accuracy", ".2%"),
        ),
        (
            "test loss (mean negative log-likelihood)",
            populations.shown(result.metrics, "test_loss", ".4f"),
        ),
        (
            "expected calibration error",
            populations.shown(result.metrics, "test_calibration_error", ".4f"),
        ),
        ("images trained on", f"{len(built.train):,}"),
        ("training time, compilation included", f"{result.seconds:.0f} s"),
    ]
    training = [record for record in records if record["split"] == "train"]
    judged = [record for record in records if record["split"] == "eval"]
    report.html_report(
        folder / "report.html",
        built.task.name,
        [
            report.Table(rows, header=("", "value")),
            report.Figure(
                report.curves_svg(
                    training, populations.curves(config, "loss"), title="training loss"
                )
            ),
            report.Figure(
                report.curves_svg(
                    judged, populations.curves(config, "test_accuracy"), title="test accuracy"
                )
            ),
            report.Figure(
                report.confusion_svg(sum(one.confusion for one in found), dataset.class_names),
                caption="Confusion matrix on the test images.",
            ),
        ],
    )
    common.print_table(built.task.name, rows)
    print(f"  report: {folder / 'report.html'}")
    return folder
