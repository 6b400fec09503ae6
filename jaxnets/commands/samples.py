"""A GAN's samples among the training images of a CNN: `--add-samples`, `--keep-by`."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
import zipfile
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxnets.commands import checks
from jaxnets.commands.configs.classify import Classify
from jaxnets.commands.configs.constraints import flag
from jaxnets.data import DataSet, Split
from jaxnets.data.dataset import array_digest
from jaxnets.data.dividing import joined
from jaxnets.data.order import generator
from jaxnets.devices.parallel import make_mesh
from jaxnets.errors import UserError
from jaxnets.files import check_path, write_files
from jaxnets.judge import evaluate
from jaxnets.media import provenance
from jaxnets.metrics.neighbours import nearest
from jaxnets.metrics.pairs import centred
from jaxnets.run.integrity import first_line
from jaxnets.run.load import load_run, read_description
from jaxnets.run.trained import Trained, TrainedClassifier, TrainedGenerator

#: File of a run with the samples among its training images: a resumed run takes these.
_FILE = "added_samples.npz"
#: How often samples are made in place of those that were not kept; the stream of their seeds.
_ROUNDS, _STREAM = 10, 0x5A3917
#: Share of a class's real images whose nearest neighbour lies as near as a sample must.
_WITHIN = 0.95
#: Fields that say which training images a run has seen.
_SEEN = ("rare", "labels_per_class")


class NoneKept(UserError):
    """--keep-by keeps no sample of a class."""


@dataclasses.dataclass(frozen=True)
class Added:
    """Samples that join the training images.

    Attributes:
      split: the samples, their class the one that was asked for.
      about: where they come from, as their mark has it.
      told: how many were made and kept of each class, in a line.
    """

    split: Split
    about: dict[str, Any]
    told: str

    @property
    def fingerprint(self) -> str:
        """What `config.json` keeps of them: the weights that made and kept them, and their own."""
        kept = f", kept by {self.about['kept_by']}" if self.about["kept_by"] else ""
        own = array_digest(self.split.inputs)[:12]
        return f"{own}, made by {self.about['weights']}{kept}"

    def keep(self, folder: Path) -> None:
        """Writes them into the folder of a run, unless they are there."""
        if (folder / _FILE).exists():
            return
        content = io.BytesIO()
        about = json.dumps({**provenance.record(self.about), "told": self.told})
        np.savez_compressed(
            content, images=self.split.inputs, labels=self.split.target, about=np.array(about)
        )
        write_files({folder / _FILE: content.getvalue()})


def added(config: Classify, dataset: DataSet, train: Split) -> Added | None:
    """The samples that --add-samples adds to a run's training images; None where it adds none.

    Of every class that has fewer than --per-class images, samples are made until it has so many.
    Those that --keep-by does not keep are made anew, ten times at most. A sample is kept if the CNN
    takes it for its class, and if in the CNN's penultimate features it lies as near to a real
    training image of that class as 95 of 100 of these lie to the next one.

    Args:
      config: resolved.
      dataset: the real images.
      train: those that the run is trained on.

    Raises:
      UserError: for a run that is of another kind, size, number of channels or classes.
      NoneKept: where no sample of a class is kept.
    """
    if config.add_samples is None:
        return None
    if dataset.columns["inputs"].kind != "image" or train.lazy:
        raise UserError(
            "--add-samples needs images that are decoded at the start: raise --decode-ahead"
            if train.lazy
            else f"--add-samples adds to images, and {dataset.name} has none"
        )
    if config.seeds > 1:
        raise UserError("--add-samples takes one seed, as its GAN saw the images of one: --seeds 1")
    if config.run_dir is not None and (config.run_dir / _FILE).exists():
        return _kept(config.run_dir / _FILE, train)
    gan: TrainedGenerator = fitting(config.add_samples, dataset, "generator", "--add-samples")
    if not gan.conditional:
        raise UserError(
            f"--add-samples {config.add_samples}: this GAN was trained without classes, so its "
            "samples have none; train one with --conditional"
        )
    cnn = None
    if config.keep_by is not None:
        cnn = fitting(config.keep_by, dataset, "classifier", "--keep-by")
    for option, run in (("--add-samples", gan), ("--keep-by", cnn)):
        for other in _others(config, dataset, run):
            print(
                f"warning: the run of {option} has seen other training images: {other}",
                file=sys.stderr,
            )
    there = np.bincount(train.target, minlength=dataset.num_classes)
    wanted = np.maximum((config.per_class or int(there.max())) - there, 0)
    if not wanted.any():
        raise UserError(
            f"--add-samples has nothing to add: each class has {there.min():,} training images or "
            f"more; give --per-class above {there.min()}"
        )
    checks.images_fit(int(wanted.sum()), train.inputs.shape[1:])
    made, kept = _filled(config, gan, cnn, train, wanted)
    names = dataset.class_names
    counts = np.bincount(kept.target, minlength=len(names))
    parts = [f"{names[k]}: {counts[k]:,} of {made[k]:,}" for k in np.flatnonzero(wanted)]
    about = {**gan.facts, "kept_by": None if cnn is None else cnn.facts["weights"]}
    told = f"samples of {config.add_samples} kept, of those made: {', '.join(parts)}"
    return Added(kept, about, told)


def _filled(
    config: Classify,
    gan: TrainedGenerator,
    cnn: TrainedClassifier | None,
    train: Split,
    wanted: np.ndarray,
) -> tuple[np.ndarray, Split]:
    """How many samples of each class were made [K], and those that were kept."""
    keeps = (lambda made: np.ones(len(made), bool)) if cnn is None else _filter(cnn, train, wanted)
    left, made, parts = wanted.copy(), np.zeros_like(wanted), []
    for seed in generator(config.seed, _STREAM).integers(2**31, size=_ROUNDS):
        labels = np.repeat(np.arange(len(left), dtype=np.int32), left)
        split = Split(
            gan.sample(len(labels), labels, seed=int(seed)), labels, columns=train.columns
        )
        part = split.take(np.flatnonzero(keeps(split)))
        parts.append(part)
        made += left
        left = left - np.bincount(part.target, minlength=len(left))
        if not left.any():
            break
    names: Any = train.columns["target"]
    if none := [names.name(k) for k in np.flatnonzero((left == wanted) & (wanted > 0))]:
        raise NoneKept(
            f"--keep-by {config.keep_by} keeps no sample of {', '.join(none)}: it takes them for "
            "other classes, or they are far from real images of the class; train the GAN for "
            "longer, or leave --keep-by out"
        )
    return made, joined(*parts)


def _filter(cnn: TrainedClassifier, train: Split, wanted: np.ndarray) -> Any:
    """A function from samples to whether each is kept [N]."""
    predict = partial(evaluate.make_predict(cnn.module, make_mesh(1)), cnn.variables)
    names: Any = train.columns["target"]
    real = {}
    for label in np.flatnonzero(wanted):
        rows = np.flatnonzero(train.target == label)
        if len(rows) < 2:
            raise UserError(
                f"--keep-by compares samples of a class with its real images, and "
                f"{names.name(label)} has {len(rows)}: two are needed"
            )
        real[label] = predict(train.take(rows))[1]

    def keeps(made: Split) -> np.ndarray:
        logits, features = predict(made)
        kept = logits.argmax(axis=1) == made.target
        for label, own in real.items():
            rows = np.flatnonzero(made.target == label)
            if len(rows):
                around, asked = centred(("real images", own), ("samples", features[rows]))
                radius = np.quantile(nearest(None, around, 1).distance, _WITHIN)
                kept[rows] &= nearest(asked, around, 1).distance[:, 0] <= radius
        return kept

    return keeps


def _kept(path: Path, train: Split) -> Added:
    """The samples that the folder of a run holds."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            about = json.loads(str(arrays["about"]))
            split = train.replace(inputs=arrays["images"], target=arrays["labels"])
        return Added(split, about, about.pop("told"))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path} cannot be read ({first_line(error)}); delete it, and the samples are made anew"
        ) from error


