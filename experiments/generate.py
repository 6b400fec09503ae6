"""Train a generative adversarial network to make images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from experiments import checks, common, judging, pictures, populations, processes

if TYPE_CHECKING:
    import numpy as np
    from jax.sharding import Mesh

    from jaxnets.data import DataSet, Split
    from jaxnets.evaluate import Sample
    from jaxnets.state import TrainState
    from jaxnets.task import Task

#: Values of the fields that are None, by data set.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {
        "epochs": 100.0,
        "batch_size": 64,
        "width": 1.0,
        "penalty_weight": 0.1,
        "score_epochs": 10.0,
    },
    "digits": {"epochs": 200.0, "width": 0.5},
    "fashion_mnist": {"epochs": 8.0, "width": 0.5, "score_epochs": 2.0},
}

#: Weights of penalties, from their papers, where --penalty-weight is not given.
_LAMBDAS = {"wgan_gp": 10.0, "dragan": 10.0, "consistency": 10.0}


@dataclasses.dataclass(frozen=True)
class Generate(common.RunOptions, common.DataOptions):
    """Train a GAN to make images; with the defaults, class-conditional on Fashion-MNIST.

    A flag whose default is None takes the value that suits the data set; config.json in the run's
    folder shows it.
    """

    generator: str = "dcgan"
    """dcgan, r3gan, sngan or stylegan2."""
    discriminator: str | None = None
    """dcgan, r3gan, sngan, stylegan2, or any classifier of `classify` as the trunk; by default the
    generator's own."""
    conditional: bool = True
    """Give both networks the class of each image; then a class can be asked for."""
    latent_size: int = 64
    """Length of the generator's input."""
    width: float | None = None
    """Factor on every number of channels."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation; parameters are float32 in any case."""

    epochs: float | None = None
    """Passes over the training images."""
    batch_size: int | None = None
    """Images that one discriminator update sees, over all devices."""
    micro_batches: int = 1
    """Parts in which a batch is computed, to save memory; gradients add up."""
    discriminator_steps: int = 1
    """Discriminator updates to one generator update, each on images of its own."""

    loss: str = "non_saturating"
    """minimax, non_saturating, least_squares, hinge, wasserstein or relativistic."""
    penalty: str = "r1"
    """none, r1, r2, r1_r2, wgan_gp, dragan or consistency."""
    penalty_weight: float | None = None
    """Factor of the penalty: gamma of R1 and R2, lambda of the others."""
    penalty_every: int = 1
    """Apply the penalty at every n-th step only, n times as strong (lazy regularisation)."""
    augment: str = ""
    """Differentiable augmentation of reals and fakes: any of color,translation,cutout,flip."""
    augment_probability: float | None = None
    """Share of the images that each of them is applied to; all, or at first 0 if it is adaptive."""
    adaptive_augment: bool = False
    """Let that share follow how sure the discriminator is of real images (ADA)."""

    optimizer: str = "adam"
    """sgd, nesterov, adam, rmsprop, lion or lamb."""
    generator_learning_rate: float = 5e-4
    """The generator's highest learning rate."""
    discriminator_learning_rate: float = 5e-4
    """The discriminator's highest learning rate."""
    b1: float = 0.0
    """Decay of the first moment."""
    b2: float = 0.99
    """Decay of the second moment."""
    schedule: str = "constant"
    """constant, cosine or linear."""
    clip_norm: float | None = None
    """Greatest global norm of a gradient."""
    ema_decay: float | None = 0.995
    """Decay of the moving average of the generator that samples are made with."""

    labels_per_class: int | None = None
    """Train on this many images of each class only."""
    judge: Path | None = None
    """Folder of a `classify` run on the same data, whose features measure Frechet distances, and
    which looks whether samples have all classes and differ within each."""
    accuracy_score: bool = True
    """At the end, train a CNN on samples only and test it on real images (if conditional)."""
    score_epochs: float | None = None
    """For how many passes over as many samples as there are training images."""


@dataclasses.dataclass(frozen=True)
class Built:
    """A GAN's task and what belongs to it."""

    task: Task
    train: Split
    steps_per_epoch: float
    sample: Sample
    #: (state, labels [N][, seed]) -> one generated image for each label, as a split
    samples_like: Callable[..., Split]
    judge: judging.Judge | None
    conditional: bool


def resolve(config: Generate) -> Generate:
    """The config with every value in its place."""
    from jaxnets.errors import UserError

    if config.discriminator is None:
        config = dataclasses.replace(config, discriminator=config.generator)
    if config.penalty_weight is None and config.penalty in _LAMBDAS:
        config = dataclasses.replace(config, penalty_weight=_LAMBDAS[config.penalty])
    config = common.with_preset(config, PRESETS, config.data)
    common.check_numbers(config)
    common.need_at_least_one(config, "penalty_every", "discriminator_steps")
    share = config.augment_probability
    if share is not None and not 0 <= share <= 1:
        raise UserError(f"--augment-probability must be in [0, 1], got {share}")
    if not config.augment and (config.adaptive_augment or share is not None):
        raise UserError(
            "--adaptive-augment and --augment-probability are of --augment: say which, such as "
            "--augment translation,cutout"
        )
    assert config.score_epochs is not None
    if config.score_epochs <= 0:
        raise UserError(f"--score-epochs must be above 0, got {config.score_epochs}")
    if config.keep_best > 0 and (config.judge is None or config.eval_every <= 0):
        raise UserError(
            "--keep-best goes by the Frechet distance that a CNN measures at every evaluation: set "
            "--judge, and --eval-every above 0"
        )
    return config


