"""How well a generator does, as CNNs see it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import checks, classify, common, populations

if TYPE_CHECKING:
    import numpy as np
    from jax.sharding import Mesh

    from jaxnets.data import DataSet, Split
    from jaxnets.state import TrainState


def trained(folder: Path, like: TrainState) -> TrainState:
    """The state that a finished or interrupted run has left, its best one where one is kept."""
    import sys

    from jaxnets.checkpoint import Checkpoints
    from jaxnets.errors import UserError

    place = folder / "checkpoints"
    # "12.orbax-checkpoint-tmp" is a save that was cut off.
    if not any(p.name.isdecimal() for p in place.glob("[0-9]*")):
        raise UserError(f"{folder} holds no checkpoint yet; run its command again to train it")
    with Checkpoints(place, say=lambda text: print(text, file=sys.stderr)) as checkpoints:
        return checkpoints.restore(like, best=True)[0]


@dataclasses.dataclass(frozen=True)
class Judge:
    """A trained classifier as a source of features.

    Attributes:
      features: split -> penultimate features [N, F].
      name: what to print beside its scores: network, data, digest of its weights.
    """

    features: Callable[[Split], np.ndarray]
    name: str


def load_judge(folder: Path, dataset: DataSet, mesh: Mesh) -> Judge:
    """The classifier of a `classify` run, to look at images of a data set."""
    from jaxnets import evaluate
    from jaxnets.errors import UserError
    from jaxnets.parallel import replicate
    from jaxnets.runs import read_run

    found = read_run(folder)
    if found["experiment"] != "classify":
        raise UserError(
            f"{folder} is a run of `{found['experiment']}`; a judge must be one of `classify`"
        )
    config = checks.config_of_run(folder, found, classify.Classify, classify.resolve)
    own = common.load_data(config)
    shapes = [d.splits["test"].images.shape[1:] for d in (own, dataset)]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"the judge {folder} takes images of {_size(shapes[0])}, and those of {dataset.name} "
            f"are {_size(shapes[1])}"
        )
    # It will not be trained here: its batch need not be one that these devices divide.
    config = dataclasses.replace(config, batch_size=mesh.size, micro_batches=1, mixup=0.0)
    built = classify.build(config, own, mesh)
    built.task.pipeline.close()
    state = trained(folder, replicate(built.task.init(), mesh))
    state = populations.member(config, state, None)
    variables = state.nets["classifier"].averaged
    predict = evaluate.make_predict(built.model, mesh)
    return Judge(
        features=lambda split: predict(variables, split)[1],
        name=f"{config.network} trained on {own.name}, weights {evaluate.digest(variables)}",
    )


def frechet_numbers(judge: Judge, samples: Split, dataset: DataSet) -> dict[str, float]:
    """Frechet distance of samples from the test images, with its floor and its ceiling."""
    from jaxnets import evaluate

    found = evaluate.frechet_scores(judge.features, samples, dataset.splits["test"])
    return {
        "frechet": found.samples,
        "frechet_floor": found.floor,
        "frechet_ceiling": found.ceiling,
        "frechet_samples": found.count,
    }


def accuracy_score(
    samples: Split, dataset: DataSet, mesh: Mesh, folder: Path, *, epochs: float, seed: int = 0
) -> float:
    """Classification accuracy score: accuracy on real test images of a CNN that saw samples only.

    Reference:
      Ravuri and Vinyals, "Classification Accuracy Score for Conditional Generative Models",
      arXiv:1905.10887.
    """
    return train_on(samples, dataset, mesh, folder, epochs=epochs, seed=seed)["test_accuracy"]


def train_on(
    train: Split, dataset: DataSet, mesh: Mesh, folder: Path, **fields: Any
) -> Mapping[str, float]:
    """Trains the data set's default classifier on other images, and tests it on its own."""
    import numpy as np

    from jaxnets.loop import fit

    config = classify.resolve(classify.Classify(data=dataset.name, eval_every=0.0, **fields))
    # A batch must fit into the images, and be one that the devices divide.
    assert config.batch_size is not None and config.epochs is not None
    size = max(1, min(config.batch_size, len(train)) // mesh.size) * mesh.size
    config = dataclasses.replace(config, batch_size=size)
    if len(train) < size:
        train = train.take(np.resize(np.arange(len(train)), size))
    splits = {**dataset.splits, "train": train}
    built = classify.build(config, dataclasses.replace(dataset, splits=splits), mesh)
    folder.mkdir(parents=True, exist_ok=True)
    options = common.fit_options(config, built.steps_per_epoch)
    return fit(built.task, folder, mesh, options).metrics


def rows(numbers: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The numbers of a generator as rows of a table."""
    table = []
    if "frechet" in numbers:
        count = f"{numbers['frechet_samples']:,} samples"
        table += [
            (
                f"Frechet distance of {count} from half the test images",
                populations.shown(numbers, "frechet", ".2f"),
            ),
            (
                "floor: of the other half of the test images",
                populations.shown(numbers, "frechet_floor", ".2f"),
            ),
            ("ceiling: of noise", populations.shown(numbers, "frechet_ceiling", ".2f")),
            ("features of", str(numbers["frechet_judge"])),
        ]
    if "classification_accuracy_score" in numbers:
        score = populations.shown(numbers, "classification_accuracy_score", ".2%")
        table.append(("classification accuracy score (trained on samples only)", score))
    return table


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
