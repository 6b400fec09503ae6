"""What the scores of generated images cost: seconds of each, features included, and memory."""

from __future__ import annotations

import dataclasses
import time
from functools import partial
from typing import Any

import numpy as np

from experiments.benchmarks import report
from experiments.benchmarks.configs import Scores
from jaxnets.commands import checks, classify, common, judging, memory
from jaxnets.commands.configs.classify import Classify, resolve
from jaxnets.commands.configs.options import DataOptions, given
from jaxnets.data import DataSet, Split
from jaxnets.devices import parallel
from jaxnets.errors import UserError
from jaxnets.judge import evaluate
from jaxnets.judge.scoring import METRICS, Judge, Looks, take


def run(config: Scores) -> dict[str, Any]:
    """The benchmark: seconds of each score in both rounds, and the most memory of the process."""
    report.begin(config)
    mesh = parallel.make_mesh(config.devices)
    dataset = common.load_data(DataOptions(), config.data)
    train = dataset.splits["train"]
    if config.samples > len(train):
        raise UserError(
            f"--samples must be at most the {len(train)} training images of {dataset.name}, got "
            f"{config.samples}"
        )
    memory.check_fits(
        checks.SCORED * config.samples, memory.host_available(), "scoring so many images"
    )
    judge = _judge(config, dataset, mesh)
    samples = train.take(np.arange(config.samples))
    first, second = (_round(judge, samples, dataset) for _ in range(2))
    numbers = {
        "data": dataset.name,
        "samples": config.samples,
        "real": len(dataset.splits["test"]),
        "features": judge.features(train.take(np.arange(1))).shape[1],
        "first": first,
        "second": second,
        "peak_bytes": memory.process_peak(),
    }
    return report.end(config, numbers)


def _judge(config: Scores, dataset: DataSet, mesh: Any) -> Judge:
    """The data's default classifier, as it begins."""
    options = resolve(Classify(data=config.data))
    built = classify.build(judging.for_looking(options, mesh), dataset, mesh)
    built.task.pipeline.close()
    variables = parallel.replicate(built.task.init(), mesh).nets["classifier"].averaged
    predict = evaluate.make_predict(built.model, mesh)
    network = given(options.network)
    return Judge(partial(predict, variables), network, "untrained", knows_classes=True)


def _round(judge: Judge, samples: Split, dataset: DataSet) -> dict[str, float]:
    """Seconds of the features of samples, test and training images, of each score, and of all.

    Precision, recall, density and coverage are of one pass over all pairs, which the first pays.
    """
    judge = dataclasses.replace(judge)  # which has looked at nothing
    train = dataset.splits["train"]
    looks = Looks(judge, samples, dataset, train, True)
    steps: dict[str, Any] = {
        "features of samples": lambda: looks.made,
        "features of test images": lambda: looks.real,
        "features of training images": lambda: looks.trained,
        **{name: partial(take, [name], looks) for name in METRICS},
    }
    seconds = {}
    for name, step in steps.items():
        begin = time.perf_counter()
        step()
        seconds[name] = round(time.perf_counter() - begin, 3)
    return {**seconds, "all": round(sum(seconds.values()), 3)}
