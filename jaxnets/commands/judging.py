"""How well a generator does, as CNNs see it."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from jaxnets import metrics
from jaxnets.commands import classify, common, populations, scoring, training
from jaxnets.commands.configs.classify import Classify, resolve
from jaxnets.commands.configs.generate import IMAGENET, SHIPPED, SHIPPED_JUDGES
from jaxnets.commands.configs.options import given
from jaxnets.commands.samples import fitting
from jaxnets.data import DataSet, Split
from jaxnets.devices.parallel import replicate
from jaxnets.errors import UserError
from jaxnets.judge import evaluate
from jaxnets.judge.scoring import Judge, Looks
from jaxnets.models.pretrained import load_pretrained
from jaxnets.run.checkpoint import Checkpoints
from jaxnets.run.loop import fit
from jaxnets.run.runs import newest_checkpoint
from jaxnets.run.task import Task
from jaxnets.run.trained import TrainedClassifier
from jaxnets.train.state import TrainState

T = TypeVar("T")

#: Of how many classes at most, and of each how many, samples and test images are compared pixel by
#: pixel. More than `jaxnets.metrics.collapse.ENOUGH`, and few enough to cost nothing.
_PIXEL_CLASSES, _PIXEL_EACH = 20, 16

#: From which accuracy on, and from how many samples on, a distance is more than a hint.
_GOOD_JUDGE, _ENOUGH_SAMPLES = 0.9, 1000

#: Least and greatest shorter side of images for EfficientNet-Lite0, and how many it is given.
_IMAGENET_SIDES, _IMAGENET_BATCH = (128, 224), 32

#: Rows of a table: name of a number or a text -> (what it is, its format; of a text none).
_ROWS = {
    "frechet": ("Frechet distance of {:,} samples from half the test images", ".2f"),
    "frechet_floor": ("floor: of the other half of the test images", ".2f"),
    "frechet_ceiling": ("ceiling: of noise", ".2f"),
    "frechet_judge": ("features of", ""),
    "frechet_note": ("what the distance is worth", ""),
    "samples_recognised": ("samples that the CNN takes for the class asked for", ".2%"),
    "samples_least_class_share": ("share of the scarcest class, to that of real images", ".2f"),
    "samples_spread": ("how far samples of a class lie apart, to how far real images do", ".2f"),
    "samples_pixel_spread": ("how far a few samples lie apart, to real images, by pixels", ".2f"),
    "classification_accuracy_score": (
        "classification accuracy score (trained on samples only)",
        ".2%",
    ),
    "accuracy_score_of": ("of", ""),
}


def trained(folder: Path, task: Task, mesh: Mesh, *, best_by: str = "accuracy") -> TrainState:
    """The state that a finished or interrupted run has left, its best one where one is kept.

    Args:
      folder: of the run.
      task: of the same networks, which will not be trained; its pipeline is closed.
      mesh: where the state is put.
      best_by: which number the best has: an accuracy, or a score of `scoring.HIGHER_IS_BETTER`.
    """
    task.pipeline.close()
    place = folder / "checkpoints"
    if newest_checkpoint(folder) is None:
        raise UserError(f"{folder} holds no checkpoint yet; run its command again to train it")
    with Checkpoints(
        place,
        higher_is_better=scoring.HIGHER_IS_BETTER.get(best_by, True),
        say=lambda text: print(text, file=sys.stderr),
    ) as checkpoints:
        return checkpoints.restore(replicate(task.init(), mesh), best=True)[0]


def load_judge(folder: Path, dataset: DataSet, mesh: Mesh) -> Judge:
    """A classifier, to look at images of a data set.

    Args:
      folder: of a run of `classify`; or one of the names of `configs.generate`.
      dataset: the real images.
      mesh: the devices that share the work.
    """
    if folder == IMAGENET:
        return imagenet_judge(dataset)
    if folder == SHIPPED:
        folder = shipped_cnn(dataset.name)
    judge: TrainedClassifier = fitting(folder, dataset, "classifier", "a judge", classes=False)
    predict = evaluate.make_predict(judge.module, mesh)
    return Judge(
        look=partial(predict, judge.variables),
        extractor=judge.facts["model"].replace(" on ", " trained on ", 1),
        digest=judge.facts["weights"],
        knows_classes=judge.class_names == dataset.class_names,
    )


def imagenet_judge(dataset: DataSet) -> Judge:
    """EfficientNet-Lite0, with the weights of ImageNet, as a judge of colour images.

    Images are resized, bilinearly, so that their shorter side has 128 to 224 pixels; those that
    have stay as they are.

    Raises:
      UserError: for images that are not of three channels, or without the weights.
    """
    column = dataset.columns["inputs"]
    if column.kind != "image" or column.shape[-1] != 3:
        raise UserError(f"--judge imagenet looks at colour images, and {dataset.name} has none")
    height, width, _ = column.shape
    short = min(height, width)
    scale = min(max(short, _IMAGENET_SIDES[0]), _IMAGENET_SIDES[1]) / short
    size = (round(scale * height), round(scale * width), 3)
    module, variables = load_pretrained("efficientnet_lite0", image_shape=size)

    @jax.jit
    def features(variables: Any, images: Any) -> Any:
        resized = jax.image.resize(images, (len(images), *size), "bilinear")
        outputs: Any = module.apply(variables, resized, train=False)
        return outputs[1]["penultimate"]

    weights = jax.device_put(variables)

    def look(images: np.ndarray) -> np.ndarray:
        rest = _IMAGENET_BATCH - len(images)  # one size of batch, one compilation
        padded = np.pad(images, [(0, rest), (0, 0), (0, 0), (0, 0)])
        return np.asarray(features(weights, padded))[: len(images)]

    return Judge.of(
        look,
        f"EfficientNet-Lite0 of ImageNet at {size[0]}x{size[1]} pixels",
        evaluate.digest(variables),
        batch_size=_IMAGENET_BATCH,
    )


def shipped_cnn(data: str) -> Path:
    """The file of the CNN that comes with jaxnets for a data set.

    Raises:
      UserError: if there is none.
    """
    if data not in SHIPPED_JUDGES:
        raise UserError(
            f"no CNN comes with jaxnets for {data}, only for {' and '.join(SHIPPED_JUDGES)}: train "
            f"one by `classify --data {data}`, and name its run"
        )
    return Path(evaluate.__file__).parent / "weights" / f"{data}.safetensors"


def accuracy_of(judge: Judge, dataset: DataSet) -> float | None:
    """The share of the test images that a judge names rightly; None if its classes are others."""
    logits, _ = judge.kept(dataset.splits["test"])
    if logits is None or not judge.knows_classes:
        return None
    return float((logits.argmax(axis=1) == dataset.splits["test"].target).mean())


def worth(judge: Judge, dataset: DataSet, count: int) -> str | None:
    """What a distance of so many samples is worth, where that is little; else None."""
    features = judge.kept(dataset.splits["test"])[1]
    notes = [metrics.estimate_note(count, features.shape[1])]
    share = accuracy_of(judge, dataset)
    if share is not None and (share < _GOOD_JUDGE or count < _ENOUGH_SAMPLES):
        notes.append(f"a judge of {share:.1%}, {count:,} samples: read it as a hint")
    return "; ".join(note for note in notes if note) or None


def for_looking(config: T, mesh: Mesh) -> T:
    """The config of networks that will not be trained, with a batch that these devices divide."""
    options: Any = config
    size = -(-options.batch_size // mesh.size) * mesh.size
    changes: dict[str, Any] = {"batch_size": size, "micro_batches": 1, "init_from": None}
    if hasattr(config, "mixup"):
        changes |= {"mixup": 0.0, "add_samples": None}
    if hasattr(config, "mosaic"):
        changes |= {"mosaic": 0.0}
    return dataclasses.replace(options, **changes)  # type: ignore[no-any-return]


def sample_numbers(
    judge: Judge | None,
    make: Callable[[np.ndarray], Split],
    dataset: DataSet,
    conditional: bool,
    *,
    metrics: Sequence[str] = (),
    train: Split | None = None,
    said: set[str] | None = None,
) -> dict[str, float]:
    """What is measured of a generator at every evaluation.

    Args:
      judge: a CNN, or None: then only how far samples lie apart, pixel by pixel.
      make: labels [N] -> as many samples, of these classes if conditional.
      dataset: the real images.
      conditional: whether the generator was asked for the samples' labels.
      metrics: names of further scores by the judge, see `scoring.names_of`.
      train: images that the generator was trained on; by default the training split.
      said: see `scoring.possible`.

    Returns:
      With a judge, the numbers of `frechet_numbers`, `variety_numbers` and `scoring.numbers`;
      without, `pixel_numbers`.
    """
    if judge is None:
        return pixel_numbers(make, dataset, conditional)
    samples = make(dataset.splits["test"].target)
    train = dataset.splits["train"] if train is None else train
    looks = Looks(judge, samples, dataset, train, conditional)
    said = set() if said is None else said
    distances = partial(frechet_numbers, judge, samples, dataset)
    return {
        **(scoring.possible("the Frechet distance", distances, said) or {"frechet": math.nan}),
        **variety_numbers(looks),
        **scoring.numbers(metrics, looks, said),
    }


def variety_numbers(of: Looks) -> dict[str, float]:
    """Whether samples have all classes, and images of a class differ, as a CNN sees them.

    Classes are those that the CNN finds, in samples and in real images alike, so that its errors
    cancel; but images of a class are those of the class asked for, where one can be.
    """
    (logits, features), (real_logits, real_features) = of.made, of.real
    labels = (of.samples.target, of.dataset.splits["test"].target)
    if logits is None or real_logits is None:  # features alone: it names no classes
        classes = labels if of.conditional else (0 * labels[0], 0 * labels[1])
        spread = metrics.relative_spread(features, classes[0], real_features, classes[1])
        return {"samples_spread": spread}
    seen, real_seen = logits.argmax(axis=1), real_logits.argmax(axis=1)
    classes = labels if of.conditional else (seen, real_seen)
    numbers = {
        "samples_least_class_share": metrics.least_class_share(seen, real_seen),
        "samples_spread": metrics.relative_spread(features, classes[0], real_features, classes[1]),
    }
    if of.conditional and of.judge.knows_classes:
        numbers["samples_recognised"] = metrics.recognised(seen, of.samples.target).share
    return numbers


def pixel_numbers(
    make: Callable[[np.ndarray], Split], dataset: DataSet, conditional: bool
) -> dict[str, float]:
    """How far a few samples lie apart, pixel by pixel, to how far test images do.

    It takes no CNN to see that all images are alike, nor many of them.
    """
    test = dataset.splits["test"]
    shown = range(min(dataset.num_classes, _PIXEL_CLASSES))
    rows = [np.flatnonzero(test.target == c)[:_PIXEL_EACH] for c in shown]
    real = test.take(np.concatenate(rows))
    samples = make(np.repeat(np.arange(len(shown), dtype=np.int32), _PIXEL_EACH))
    labels = [split.target if conditional else 0 * split.target for split in (samples, real)]
    pixels = [np.asarray(split.inputs).reshape(len(split), -1) for split in (samples, real)]
    spread = metrics.relative_spread(pixels[0], labels[0], pixels[1], labels[1])
    return {"samples_pixel_spread": spread}


def frechet_numbers(judge: Judge, samples: Split, dataset: DataSet) -> dict[str, float]:
    """Frechet distance of samples from the test images, with its floor and its ceiling."""
    scores = evaluate.frechet_scores(judge.features, samples, dataset.splits["test"])
    return {
        "frechet": scores.samples,
        "frechet_floor": scores.floor,
        "frechet_ceiling": scores.ceiling,
        "frechet_samples": scores.count,
    }


def accuracy_score(
    samples: Split, dataset: DataSet, mesh: Mesh, folder: Path, *, epochs: float, seed: int = 0
) -> float:
    """Classification accuracy score: accuracy on real test images of a CNN that saw samples only.

    The CNN is the data set's default classifier; it is trained in `folder`.

    Reference:
      Ravuri and Vinyals, "Classification Accuracy Score for Conditional Generative Models",
      arXiv:1905.10887.
    """
    config = resolve(Classify(data=dataset.name, eval_every=0.0, epochs=epochs, seed=seed))
    size = _batch_of(config, len(samples), mesh)
    config = dataclasses.replace(config, batch_size=size)
    if len(samples) < size:
        samples = samples.take(np.resize(np.arange(len(samples)), size))
    splits = {**dataset.splits, "train": samples}
    built = classify.build(config, dataclasses.replace(dataset, splits=splits), mesh)
    folder.mkdir(parents=True, exist_ok=True)
    options = training.fit_options(config, built.steps_per_epoch)
    return fit(built.task, folder, mesh, options).metrics["test_accuracy"]


def taught_by(samples: Split, dataset: DataSet, mesh: Mesh, epochs: float) -> str:
    """What an accuracy score was taken with, to be kept beside it."""
    config = resolve(Classify(data=dataset.name))
    size = _batch_of(config, len(samples), mesh)
    return (
        f"{given(config.network)}, {epochs:g} epochs of {len(samples):,} samples in batches of "
        f"{size}, tested on {tested_on(dataset)}"
    )


def tested_on(dataset: DataSet) -> str:
    """The test images in a few words: name, split and fingerprint."""
    return f"{dataset.name}, test, {dataset.fingerprint[:12]}"


def _batch_of(config: Classify, images: int, mesh: Mesh) -> int:
    """A batch that fits into so many images, and that the devices divide."""
    return max(1, min(given(config.batch_size), images) // mesh.size) * mesh.size


def records(
    config: Any, metrics: Sequence[str], looks: Looks | None
) -> dict[str, list[dict[str, Any]]]:
    """The further scores of a finished run's one GAN, with all that it takes to compare them.

    Args:
      config: of the run.
      metrics: names of the scores.
      looks: what the judge sees in its samples.
    """
    if populations.size(config) > 1 or not metrics or looks is None:
        return {}
    # The evaluations have said already which are not available.
    scores = scoring.taken(metrics, looks, {*metrics})
    return {"scores": [common.finite(score.record()) for score in scores]}


def score_rows(config: Any, numbers: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The further scores of a run as rows of a table."""
    if "scores" not in numbers:
        return [
            (name, populations.shown(numbers, scoring.number_name(name), ".4g"))
            for name in scoring.names_of(config.metrics, conditional=config.conditional)
            if name != "frechet" and scoring.number_name(name) in numbers
        ]
    rows = []
    for score in numbers["scores"]:
        value = "not known" if score["value"] is None else f"{score['value']:.4g}"
        spread = "" if score["spread"] is None else f" +- {score['spread']:.4g}"
        rows.append((score["name"], value + spread + f" ({score['note']})" * bool(score["note"])))
    return rows


def rows(numbers: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The numbers of a generator as rows of a table."""
    return [
        (
            text.format(numbers.get("frechet_samples", 0)),
            populations.shown(numbers, name, form) if form else str(numbers[name]),
        )
        for name, (text, form) in _ROWS.items()
        if name in numbers
    ]
