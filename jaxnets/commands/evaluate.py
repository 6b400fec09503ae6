"""Judge a trained run again."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from jaxnets.commands import (
    checks,
    classify,
    common,
    detect,
    findings,
    generate,
    inspect,
    judging,
    pictures,
    populations,
    provenance,
    scoring,
)
from jaxnets.commands.configs import classify as classify_config
from jaxnets.commands.configs import constraints, sweeps
from jaxnets.commands.configs import detect as detect_config
from jaxnets.commands.configs import generate as generate_config
from jaxnets.commands.configs.detect import Detect
from jaxnets.commands.configs.generate import Generate
from jaxnets.commands.configs.inspect import Inspect
from jaxnets.commands.configs.reading import config_of_run, need_kind
from jaxnets.commands.configs.use import Evaluate
from jaxnets.commands.gan_step import Built
from jaxnets.commands.session import Session
from jaxnets.data import DataSet
from jaxnets.devices import parallel
from jaxnets.errors import UserError
from jaxnets.files import check_writable, write_json
from jaxnets.judge.scoring import Looks, take
from jaxnets.run.runs import read_run
from jaxnets.train.state import TrainState

#: The images of a run as they are now, the step of the state that was measured, its numbers.
_Measured = tuple[DataSet, int, Mapping[str, Any]]


def run(config: Evaluate, session: Session) -> None:
    """The command."""
    record = read_run(config.run)
    out = config.run / "evaluation.json"
    check_writable(out, "the file of the numbers")
    mesh = parallel.make_mesh(config.devices)
    if config.samples is not None and not config.metrics:
        raise UserError("--samples needs scores to take: choose some with --metrics")
    constraints.check(config)
    measures = {"classify": _classifier, "generate": _gan}
    measures |= {"inspect": _inspector, "detect": _detector}
    need_kind(config.run, record, "evaluate", tuple(measures))
    dataset, step, numbers = measures[record["experiment"]](config, record, mesh)
    why = provenance.changes(config.run, record["config"], dataset)
    if why is not None:
        print(
            f"warning: these are not the images that {config.run} was trained with: {why}",
            file=sys.stderr,
        )
    content = {"step": step, **common.finite(numbers)}
    write_json(out, content)
    print(json.dumps(content, indent=2))


def _no_gan(config: Evaluate, what: str) -> None:
    """Fails for flags that are for runs of `generate` alone."""
    for flag, value in (("--judge", config.judge), ("--metrics", config.metrics)):
        if value:
            raise UserError(f"{config.run} is {what}; {flag} is for runs of `generate`")


def _inspector(config: Evaluate, record: dict[str, Any], mesh: Mesh) -> _Measured:
    """The images of a run of `inspect`, its step and its numbers."""
    _no_gan(config, "an inspector")
    options = config_of_run(config.run, record, Inspect, lambda options: options)
    return inspect.evaluate_again(config.run, options)


def _detector(config: Evaluate, record: dict[str, Any], mesh: Mesh) -> _Measured:
    """The pictures of a run of `detect`, its step and its numbers."""
    _no_gan(config, "a detector")
    options = config_of_run(config.run, record, Detect, detect_config.resolve)
    objects = detect.read(options)
    built = detect.build(judging.for_looking(options, mesh), objects, mesh)
    state = judging.trained(config.run, built.task, mesh)
    return objects.dataset, int(state.step), built.task.evaluate(state)


def _classifier(config: Evaluate, record: dict[str, Any], mesh: Mesh) -> _Measured:
    """The images of a run of `classify`, its step and its numbers."""
    _no_gan(config, "a classifier")
    options = config_of_run(config.run, record, classify_config.Classify, classify_config.resolve)
    dataset = common.load_data(options, options.data)
    built = classify.build(judging.for_looking(options, mesh), dataset, mesh)
    state = judging.trained(config.run, built.task, mesh)
    numbers = built.task.evaluate(state)
    test = dataset.splits["test"]
    judged = [
        built.judge(member, test)
        for member in populations.members(options, state)
        if not populations.has_diverged(member)
    ]
    numbers = {**numbers, "classes": findings.class_numbers(judged, dataset.class_names)}
    for sentence in sweeps.winners(options, populations.names(options), numbers)[1]:
        print(sentence, file=sys.stderr)
    return dataset, int(state.step), numbers


def _gan(config: Evaluate, record: dict[str, Any], mesh: Mesh) -> _Measured:
    """The images of a run of `generate`, its step and its numbers."""
    gan = config_of_run(config.run, record, Generate, generate_config.read_again)
    judge = config.judge if config.judge is not None else gan.judge
    if judge is None and gan.data in generate_config.SHIPPED_JUDGES:
        judge = generate_config.SHIPPED
    gan = dataclasses.replace(gan, judge=judge, accuracy_score=config.accuracy_score)
    names = scoring.names_of(config.metrics, conditional=gan.conditional)
    if names and gan.cnn is None:
        raise UserError("--metrics needs a CNN to look at samples: name its run with --judge")
    if gan.cnn is None and not (gan.conditional and gan.accuracy_score):
        raise UserError("there is nothing to measure: name a classifier's run with --judge")
    dataset = common.load_data(gan, gan.data)
    if config.samples is not None:
        shape = dataset.splits["test"].inputs.shape[1:]
        checks.images_fit(config.samples, shape, per_value=2, per_image=checks.SCORED)
    # It will not be trained here; and what the run asked of its judge may not suit another.
    own = gan.metrics if config.judge is None else ""
    best_by = gan.best_by if config.judge is None else "frechet"
    looked = dataclasses.replace(judging.for_looking(gan, mesh), metrics=own, best_by=best_by)
    built = generate.build(looked, dataset, mesh)
    if built.judge is not None:
        names = scoring.names_for(names, built.judge, dataset, every=config.metrics == "all")
    state = judging.trained(config.run, built.task, mesh, best_by=gan.best_by)
    folder = config.run / f"accuracy_score-step-{int(state.step)}"
    numbers = generate.evaluate_generator(gan, built, dataset, mesh, state, folder)
    scores = _scores(config, names, gan, built, dataset, mesh, state)
    for sentence in sweeps.winners(gan, populations.names(gan), numbers)[1]:
        print(sentence, file=sys.stderr)
    return dataset, int(state.step), {**numbers, "scores": scores} if scores else numbers


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
    if not names:
        return []
    assert built.judge is not None
    labels = dataset.splits["test"].target
    if config.samples is not None:
        labels = scoring.labels_like(labels, config.samples)
    records, several, said = [], populations.size(gan) > 1, set[str]()
    members = zip(
        populations.names(gan), built.trains, populations.members(gan, state), strict=True
    )
    for name, train, member in members:
        if several and populations.has_diverged(member):
            continue
        samples = built.samples_like(member, labels)
        looks = Looks(built.judge, samples, dataset, train, gan.conditional)
        # A score that is asked for alone is an error where it can't be.
        alone = len(names) == 1
        for score in take(names, looks) if alone else scoring.taken(names, looks, said):
            print(f"{name}: {score}" if several else score, file=sys.stderr)
            of_member = {"member": name} if several else {}
            records.append(common.finite({**score.record(), **of_member}))
        if "memorisation" in names and "memorisation" not in said:
            path = config.run / "samples" / f"nearest{f'-{name}' if several else ''}.png"
            near = pictures.nearest(looks, path, built.trained(member).facts)
            print(f"nearest training images: {near}", file=sys.stderr)
    return records
