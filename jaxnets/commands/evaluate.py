"""Judge a trained run again."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from jaxnets.commands import checks, common, populations, provenance
from jaxnets.commands.configs import constraints, sweeps
from jaxnets.commands.configs.constraints import Range

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from jaxnets.commands.generate import Built, Generate
    from jaxnets.data import DataSet
    from jaxnets.state import TrainState

#: More are not needed by any metric, and would not fit into memory with their neighbours.
_MAX_SAMPLES = 1_000_000


@dataclasses.dataclass(frozen=True)
class Evaluate(common.CacheOptions):
    """Measure a run's networks on the test images; prints the numbers, and keeps them as JSON."""

    run: common.PositionalRun
    """Folder of a `classify` or `generate` run."""
    judge: Path | None = None
    """For a GAN: folder of a `classify` run whose features measure Frechet distances."""
    accuracy_score: bool = True
    """For a conditional GAN: train a CNN on samples only and test it on real images."""
    metrics: str = ""
    """For a GAN with a judge, more scores of its samples, separated by commas, or all of them:
    frechet, kid, precision, recall, density, coverage, inception, intra_class, recognised,
    memorisation (which also shows the samples nearest to training images). Each is kept with all
    that it takes to compare it: the CNN and its weights, the real images, how many there were."""
    samples: Annotated[int | None, Range(least=1, most=_MAX_SAMPLES)] = None
    """How many samples --metrics takes; by default as many as there are test images."""
    devices: int | None = None
    """How many devices share the work; by default all."""


def run(config: Evaluate) -> None:
    """The command."""
    from jaxnets import parallel
    from jaxnets.commands import classify, generate, judging, scoring
    from jaxnets.commands.configs import generate as gan_config
    from jaxnets.errors import UserError
    from jaxnets.files import check_writable, write_json
    from jaxnets.runs import read_run

    found = read_run(config.run)
    out = config.run / "evaluation.json"
    check_writable(out, "the file of the numbers")
    mesh = parallel.make_mesh(config.devices)
    scores: list[dict[str, Any]] = []
    if config.samples is not None and not config.metrics:
        raise UserError("--samples is of --metrics: say which")
    constraints.check(config)
    if found["experiment"] == "classify":
        if config.judge is not None:
            raise UserError(f"{config.run} is a classifier; --judge is for runs of `generate`")
        if config.metrics:
            raise UserError(f"{config.run} is a classifier; --metrics is for runs of `generate`")
        options = checks.config_of_run(config.run, found, classify.Classify, classify.resolve)
        dataset = common.load_data(options)
        built = classify.build(judging.for_looking(options, mesh), dataset, mesh)
        built.task.pipeline.close()
        state = judging.trained(config.run, parallel.replicate(built.task.init(), mesh))
        numbers = built.task.evaluate(state)
    elif found["experiment"] == "generate":
        gan = checks.config_of_run(config.run, found, gan_config.Generate, gan_config.read_again)
        judge = config.judge if config.judge is not None else gan.judge
        gan = dataclasses.replace(gan, judge=judge, accuracy_score=config.accuracy_score)
        names = scoring.names_of(config.metrics, conditional=gan.conditional)
        if names and judge is None:
            raise UserError("--metrics needs a CNN to look at samples: name its run with --judge")
        if judge is None and not (gan.conditional and gan.accuracy_score):
            raise UserError("there is nothing to measure: name a classifier's run with --judge")
        dataset = common.load_data(gan)
        if config.samples is not None:
            shape = dataset.splits["test"].inputs.shape[1:]
            checks.images_fit(config.samples, shape, per_value=2, per_image=checks.SCORED)
        # It will not be trained here; and what the run asked of its judge may not suit another.
        own = gan.metrics if config.judge is None else ""
        looked = dataclasses.replace(judging.for_looking(gan, mesh), metrics=own)
        maker = generate.build(looked, dataset, mesh)
        if maker.judge is not None:
            names = scoring.names_for(names, maker.judge, dataset, every=config.metrics == "all")
        maker.task.pipeline.close()
        like = parallel.replicate(maker.task.init(), mesh)
        state = judging.trained(config.run, like, best_by=gan.best_by)
        folder = config.run / f"accuracy_score-step-{int(state.step)}"
        numbers = generate.evaluate(gan, maker, dataset, mesh, state, folder)
        scores = _scores(config, names, gan, maker, dataset, mesh, state)
        if gan.sweep:
            for sentence in sweeps.winners(gan, populations.names(gan), numbers)[1]:
                print(sentence, file=sys.stderr)
    else:
        raise UserError(
            f"{config.run} is a run of `{found['experiment']}`; `evaluate` takes those of "
            "`classify` and `generate`"
        )
    why = provenance.changes(config.run, found["config"], dataset)
    if why is not None:
        print(
            f"warning: these are not the images that {config.run} was trained with: {why}",
            file=sys.stderr,
        )
    content = {"step": int(state.step), **common.finite(numbers)}
    if scores:
        content["scores"] = [common.finite(score) for score in scores]
    write_json(out, content)
    print(json.dumps(content, indent=2))


def _scores(
    config: Evaluate,
    names: list[str],
    gan: Generate,
    built: Built,
    dataset: DataSet,
    mesh: Mesh,
    state: TrainState,
) -> list[dict[str, Any]]:
    """The records of the scores that --metrics names, those of a population's members in turn."""
    from jaxnets.commands import pictures, scoring
    from jaxnets.scoring import Looks, take

    if not names:
        return []
    assert built.judge is not None
    labels = dataset.splits["test"].target
    if config.samples is not None:
        labels = scoring.labels_like(labels, config.samples)
    records = []
    members = zip(
        populations.names(gan), built.trains, populations.members(gan, state), strict=True
    )
    for called, train, member in members:
        if populations.size(gan) > 1 and populations.has_diverged(member):
            continue
        samples = built.samples_like(member, labels)
        looks = Looks(built.judge, samples, dataset, train, gan.conditional, mesh)
        name = f"{called}: " if populations.size(gan) > 1 else ""
        for score in take(names, looks):
            print(f"{name}{score}", file=sys.stderr)
            records.append({**score.record(), **({"member": called} if name else {})})
        if "memorisation" in names:
            part = f"-{called}" if name else ""
            path = config.run / "samples" / f"nearest{part}.png"
            about = pictures.facts(built.task.name, dataset, member)
            print(
                f"nearest training images: {pictures.nearest(looks, path, about)}", file=sys.stderr
            )
    return records
