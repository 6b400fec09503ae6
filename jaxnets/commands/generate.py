"""Train a generative adversarial network to make images."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxnets import data
from jaxnets.commands import (
    checks,
    common,
    estimate,
    gan_step,
    judging,
    pictures,
    populations,
    scoring,
    starting,
    teaching,
    training,
)
from jaxnets.commands.configs import presets, sweeps
from jaxnets.commands.configs.constraints import ends
from jaxnets.commands.configs.generate import Generate, resolve
from jaxnets.commands.configs.options import given
from jaxnets.commands.gan_step import Built
from jaxnets.commands.history import History
from jaxnets.commands.session import Session
from jaxnets.data import DataSet, Split
from jaxnets.errors import UserError
from jaxnets.files import write_files
from jaxnets.judge import evaluate, sampling
from jaxnets.judge.scoring import Judge, Looks
from jaxnets.media import provenance, report
from jaxnets.processes import distributed
from jaxnets.run.guard import CollapseWatch
from jaxnets.run.task import Ranking
from jaxnets.run.trained import TrainedGenerator
from jaxnets.train.state import TrainState

#: Samples of a class in a preview, and of how many classes at most.
_PREVIEWED, _PREVIEWED_CLASSES = 10, 20


def build(config: Generate, dataset: DataSet, mesh: Mesh) -> Built:
    """Turns a resolved config and a data set into a task for the loop."""
    if dataset.columns["inputs"].kind != "image":
        raise UserError(f"generate makes images, and {config.data} holds none")
    checks.check_batch(given(config.batch_size), mesh, config.micro_batches)
    seeds = populations.seeds(config)
    trains = [training.labelled(config, dataset.splits["train"], seed) for seed in seeds]
    feed = training.make_feed(config, trains, config.step_images, mesh)
    checks.total_steps(given(config.score_epochs), len(trains[0]), "score_epochs")
    description = gan_step.describe(config, dataset)
    teacher = teaching.load(config, dataset)
    nets = gan_step.networks(config, dataset, teacher)
    shape = trains[0].inputs.shape[1:]
    keys = partial(_keys, config)
    classes = description.network["num_classes"]
    start = starting.begin(config, None, ["generator", "discriminator"], classes)
    init = gan_step.first_state(config, nets, shape, feed.total_steps, keys, start)
    checks.network_fits(config, lambda: populations.init(config, init), mesh)
    gan_step.check_penalty(config, nets[1], shape)
    step = gan_step.whole_step(config, gan_step.maker(config, nets, feed.total_steps, teacher))
    sample = sampling.make_sample(
        nets[0], latent_size=given(config.latent_size), conditional=config.conditional
    )
    judge = judging.load_judge(config.cnn, dataset, mesh) if config.cnn else None
    if teacher is not None:
        teacher.check_judge(judge)
    names, said = _metrics(config, judge, dataset), set[str]()

    def samples_like(of: TrainState, like: np.ndarray, seed: int = 1) -> Split:
        variables = of.nets["generator"].averaged
        asked: Any = like if config.conditional else len(like)
        return Split(sample(variables, jax.random.key(seed), asked, as_bytes=True), like)

    def scores(of: TrainState, member: int) -> dict[str, float]:
        return judging.sample_numbers(
            judge,
            partial(samples_like, of),
            dataset,
            config.conditional,
            metrics=names,
            train=trains[member],
            said=said,
        )

    task = training.make_task(
        config,
        f"{config.generator} on {dataset.name}",
        feed,
        init,
        step,
        scores,
        preview=partial(
            _preview,
            config,
            dataset.class_names,
            sample,
            partial(gan_step.trained, description, nets[0]),
        ),
        **_told(config, judge),
        warn=CollapseWatch(
            after_epochs=_settled(config, feed.total_steps) / feed.steps_per_epoch,
            usual=["discriminator wins"] if config.loss == "wasserstein" else [],
        ),
    )
    return Built(
        task,
        description,
        trains,
        feed.steps_per_epoch,
        nets[0],
        sample,
        samples_like,
        scores,
        judge,
        names,
        config.conditional,
        start and start.telling(init),
        teacher,
    )


def _told(config: Generate, judge: Judge | None) -> dict[str, Any]:
    """What tells states apart and what a line of progress shows: fields of the task."""
    score = scoring.number_name(config.best_by) if judge else "samples_pixel_spread"
    shown = {"g_loss": "generator loss", "d_loss": "discriminator loss"}
    better = scoring.HIGHER_IS_BETTER[config.best_by]
    ranking = Ranking(score, higher_is_better=better) if judge else None
    return {
        "shown": {**shown, score: sweeps.MEASURES.get(score, config.best_by)},
        "headline": ranking,
        "ranking": ranking if config.keep_best else None,
    }


def _keys(config: Generate, member: int) -> jax.Array:
    """A member's keys: of the generator, the discriminator, the run and the previews."""
    return jax.random.split(jax.random.key(populations.seeds(config)[member]), 4)


