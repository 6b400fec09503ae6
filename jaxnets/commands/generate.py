"""Train a generative adversarial network to make images."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxnets.commands import (
    checks,
    common,
    gan_step,
    judging,
    looking,
    pictures,
    populations,
    processes,
    scoring,
)
from jaxnets.commands.configs import ramps, sweeps
from jaxnets.commands.configs.generate import Generate, resolve

if TYPE_CHECKING:
    import numpy as np
    from jax.sharding import Mesh

    from jaxnets.data import DataSet, Split
    from jaxnets.evaluate import Sample
    from jaxnets.scoring import Judge
    from jaxnets.state import TrainState
    from jaxnets.task import Task


@dataclasses.dataclass(frozen=True)
class Built:
    """A GAN's task and what belongs to it."""

    task: Task
    #: of each member, the images that it is trained on
    trains: Sequence[Split]
    steps_per_epoch: float
    sample: Sample
    #: (state, labels [N][, seed]) -> one generated image for each label, as a split
    samples_like: Callable[..., Split]
    #: (state, number of the member) -> what is measured of one GAN at every evaluation
    scores: Callable[[TrainState, int], dict[str, Any]]
    judge: Judge | None
    #: names of the further scores by the judge
    metrics: Sequence[str]
    conditional: bool

    @property
    def train(self) -> Split:
        """The images that the first, or only, member is trained on."""
        return self.trains[0]


def build(config: Generate, dataset: DataSet, mesh: Mesh) -> Built:
    """Turns a resolved config and a data set into a task for the loop."""
    import jax
    import numpy as np

    from jaxnets import data, evaluate, parallel
    from jaxnets.guard import CollapseWatch
    from jaxnets.task import Ranking, Task

    assert config.batch_size and config.epochs
    common.check_batch(config.batch_size, mesh, config.micro_batches)
    trains = [dataset.splits["train"]] * populations.size(config)
    if config.labels_per_class is not None:
        trains = [
            data.take_per_class(dataset.splits["train"], config.labels_per_class, seed)
            for seed in populations.seeds(config)
        ]
    train = trains[0]
    whole_batch = config.step_images
    pipeline = populations.pipeline(config, trains, whole_batch, mesh)
    steps_per_epoch = len(train) / whole_batch
    total_steps = checks.total_steps(config.epochs, steps_per_epoch)
    assert config.score_epochs is not None
    checks.total_steps(config.score_epochs, len(train), "score-epochs")

    nets = gan_step.networks(config, dataset)
    generator, discriminator = nets
    shape = train.inputs.shape[1:]

    def keys(member: int) -> Any:
        """Of the generator, the discriminator, the run and the previews."""
        return jax.random.split(jax.random.key(populations.seeds(config)[member]), 4)

    init = gan_step.first_state(config, nets, shape, total_steps, keys)
    checks.network_fits(config, lambda: populations.init(config, init), mesh)
    gan_step.check_penalty(config, discriminator, shape)
    matched = gan_step.features_to_match(config, dataset, mesh)
    step = gan_step.whole_step(config, gan_step.maker(config, nets, total_steps, matched))
    sample = evaluate.make_sample(
        generator, latent_size=common.given(config.latent_size), conditional=config.conditional
    )

    def preview(of: TrainState, folder: Path) -> None:
        for member, one in enumerate(populations.members(config, of)):
            preview_of_one(one, member, populations.folder_of(config, member, folder))

    def preview_of_one(of: TrainState, member: int, folder: Path) -> None:
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
        about = pictures.facts(f"{config.generator} on {dataset.name}", dataset, of)
        pictures.preview(path, images, columns, about, row_labels=names)

    judge = judging.load_judge(config.judge, dataset, mesh) if config.judge else None

    names = scoring.names_of(config.metrics, conditional=config.conditional)
    if judge is not None:
        names = scoring.names_for(names, judge, dataset, every=config.metrics == "all")
        if config.best_by not in ("frechet", *names):
            judge.need_classes(dataset)
    if config.sweep and judge is not None:
        names = list(dict.fromkeys([*names, "precision", "recall"]))

    def scores(of: TrainState, member: int) -> dict[str, float]:
        return judging.sample_numbers(
            judge,
            partial(samples_like, of),
            dataset,
            config.conditional,
            metrics=names,
            train=trains[member],
            mesh=parallel.own_mesh(mesh),
        )

    def samples_like(of: TrainState, like: np.ndarray, seed: int = 1) -> data.Split:
        variables = of.nets["generator"].averaged
        asked: Any = like if config.conditional else len(like)
        return data.Split(sample(variables, jax.random.key(seed), asked, as_bytes=True), like)

    better = scoring.HIGHER_IS_BETTER[config.best_by]
    ranking = Ranking(scoring.number_name(config.best_by), higher_is_better=better)
    task = Task(
        name=f"{config.generator} on {dataset.name}" + populations.suffix(config),
        init=lambda: populations.init(config, init),
        step=step,
        pipeline=pipeline,
        total_steps=total_steps,
        evaluate=lambda of: populations.numbers(config, of, scores),
        preview=preview,
        ranking=ranking if config.keep_best and judge else None,
        warn=CollapseWatch(
            after_epochs=_settled(config, total_steps) / steps_per_epoch,
            usual=["discriminator wins"] if config.loss == "wasserstein" else [],
        ),
    )
    return Built(
        task,
        trains,
        steps_per_epoch,
        sample,
        samples_like,
        scores,
        judge,
        names,
        config.conditional,
    )


