"""Judge a trained run again."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from experiments import checks, common, provenance


@dataclasses.dataclass(frozen=True)
class Evaluate(common.CacheOptions):
    """Measure a run's networks on the test images; prints the numbers, and keeps them as JSON."""

    run: common.PositionalRun
    """Folder of a `classify` or `generate` run."""
    judge: Path | None = None
    """For a GAN: folder of a `classify` run whose features measure Frechet distances."""
    accuracy_score: bool = True
    """For a conditional GAN: train a CNN on samples only and test it on real images."""


def run(config: Evaluate) -> None:
    """The command."""
    from experiments import classify, generate, judging
    from jaxnets import parallel
    from jaxnets.errors import UserError
    from jaxnets.files import check_writable, write_json
    from jaxnets.runs import read_run

    found = read_run(config.run)
    out = config.run / "evaluation.json"
    check_writable(out, "the file of the numbers")
    mesh = parallel.make_mesh(1)
    if found["experiment"] == "classify":
        if config.judge is not None:
            raise UserError(f"{config.run} is a classifier; --judge is for runs of `generate`")
        options = checks.config_of_run(config.run, found, classify.Classify, classify.resolve)
        dataset = common.load_data(options)
        built = classify.build(options, dataset, mesh)
        built.task.pipeline.close()
        state = judging.trained(config.run, parallel.replicate(built.task.init(), mesh))
        numbers = built.task.evaluate(state)
    elif found["experiment"] == "generate":
        gan = checks.config_of_run(config.run, found, generate.Generate, generate.resolve)
        judge = config.judge if config.judge is not None else gan.judge
        gan = dataclasses.replace(gan, judge=judge, accuracy_score=config.accuracy_score)
        if judge is None and not (gan.conditional and gan.accuracy_score):
            raise UserError("there is nothing to measure: name a classifier's run with --judge")
        dataset = common.load_data(gan)
        maker = generate.build(gan, dataset, mesh)
        maker.task.pipeline.close()
        like = parallel.replicate(maker.task.init(), mesh)
        state = judging.trained(config.run, like, higher_is_better=False)
        folder = config.run / f"accuracy_score-step-{int(state.step)}"
        numbers = generate.evaluate(gan, maker, dataset, mesh, state, folder)
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
    write_json(out, content)
    print(json.dumps(content, indent=2))