def fitting(folder: Path, dataset: DataSet, kind: str, what: str, *, classes: bool = True) -> Any:
    """The network of a run that is for images of a data set.

    Args:
      folder: of the run.
      dataset: the images.
      kind: "classifier" or "generator".
      what: the run is for, which begins the error.
      classes: whether its classes must be those of the data.

    Raises:
      UserError: for a run of another kind, or images of another size, or other classes.
    """
    check_path(folder, what)
    told = read_description(folder)
    commands = {"classifier": "classify", "generator": "generate"}
    if told.kind != kind:
        raise UserError(
            f"{what}: {folder} is a run of `{commands[told.kind]}`; it must be one of "
            f"`{commands[kind]}`"
        )
    own, column = told.inputs, dataset.columns["inputs"]
    if own != column:
        shapes = ["x".join(map(str, each.shape)) for each in (own, column)]
        raise UserError(
            f"{what}: {folder} is for {own.kind}s of {shapes[0]}, and those of {dataset.name} are "
            f"{column.kind}s of {shapes[1]}"
        )
    if classes and told.class_names and told.class_names != dataset.class_names:
        here, there = (set(names) for names in (dataset.class_names, told.class_names))
        differ = sorted(here ^ there)[:6] or ["in another order"]
        raise UserError(
            f"{what}: the classes of {folder} are not those of {dataset.name}, they differ: "
            f"{', '.join(differ)}"
        )
    return load_run(folder)


def _others(config: Classify, dataset: DataSet, run: Trained | None) -> list[str]:
    """How the training images that a run has seen are not those of this one."""
    if run is None:
        return []
    found = []
    own, here = run.facts["data_fingerprint"], dataset.fingerprint[:16]
    if own != here:
        found.append(f"those of {run.facts['data']} have the fingerprint {own}, these {here}")
    # Which images --rare and --labels-per-class leave follows from the seed.
    names = [*_SEEN, "seed"] if config.rare or config.labels_per_class else _SEEN
    for name in names:
        theirs, ours = run.config.get(name) or None, getattr(config, name) or None
        ours = list(ours) if isinstance(ours, tuple) else ours  # as JSON has it
        if theirs != ours:
            found.append(f"{flag(name)} was {theirs}, and is {ours} here")
    if config.validation_fraction != (run.config.get("validation_fraction") or 0):
        found.append("those held out here by --validation-fraction may be among them")
    return found
