"""`study rare-classes`: a rare class, with a GAN's samples or plain methods, at equal steps.

Every method trains the same network for the same number of steps on the same images. Plain methods
differ from `plain` in one thing each. The GAN learns from these images alone, with all classes
shown equally often, and fills every class up to the size of the largest: `gan` with the samples
that the `oversample` network of the same seed keeps, `gan-unfiltered` with all of them. Where it
keeps none of a class, none are added, and the table says how many are; what is missing is made up
for by oversampling.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.reproduce import spread
from experiments.studies import blood_cells
from experiments.studies.cells import Cell, Column, conduct
from experiments.studies.configs import RareClasses
from jaxnets.commands import classify, common, generate, samples, training
from jaxnets.commands.configs.classify import Classify, resolve
from jaxnets.commands.configs.generate import NO_JUDGE, Generate
from jaxnets.commands.session import Session
from jaxnets.data import DataSet
from jaxnets.errors import UserError
from jaxnets.files import read_json, write_json

#: method -> what it changes. Variants are there to choose the numbers of the others by, on seeds of
#: their own (--first-seed 100).
METHODS: dict[str, dict[str, Any]] = {
    "plain": {},
    "oversample": {"balance": "oversample"},
    "weights": {"balance": "weights"},
    "effective": {"balance": "effective", "balance_beta": 0.999},
    "focal": {"loss": "focal", "focal_gamma": 1.0},
    "softmax": {"balance": "softmax"},
    "mixup": {"mixup": 0.2},
    "gan": {"balance": "oversample"},  # which makes up for what the filter leaves out
    "gan-unfiltered": {},
    # Variants.
    "oversample-smooth": {"balance": "oversample", "label_smoothing": 0.1},
    "softmax-smooth": {"balance": "softmax", "label_smoothing": 0.1},
    "effective-0.99": {"balance": "effective", "balance_beta": 0.99},
    "focal-2": {"loss": "focal", "focal_gamma": 2.0},
    "focal-oversample": {"loss": "focal", "focal_gamma": 1.0, "balance": "oversample"},
    "mixup-1": {"mixup": 1.0},
    "mixup-oversample": {"mixup": 0.2, "balance": "oversample"},
    "gan-200": {"per_class": 200},
    "gan-200-oversample": {"per_class": 200, "balance": "oversample"},
}
#: Flag of blood cells, and the classes that are rare among them.
_CELLS, _RARE_CELLS = "blood-cells:", ("WBC", "Platelets")
_BATCH = 128
#: Scores of a cell -> the number of a run's summary.
_SCORES = {
    "recall": "test_rare_recall",
    "average_precision": "test_rare_average_precision",
    "others": "test_others_accuracy",
    "balanced_accuracy": "test_balanced_accuracy",
}
_COLUMNS = [
    Column("recall, rare (%)", "recall", ".1f", 100),
    Column("average precision, rare (%)", "average_precision", ".1f", 100),
    Column("accuracy, others (%)", "others", ".1f", 100),
    Column("balanced accuracy (%)", "balanced_accuracy", ".1f", 100),
    Column("samples added", "samples", ".0f"),
]


def run(config: RareClasses, session: Session) -> Path:
    """The study; gives its JSON file."""
    if unknown := [name for name in config.methods if name not in METHODS]:
        raise UserError(f"--methods has no {unknown[0]!r}; choose from {', '.join(METHODS)}")
    study = "rare-cells" if config.data.startswith(_CELLS) else "rare-classes"
    root = config.run_dir or Path("runs") / f"study-{study}"
    config = _prepared(config, root)
    bench = _Bench(config, common.load_data(Classify(), config.data), root, session)
    values = {name: getattr(config, name) for name in ("data", "rare", "others", "steps", "width")}
    cells = [
        Cell(
            {"images": count or "all", "method": method},
            seed,
            {**values, **METHODS[method], "gan_images": config.gan_images * _is_gan(method)},
        )
        for count in config.counts
        for seed in range(config.first_seed, config.first_seed + config.seeds)
        for method in sorted(config.methods, key=list(METHODS).index)
    ]
    about = {"study": study, "steps_of": f"batches of {_BATCH}", **values}
    path = conduct(study, cells, bench.measure, _COLUMNS, run_dir=root, out=config.out, about=about)
    content = read_json(path)
    content["comparison"] = comparison(content["cells"])
    for one in content["comparison"]:
        print(f"  {one['told']}")
    write_json(path, content)
    return path


def _prepared(config: RareClasses, root: Path) -> RareClasses:
    """The config with blood cells as the folder of their crops, which is made here."""
    if not config.data.startswith(_CELLS):
        return config
    crops = root.with_name(f"{root.name}-crops")
    if not crops.exists():
        made = blood_cells.crops(Path(config.data.removeprefix(_CELLS)), crops)
        print(", ".join(f"{what}: {count:,}" for what, count in made.items()), flush=True)
    return dataclasses.replace(config, data=f"folder:{crops}", rare=_RARE_CELLS, others=None)


@dataclasses.dataclass(frozen=True)
class _Bench:
    """Trains what a cell asks for."""

    config: RareClasses
    dataset: DataSet
    root: Path
    session: Session

    def measure(self, cell: Cell, folder: Path) -> Mapping[str, float]:
        """The scores of one method, number of rare images and seed."""
        count, method = cell.row["images"], cell.row["method"]
        fields = {**self._images(count, cell.seed), **METHODS[method]}
        if _is_gan(method):
            fields["add_samples"] = self._gan(count, cell.seed)
        if _is_gan(method) and method != "gan-unfiltered":
            judge = dataclasses.replace(cell, row={"images": count, "method": "oversample"})
            fields["keep_by"] = self._cnn(
                {**self._images(count, cell.seed), **METHODS["oversample"]},
                self.root / judge.name / "cnn",
            )
        try:
            run = self._cnn(fields, folder / "cnn")
        except samples.NoneKept as error:
            print(f"no samples are added: {error}", flush=True)
            without = dict.fromkeys(("add_samples", "keep_by", "per_class"))
            run = self._cnn({**fields, **without}, folder / "cnn")
        summary, added = read_json(run / "summary.json"), run / "added_samples.npz"
        kept = len(np.load(added)["labels"]) if added.exists() else 0
        scores = {name: summary[of] for name, of in _SCORES.items()}
        return {**scores, "samples": kept} if _is_gan(method) else scores

    def _images(self, count: int | str, seed: int) -> dict[str, Any]:
        """The fields that say which images there are."""
        each = "" if count == "all" else f"={count}"
        return {
            "data": self.config.data,
            "rare": tuple(f"{name}{each}" for name in self.config.rare),
            "labels_per_class": self.config.others,
            "seed": seed,
            "eval_every": 0.0,
            "pictures": False,
        }

    def _cnn(self, fields: Mapping[str, Any], folder: Path) -> Path:
        """The folder of a trained CNN: so many steps, whatever the number of images."""
        if (folder / "summary.json").exists():
            return folder
        fields = {"label_smoothing": 0.0, **fields}
        config = Classify(**fields, width=self.config.width, batch_size=_BATCH)
        train = training.labelled(config, self.dataset.splits["train"], config.seed)
        added = samples.added(resolve(config), self.dataset, train)
        images = len(train) + (0 if added is None else len(added.split))
        epochs = self.config.steps * _BATCH / images
        classify.run(dataclasses.replace(config, epochs=epochs, run_dir=folder), self.session)
        return folder

    def _gan(self, count: int | str, seed: int) -> Path:
        """The folder of a GAN that has seen the same images."""
        folder = self.root / f"gan-{count}-seed-{seed}"
        if (folder / "summary.json").exists():
            return folder
        config = Generate(
            **self._images(count, seed),
            balance="oversample",
            augment=self.config.augment,
            judge=NO_JUDGE,
            accuracy_score=False,
            run_dir=folder,
        )
        images = len(training.labelled(config, self.dataset.splits["train"], seed))
        epochs = self.config.gan_images / images
        generate.run(dataclasses.replace(config, epochs=epochs), self.session)
        return folder


def _is_gan(method: str) -> bool:
    """Whether a method adds a GAN's samples."""
    return method.startswith("gan")