def need_every_class(dataset: DataSet) -> None:
    """Fails for classes that no training image has: the networks would be asked for them."""
    from jaxnets.data import missing_classes
    from jaxnets.errors import UserError

    missing = missing_classes(dataset.splits["train"], dataset.class_names)
    if missing:
        raise UserError(
            f"{dataset.name} has no training image of {', '.join(missing)}, so no generator can "
            "learn to make one: leave these classes out of the data, or classes altogether with "
            "--no-conditional"
        )


def _settled(config: Generate, total_steps: int) -> float:
    """The step from which on a GAN that makes few different images has a problem.

    In the first 100 steps on digits the discriminator is certain of every image. And the average
    that samples are made with may remember its start: exp(-3) = 5% of it after three of its spans.
    A warm-up of its half-life to a twentieth of the images seen leaves nothing of it after a few
    steps.
    """
    span = 0.0
    if gan_step.keeps_average(config) and config.ema_warmup == 0:
        assert config.ema_half_life is not None and config.batch_size
        images = config.step_images
        span = max(ramps.ends(config.ema_half_life, "ema-half-life")) / images / math.log(2)
    return max(200.0, 0.1 * total_steps, min(3 * span, 0.9 * total_steps))


def evaluate(
    config: Generate, built: Built, dataset: DataSet, mesh: Mesh, state: TrainState, folder: Path
) -> dict[str, Any]:
    """What can be said of a trained generator: a Frechet distance, its variety, an accuracy score.

    The classifier of the accuracy score is trained in `folder`, those of a population's members in
    folders inside it.
    """
    from jaxnets import metrics

    def of_one(one: TrainState, member: int) -> dict[str, Any]:
        numbers = dict(built.scores(one, member))
        if built.judge is not None:
            numbers["frechet_judge"] = built.judge.name
            width = built.judge.kept(dataset.splits["test"])[1].shape[1]
            note = metrics.estimate_note(numbers["frechet_samples"], width)
            if note is not None:
                numbers["frechet_note"] = note
            numbers["frechet_reference"] = f"{dataset.name}, test, {dataset.fingerprint[:12]}"
        if config.conditional and config.accuracy_score:
            samples = built.samples_like(one, built.train.target)
            assert config.score_epochs is not None
            part = populations.folder_of(config, member, folder)
            seed = populations.seeds(config)[member]
            numbers["classification_accuracy_score"] = judging.accuracy_score(
                samples, dataset, mesh, part, epochs=config.score_epochs, seed=seed
            )
            numbers["accuracy_score_of"] = judging.taught_by(
                samples, dataset, mesh, config.score_epochs
            )
        return numbers

    return populations.numbers(config, state, of_one)


def run(config: Generate) -> Path:
    """The command."""
    from jaxnets import distributed, parallel, report
    from jaxnets.evaluate import to_look_at

    config = resolve(config)
    common.start_processes(config)
    mesh = parallel.make_mesh(config.devices)
    dataset = common.load_data(config)
    if config.conditional:
        need_every_class(dataset)
    built = build(config, dataset, mesh)
    folder, result = common.start_run(
        "generate", config, dataset, built.task, mesh, built.steps_per_epoch
    )
    numbers = evaluate(config, built, dataset, mesh, result.state, folder / "accuracy_score")
    member, why = distributed.agree(sweeps.best_member(config, populations.names(config), numbers))
    first = populations.member(config, result.state, member)
    wanted = config.pictures or (built.metrics and populations.size(config) == 1)
    looks = looking.seen(built, first, dataset, member) if wanted else None
    first = to_look_at(first)
    if not processes.writes():
        return folder
    records, scored = judging.records(config, built.metrics, numbers, looks)
    common.write_summary(folder, {**numbers, **records}, result)
    rows = [
        *judging.rows(numbers),
        *scored,
        ("training time, compilation included", f"{result.seconds:.0f} s"),
        ("images seen", f"{int(result.state.step) * built.task.pipeline.batch_size:,}"),
    ]
    parts: list[Any] = [report.Table(rows, header=("", "value"))]
    compared: list[str] = []
    if config.sweep:
        (header, *values), compared = sweeps.winners(config, populations.names(config), numbers)
        parts += [report.Table(values, header=header), report.Text(why)]
        compared.append(why)
        rows += [(f"{header[0]} = {value[0]}", ", ".join(value[1:])) for value in values]
    parts = [*parts, *pictures.figures(built, first, dataset, folder)]
    if config.pictures:
        parts += looking.figures(config, built, first, dataset, folder, looks)
    report.html_report(folder / "report.html", built.task.name, parts)
    common.print_table(built.task.name, rows)
    for sentence in compared:
        print(f"  {sentence}")
    print(f"  report: {folder / 'report.html'}")
    return folder