def networks(config: Generate, dataset: DataSet) -> Any:
    """The (generator, discriminator) that a resolved config names."""
    from jaxnets.models import make_gan

    return make_gan(
        config.generator,
        discriminator=config.discriminator,
        image_shape=dataset.splits["train"].images.shape[1:],
        num_classes=dataset.num_classes if config.conditional else None,
        latent_size=config.latent_size,
        width=config.width,  # type: ignore[arg-type]
        dtype=config.dtype,
    )


def build(config: Generate, dataset: DataSet, mesh: Mesh) -> Built:
    """Turns a resolved config and a data set into a task for the loop."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxnets import augment, data, evaluate, losses, optimizers, parallel, report, state, steps
    from jaxnets.errors import UserError
    from jaxnets.guard import CollapseWatch
    from jaxnets.task import Ranking, Task

    assert config.batch_size and config.epochs and config.penalty_weight is not None
    common.check_batch(config.batch_size, mesh, config.micro_batches)
    trains = [dataset.splits["train"]] * config.seeds
    if config.labels_per_class is not None:
        trains = [
            data.take_per_class(dataset.splits["train"], config.labels_per_class, seed)
            for seed in populations.seeds(config)
        ]
    train = trains[0]
    whole_batch = config.batch_size * config.discriminator_steps
    pipeline = populations.pipeline(config, trains, whole_batch, mesh)
    steps_per_epoch = len(train) / whole_batch
    total_steps = checks.total_steps(config.epochs, steps_per_epoch)
    assert config.score_epochs is not None
    checks.total_steps(config.score_epochs, len(train), "score-epochs")

    generator, discriminator = networks(config, dataset)
    generator_optimizer, discriminator_optimizer = (
        optimizers.make_optimizer(
            config.optimizer,
            optimizers.make_schedule(config.schedule, rate, total_steps),
            clip_norm=config.clip_norm,
            b1=config.b1,
            b2=config.b2,
        )
        for rate in (config.generator_learning_rate, config.discriminator_learning_rate)
    )

    def keys(member: int) -> Any:
        """Of the generator, the discriminator, the run and the previews."""
        return jax.random.split(jax.random.key(config.seed + member), 4)

    labels = jnp.zeros(1, jnp.int32) if config.conditional else None
    extra = {steps.AUGMENT_PROBABILITY: config.augment_probability or 0.0}
    extra = extra if config.adaptive_augment else {}

    def init(member: int) -> state.TrainState:
        generator_key, discriminator_key, run_key, _ = keys(member)
        latents = jnp.zeros((1, config.latent_size))
        images = jnp.zeros((1, *train.images.shape[1:]))
        return state.TrainState.create(
            run_key,
            {
                "generator": state.init_net(
                    generator,
                    generator_key,
                    latents,
                    labels,
                    train=False,
                    optimizer=generator_optimizer,
                    ema=config.ema_decay is not None,
                ),
                "discriminator": state.init_net(
                    discriminator,
                    discriminator_key,
                    images,
                    labels,
                    train=False,
                    optimizer=discriminator_optimizer,
                ),
            },
            extra=extra,
        )

    checks.network_fits(config, lambda: populations.init(config, init), mesh)
    if config.penalty != "none":
        images = jnp.zeros((1, *train.images.shape[1:]))
        made = jax.eval_shape(
            lambda key: discriminator.init(key, images, labels, train=False), jax.random.key(0)
        )
        if "batch_stats" in made:
            raise UserError(
                f"--discriminator {config.discriminator} normalises over the batch, so an image "
                "has no gradient of its own to penalise; add --penalty none"
            )
    probability = augment.Adaptive() if config.adaptive_augment else config.augment_probability
    make_step = partial(
        steps.adversarial_step,
        generator,
        discriminator,
        losses.adversarial_loss(config.loss),
        generator_optimizer,
        discriminator_optimizer,
        latent_size=config.latent_size,
        conditional=config.conditional,
        discriminator_steps=config.discriminator_steps,
        augment=augment.gan_augmentation(config.augment) if config.augment else None,
        augment_probability=probability,
        ema_decay=config.ema_decay,
        micro_batches=config.micro_batches,
    )
    step: Any = populations.step(config, make_step())
    if config.penalty != "none":
        weight = config.penalty_weight * config.penalty_every
        penalised = make_step(penalty=losses.penalty(config.penalty), penalty_weight=weight)
        penalised = populations.step(config, penalised)
        lazy = config.penalty_every > 1
        step = parallel.Lazily(penalised, step, config.penalty_every) if lazy else penalised
    sample = evaluate.make_sample(
        generator, latent_size=config.latent_size, conditional=config.conditional
    )

    def preview(of: state.TrainState, folder: Path) -> None:
        for member, one in enumerate(populations.members(config, of)):
            part = folder if config.seeds == 1 else folder / populations.names(config)[member]
            preview_of_one(one, member, part)

    def preview_of_one(of: state.TrainState, member: int, folder: Path) -> None:
        columns = 10
        rows = min(dataset.num_classes, 20)
        asked: Any = np.repeat(np.arange(rows, dtype=np.int32), columns)
        images = sample(
            of.nets["generator"].averaged,
            keys(member)[3],
            asked if config.conditional else len(asked),
        )
        names = dataset.class_names[:rows] if config.conditional else None
        path = folder / f"step-{int(of.step):07}.png"
        report.image_grid(images, columns, path, row_labels=names)

    judge = judging.load_judge(config.judge, dataset, mesh) if config.judge else None

    def scores(of: state.TrainState, member: int) -> dict[str, float]:
        return judging.sample_numbers(judge, partial(samples_like, of), dataset, config.conditional)

    def samples_like(of: state.TrainState, like: np.ndarray, seed: int = 1) -> data.Split:
        variables = of.nets["generator"].averaged
        asked: Any = like if config.conditional else len(like)
        images = sample(variables, jax.random.key(seed), asked)
        return data.Split(data.to_uint8(images), like)

    task = Task(
        name=f"{config.generator} on {dataset.name}" + populations.suffix(config),
        init=lambda: populations.init(config, init),
        step=step,
        pipeline=pipeline,
        total_steps=total_steps,
        evaluate=lambda of: populations.numbers(config, of, scores),
        preview=preview,
        ranking=Ranking("frechet", higher_is_better=False) if config.keep_best and judge else None,
        warn=CollapseWatch(after_epochs=_settled(config, total_steps) / steps_per_epoch),
    )
    return Built(task, train, steps_per_epoch, sample, samples_like, judge, config.conditional)


def _settled(config: Generate, total_steps: int) -> float:
    """The step from which on a GAN that makes few different images has a problem.

    In the first 100 steps on digits the discriminator is certain of every image. And the average
    that samples are made with remembers its start, exp(-3) = 5% of it after three of its spans
    (with 0.995, 600 steps). Measured there, conditional or not: a spread of 0.03 after 92 steps,
    0.05 after 180, 0.1 after 272, 0.25 after 360, and 0.6 to 0.7 after 452; in the end 0.9 to 1.3.
    """
    span = 0.0 if config.ema_decay is None else 1 / (1 - config.ema_decay)
    return max(200.0, 0.1 * total_steps, min(3 * span, 0.9 * total_steps))


def evaluate(
    config: Generate, built: Built, dataset: DataSet, mesh: Mesh, state: TrainState, folder: Path
) -> dict[str, Any]:
    """What can be said of a trained generator: a Frechet distance, its variety, an accuracy score.

    The classifier of the accuracy score is trained in `folder`, those of a population's members in
    folders inside it.
    """

    def of_one(one: TrainState, member: int) -> dict[str, Any]:
        make = partial(built.samples_like, one)
        numbers: dict[str, Any] = dict(
            judging.sample_numbers(built.judge, make, dataset, config.conditional)
        )
        if built.judge is not None:
            numbers["frechet_judge"] = built.judge.name
            numbers["frechet_reference"] = f"{dataset.name}, test, {dataset.fingerprint[:12]}"
        if config.conditional and config.accuracy_score:
            samples = make(built.train.labels)
            assert config.score_epochs is not None
            part = folder if config.seeds == 1 else folder / populations.names(config)[member]
            seed = config.seed + member
            numbers["classification_accuracy_score"] = judging.accuracy_score(
                samples, dataset, mesh, part, epochs=config.score_epochs, seed=seed
            )
        return numbers

    return populations.numbers(config, state, of_one)


def run(config: Generate) -> Path:
    """The command."""
    from jaxnets import parallel, report
    from jaxnets.evaluate import to_look_at

    config = resolve(config)
    common.start_processes(config)
    mesh = parallel.make_mesh(config.devices)
    dataset = common.load_data(config)
    built = build(config, dataset, mesh)
    folder, result = common.start_run(
        "generate", config, dataset, built.task, mesh, built.steps_per_epoch
    )
    numbers = evaluate(config, built, dataset, mesh, result.state, folder / "accuracy_score")
    first = to_look_at(populations.member(config, result.state, None))
    if not processes.writes():
        return folder
    common.write_summary(folder, numbers, result)
    rows = [
        *judging.rows(numbers),
        ("training time, compilation included", f"{result.seconds:.0f} s"),
        ("images seen", f"{int(result.state.step) * built.task.pipeline.batch_size:,}"),
    ]
    table = report.Table(rows, header=("", "value"))
    parts = [table, *pictures.figures(built, first, dataset, folder)]
    report.html_report(folder / "report.html", built.task.name, parts)
    common.print_table(built.task.name, rows)
    print(f"  report: {folder / 'report.html'}")
    return folder
