"""A CNN and a GAN on the embedded data set, and what they do for each other."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxnets import data
from jaxnets.commands import checks, classify, common, generate, pictures, provenance, training
from jaxnets.commands.configs import classify as classify_config
from jaxnets.commands.configs import constraints
from jaxnets.commands.configs import generate as generate_config
from jaxnets.commands.configs.quickstart import Quickstart
from jaxnets.commands.gan_step import Built
from jaxnets.commands.session import Session
from jaxnets.data import DataSet, Split
from jaxnets.devices import parallel
from jaxnets.judge import evaluate
from jaxnets.media import report
from jaxnets.run import runs
from jaxnets.run.load import keep_description
from jaxnets.run.log import read_records
from jaxnets.run.loop import fit
from jaxnets.train.state import TrainState

_BATCH = 128

#: Rows of the table: name of a number -> (what it is, its format).
_ROWS = {
    "test_accuracy": ("CNN: accuracy on real test images", ".2%"),
    "frechet": ("GAN: Frechet distance of {samples} samples, in the CNN's features", ".2f"),
    "frechet_floor": ("     floor: of as many other real images", ".2f"),
    "frechet_ceiling": ("     ceiling: of as many images of noise", ".2f"),
    "samples_recognised": ("GAN: samples that the CNN takes for the class asked for", ".2%"),
    "classification_accuracy_score": (
        "GAN -> CNN: accuracy of a CNN trained on samples only",
        ".2%",
    ),
    "few_labels_accuracy": ("CNN with {labels} labels a class", ".2%"),
    "few_labels_and_samples_accuracy": (
        "CNN with {labels} labels a class and samples of a GAN that saw no more labels",
        ".2%",
    ),
}


@dataclasses.dataclass(frozen=True)
class _Workshop:
    """Trains networks on changed training images, each in a folder of its own."""

    config: Quickstart
    dataset: DataSet
    mesh: Mesh
    folder: Path

    def cnn(self, name: str, images: Split) -> _Cnn:
        """A CNN, trained for as many steps whatever the number of images."""
        if len(images) < _BATCH:  # a batch must fit into them
            images = images.take(np.resize(np.arange(len(images)), _BATCH))
        config = classify_config.Classify(
            data="digits",
            seed=self.config.seed,
            width=0.25,  # four of them are trained, in a minute
            batch_size=_BATCH,
            epochs=self.config.cnn_steps * _BATCH / len(images),
            eval_every=0.0,
        )
        built, state = self._train(classify, classify_config.resolve(config), name, images)
        return _Cnn(built, state, evaluate.make_predict(built.model, self.mesh))

    def gan(self, name: str, images: Split) -> tuple[Built, TrainState]:
        """A class-conditional GAN and its state."""
        config = generate_config.Generate(
            data="digits",
            seed=self.config.seed,
            batch_size=_BATCH // 2,
            epochs=self.config.gan_steps * (_BATCH // 2) / len(images),
            generator_learning_rate=5e-4,  # a batch larger than the preset's, and few images
            discriminator_learning_rate=5e-4,
            eval_every=0.0,
            judge=generate_config.NO_JUDGE,  # the quickstart's own CNN is to be it
        )
        return self._train(generate, generate_config.resolve(config), name, images)

    def _train(self, command: Any, config: Any, name: str, images: Split) -> tuple[Any, TrainState]:
        changed = dataclasses.replace(self.dataset, splits={**self.dataset.splits, "train": images})
        built = command.build(config, changed, self.mesh)
        folder = self.folder / name
        if images is self.dataset.splits["train"]:  # a run that `sample` and `evaluate` take
            values = {**common.experiment_values(config), **provenance.fingerprint(self.dataset)}
            runs.open_run(folder, command.__name__.rpartition(".")[2], values)
            keep_description(folder, built.description)
        folder.mkdir(exist_ok=True)
        task = dataclasses.replace(built.task, name=name)
        options = training.fit_options(config, built.steps_per_epoch)
        result = fit(task, folder, self.mesh, options)
        common.write_summary(folder, result.metrics, result)
        return built, result.state


@dataclasses.dataclass(frozen=True)
class _Cnn:
    """A trained CNN."""

    built: classify.Built
    state: TrainState
    predict: evaluate.Predict

    @property
    def variables(self) -> Any:
        """The weights that are evaluated."""
        return self.state.nets["classifier"].averaged

    def features(self, split: Split) -> np.ndarray:
        """The penultimate features [N, F]."""
        return self.predict(self.variables, split)[1]

    def classes(self, split: Split) -> np.ndarray:
        """The most likely class of each image."""
        return self.predict(self.variables, split)[0].argmax(axis=1).astype(np.int32)

    def test(self, split: Split) -> evaluate.Classification:
        """How well it does."""
        return self.built.judge(self.state, split)


def run(config: Quickstart, session: Session) -> Path:
    """The command; gives the run's folder."""
    begin = time.monotonic()
    constraints.check(config)
    mesh = parallel.make_mesh(config.devices)
    checks.check_batch(_BATCH // 2, mesh)  # the GANs' batch is half that of the CNNs
    dataset = data.load("digits")
    train, test = dataset.splits["train"], dataset.splits["test"]
    few = data.take_per_class(train, config.labels_per_class, config.seed)
    folder = training.open_run("quickstart", config, dataset, session)
    workshop = _Workshop(config, dataset, mesh, folder)

    # Each alone. Then the CNN judges the GAN, and the GAN's samples teach a second CNN.
    cnn = workshop.cnn("cnn", train)
    gan, gan_state = workshop.gan("gan", train)
    samples = gan.samples_like(gan_state, train.target)
    tested = cnn.test(test)
    scores = evaluate.frechet_scores(cnn.features, samples, train)
    recognised = cnn.classes(samples) == train.target
    on_samples = workshop.cnn("cnn-on-samples", samples).test(test)

    # With few labels: the CNN names the unlabelled images as well as it can, a GAN learns from
    # those names, and its samples join the few. No label beyond the few is used.
    few_cnn = workshop.cnn("cnn-few-labels", few)
    guessed = data.Split(train.inputs, few_cnn.classes(train))
    few_gan, few_gan_state = workshop.gan("gan-few-labels", guessed)
    balanced = (np.arange(len(train)) % dataset.num_classes).astype(np.int32)
    few_samples = few_gan.samples_like(few_gan_state, balanced)
    helped = workshop.cnn("cnn-few-labels-and-samples", _together(few, few_samples)).test(test)

    numbers = {
        "test_accuracy": tested.metrics["accuracy"],
        "frechet": scores.samples,
        "frechet_floor": scores.floor,
        "frechet_ceiling": scores.ceiling,
        "frechet_samples": scores.count,
        "frechet_judge": f"the cnn, weights {evaluate.digest(cnn.variables)}",
        "samples_recognised": float(recognised.mean()),
        "classification_accuracy_score": on_samples.metrics["accuracy"],
        "few_labels_accuracy": few_cnn.test(test).metrics["accuracy"],
        "few_labels_and_samples_accuracy": helped.metrics["accuracy"],
    }
    told = {"samples": scores.count, "labels": config.labels_per_class}
    rows = [
        (text.format(**told), format(numbers[name], form)) for name, (text, form) in _ROWS.items()
    ]
    seconds = time.monotonic() - begin
    where = ", ".join(f"{name} {value}" for name, value in common.machine().items())
    note = f"{seconds:.0f} s, compilation included; {where}."
    curves = [
        report.curves_svg(read_records(folder / name / "metrics.jsonl"), keys, "epoch", name)
        for name, keys in (("cnn", ["loss"]), ("gan", ["d_loss", "g_loss"]))
    ]
    report.html_report(
        folder / "report.html",
        "A CNN and a GAN on digits, alone and together",
        [
            report.Table([(name.strip(), value) for name, value in rows], ("", "value"), note),
            pictures.samples(gan.trained(gan_state), folder / "gan", dataset),
            report.Figure(curves, "Losses in training."),
            report.Figure(
                report.confusion_svg(tested.confusion, dataset.class_names),
                caption="Confusion matrix of the CNN on the real test images.",
            ),
        ],
    )
    common.write_summary(folder, {**numbers, "seconds": round(seconds, 1)}, None)
    common.print_table(f"digits: {len(train):,} training and {len(test):,} test images", rows)
    print(f"  report: {folder / 'report.html'}  ({seconds:.0f} s)")
    return folder


def _together(few: Split, samples: Split) -> Split:
    """The few real images, repeated until they are a fifth of the whole, and the samples."""
    copies = max(1, len(samples) // (4 * len(few)))
    made = few.replace(inputs=samples.inputs, target=samples.target)
    return data.joined(*[few] * copies, made)