def comparison(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each GAN method against the best plain one, for every number of images and two scores.

    The best plain method is the one with the highest mean, which is chosen after the fact, in its
    favour. Differences are those of cells with the same seed, so of the same images.
    """
    told = []
    for score in ("recall", "average_precision"):
        of: dict[Any, dict[str, dict[int, float]]] = {}
        for record in records:
            row = record["row"]
            of.setdefault(row["images"], {}).setdefault(row["method"], {})[record["seed"]] = record[
                "scores"
            ][score]
        for images, methods in of.items():
            plain = [name for name in methods if not _is_gan(name)]
            for gan in (name for name in methods if _is_gan(name) and plain):
                best = max(plain, key=lambda name: statistics.fmean(methods[name].values()))
                pairs = methods[gan].keys() & methods[best].keys()
                gaps = [methods[gan][seed] - methods[best][seed] for seed in sorted(pairs)]
                gap = spread(gaps)
                error = gap["std"] / len(gaps) ** 0.5
                pays = (
                    "pays" if gap["mean"] > error else "costs" if gap["mean"] < -error else "even"
                )
                told.append(
                    {
                        "score": score,
                        "images": images,
                        "method": gan,
                        "best_plain": best,
                        "differences": gaps,
                        "mean": gap["mean"],
                        "standard_error": error,
                        "verdict": pays,
                        "told": f"{images} images, {score}: {gan} {100 * gap['mean']:+.1f} ± "
                        f"{100 * error:.1f} points against {best}, the best plain method: {pays}",
                    }
                )
    return told