def _metrics(config: Generate, judge: Judge | None, dataset: DataSet) -> list[str]:
    """The names of the further scores that are taken at every evaluation."""
    names = scoring.names_of(config.metrics, conditional=config.conditional)
    if config.best_by not in ("frechet", *names):
        raise UserError(
            f"--best-by {config.best_by} is not measured: choose frechet, or one of --metrics"
        )
    if config.best_by not in scoring.HIGHER_IS_BETTER:
        raise UserError(
            f"--best-by {config.best_by} does not say which state is better: choose from "
            f"{', '.join(scoring.HIGHER_IS_BETTER)}"
        )
    if judge is None:
        return names
    names = scoring.names_for(names, judge, dataset, every=config.metrics == "all")
    if config.best_by not in ("frechet", *names):
        judge.need_classes(dataset)
    return list(dict.fromkeys([*names, "precision", "recall"])) if config.sweep else names


#: The preset that had the best samples after ten minutes on a CPU.
_FAST = "sngan_small"


def _faster(
    asked: Generate, config: Generate, dataset: DataSet, mesh: Mesh
) -> estimate.Faster | None:
    """The same with small networks in place of those of a paper, by what their step takes."""
    if given(config.preset).endswith("_small") or distributed.count() > 1:
        return None
    try:  # streamed: the device holds the images already
        small = dataclasses.replace(asked, preset=_FAST, generator=None, memory_budget_mb=0)
        task = build(suited(small, resolve(small), dataset), dataset, mesh).task
        return f"--preset {_FAST}", estimate.measured(task, mesh, config.steps_per_call)
    except (UserError, jax.errors.JaxRuntimeError):
        return None  # the flags suit no other networks, or there is no memory for them


def _preview(
    config: Generate,
    names: Sequence[str],
    sample: sampling.Sample,
    trained: Callable[[TrainState], TrainedGenerator],
    of: TrainState,
    folder: Path,
) -> dict[str, Path]:
    """Writes a grid of each member's samples, a row for each class; `names` are the classes'."""
    written = {}
    classes = min(len(names), _PREVIEWED_CLASSES)
    labels: Any = np.repeat(np.arange(classes, dtype=np.int32), _PREVIEWED)
    for number, member in enumerate(populations.members(config, of)):
        images = sample(
            member.nets["generator"].averaged,
            _keys(config, number)[3],
            labels if config.conditional else len(labels),
        )
        rows = names[:classes] if config.conditional else None
        place = populations.folder_of(config, number, folder)
        path = place / f"step-{int(member.step):07}.png"
        grid = report.grid_png(images, _PREVIEWED, row_labels=rows)
        write_files({path: provenance.mark(grid, trained(member).facts)})
        written[str(populations.folder_of(config, number, Path("samples")))] = path
    return written


def need_every_class(dataset: DataSet) -> None:
    """Fails for a single class, and for classes that no training image has."""
    if dataset.num_classes < 2:
        raise UserError(
            f"{dataset.name} has {checks.one_class(dataset)}: add --no-conditional, which makes "
            "images without telling classes apart"
        )
    missing = data.missing_classes(dataset.splits["train"], dataset.class_names)
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
        longest = max(ends(given(config.ema_half_life), "ema_half_life"))
        span = longest / config.step_images / math.log(2)
    return max(200.0, 0.1 * total_steps, min(3 * span, 0.9 * total_steps))


