"""What the scores of generated images cost: seconds of each, features included, and memory."""

from __future__ import annotations

import dataclasses
import json
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from jaxnets.commands import checks, common
from jaxnets.commands.configs import constraints
from jaxnets.commands.configs.constraints import COUNT
from jaxnets.commands.configs.options import DataOptions
from jaxnets.errors import UserError

if TYPE_CHECKING:
    from jaxnets.data import DataSet, Split
    from jaxnets.scoring import Judge


@dataclasses.dataclass(frozen=True)
class Scores:
    """Time every score of `evaluate --metrics`, of as many images, compared with as many.

    Training images stand for samples, and the network of `classify` is not trained: neither changes
    what the scores cost. The first round compiles, or reads kept programs; the second is the one
    that a training pays at every evaluation.
    """

    data: str = "fashion_mnist"
    """Data set: digits, fashion_mnist, tfds:NAME, or folder:PATH (one sub-folder a class)."""
    samples: Annotated[int, COUNT] = 10_000
    """How many images are scored, at most as many as there are to train on."""
    devices: int | None = None
    """How many devices share the work; by default all."""
    json: Path | None = None
    """A JSON file to keep the numbers in."""


def run(config: Scores) -> dict[str, Any]:
    """The benchmark: seconds of each score in both rounds, and the most memory of the process."""
    import numpy as np

    from jaxnets import parallel
    from jaxnets.commands import memory
    from jaxnets.files import write_json

    constraints.check(config)
    checks.json_file(config)
    mesh = parallel.make_mesh(config.devices)
    dataset = common.load_data(DataOptions(data=config.data))
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
    first, second = (_round(judge, samples, dataset, mesh) for _ in range(2))
    numbers = {
        "data": dataset.name,
        "samples": config.samples,
        "real": len(dataset.splits["test"]),
        "features": judge.features(train.take(np.arange(1))).shape[1],
        "first": first,
        "second": second,
        "peak_bytes": memory.process_peak(),
        "machine": common.machine(),
    }
    if config.json is not None:
        write_json(config.json, numbers)
    print(json.dumps(numbers, indent=2))
    return numbers


def _judge(config: Scores, dataset: DataSet, mesh: Any) -> Judge:
    """The data's default classifier, as it begins."""
    from jaxnets import evaluate, parallel
    from jaxnets.commands import classify, judging
    from jaxnets.commands.configs.classify import Classify, resolve
    from jaxnets.scoring import Judge

    options = resolve(Classify(data=config.data))
    built = classify.build(judging.for_looking(options, mesh), dataset, mesh)
    built.task.pipeline.close()
    variables = parallel.replicate(built.task.init(), mesh).nets["classifier"].averaged
    predict = evaluate.make_predict(built.model, mesh)
    return Judge(partial(predict, variables), options.network, "untrained", knows_classes=True)


def _round(judge: Judge, samples: Split, dataset: DataSet, mesh: Any) -> dict[str, float]:
    """Seconds of the features of samples, test and training images, of each score, and of all.

    Precision, recall, density and coverage are of one pass over all pairs, which the first pays.
    """
    from jaxnets import parallel
    from jaxnets.scoring import METRICS, Looks, take

    judge = dataclasses.replace(judge)  # which has looked at nothing
    train = dataset.splits["train"]
    looks = Looks(judge, samples, dataset, train, True, parallel.own_mesh(mesh))
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