def evaluate_generator(
    config: Generate, built: Built, dataset: DataSet, mesh: Mesh, state: TrainState, folder: Path
) -> dict[str, Any]:
    """What can be said of a trained generator: a Frechet distance, its variety, an accuracy score.

    The classifier of the accuracy score is trained in `folder`, those of a population's members in
    folders inside it.
    """

    def of_one(one: TrainState, member: int) -> dict[str, Any]:
        numbers = dict(built.scores(one, member))
        if built.judge is not None and "frechet_samples" in numbers:
            numbers["frechet_judge"] = built.judge.name
            note = judging.worth(built.judge, dataset, numbers["frechet_samples"])
            if note is not None:
                numbers["frechet_note"] = note
            numbers["frechet_reference"] = judging.tested_on(dataset)
        if config.conditional and config.accuracy_score:
            samples = built.samples_like(one, built.train.target)
            epochs = given(config.score_epochs)
            part = populations.folder_of(config, member, folder)
            seed = populations.seeds(config)[member]
            numbers["classification_accuracy_score"] = judging.accuracy_score(
                samples, dataset, mesh, part, epochs=epochs, seed=seed
            )
            numbers["accuracy_score_of"] = judging.taught_by(samples, dataset, mesh, epochs)
        return numbers

    return populations.numbers(config, state, of_one)


def suited(asked: Generate, config: Generate, dataset: DataSet) -> Generate:
    """The config with the batch, epochs, augmentation and widths that suit the images.

    Args:
      asked: what the user said, which stays.
      config: that, resolved.
      dataset: the images.
    """
    images, changes = len(dataset.splits["train"]), {}
    if asked.batch_size is None and config.labels_per_class is None:
        changes["batch_size"] = training.fitting_batch(config, given(config.batch_size), images, 1)
    if asked.epochs is None and asked.preset is None and config.data not in presets.DATA:
        most = round(max(1.0, presets.SEEN / images), 1)
        changes["epochs"] = min(given(config.epochs), most)
    own = config.data not in presets.DATA and asked.preset is None
    if asked.augment is None and not config.augment and own and images < presets.FEW:
        changes["augment"] = presets.OWN_AUGMENT
    sides = dataset.columns["inputs"].shape[:2]
    if all(24 < side <= 32 for side in sides) and _left_to_preset(asked):
        changes |= presets.small_widths(given(config.preset))
        if config.teach == "project":
            changes["discriminator_widths"] = None
    return dataclasses.replace(config, **changes)


def _left_to_preset(asked: Generate) -> bool:
    """Whether the user has said nothing of how large the networks are."""
    names = ("width", "generator_widths", "discriminator_widths", "discriminator")
    return all(getattr(asked, name) is None for name in names)


def _seen(config: Generate, dataset: DataSet) -> str:
    """What is done to images before the discriminator sees them, and a teacher."""
    text = "images are not augmented"
    if config.augment:
        text = f"the discriminator sees real and generated images augmented: {config.augment}"
    return "; ".join(filter(None, [text, teaching.told(config, dataset)]))


def _build_checked(config: Generate, dataset: DataSet, mesh: Mesh) -> Built:
    if config.conditional:
        need_every_class(dataset)
    return build(config, dataset, mesh)


def run(config: Generate, session: Session) -> Path:
    """The command; gives the run's folder."""
    asked, config = config, resolve(config)
    suit, faster = partial(suited, asked), partial(_faster, asked)
    done = training.train("generate", config, _build_checked, session, suit, _seen, faster)
    config, built, dataset, result = done.config, done.built, done.dataset, done.result
    numbers = evaluate_generator(
        config, built, dataset, done.mesh, result.state, done.folder / "accuracy_score"
    )
    names, looks = populations.names(config), None
    member = distributed.agree(sweeps.best_member(config, names, numbers)[0])
    first = populations.member(config, result.state, member)
    if built.judge is not None and (config.pictures or (built.metrics and len(names) == 1)):
        samples = built.samples_like(first, dataset.splits["test"].target)
        looks = Looks(built.judge, samples, dataset, built.trains[member], built.conditional)
        _ = looks.made, looks.real, looks.trained  # kept; each is made by all processes together
    first = evaluate.to_look_at(first)
    if distributed.writes():
        numbers |= judging.records(config, built.metrics, looks)
        common.write_summary(done.folder, numbers, result)
        pictures.write(History(done.folder, config), built.trained(first), dataset, looks)
    return done.folder
