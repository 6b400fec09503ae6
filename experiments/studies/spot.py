"""`study spot`: which generators a detector spots, those that it has seen and one that it has not.

A detector is trained on samples of all generators but one. The table has its average precision and
its accuracy, at the threshold that was fixed on the generators that it has seen, on the test
pictures of those and of the one left out; as they are, and after JPEG or resizing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments import families
from experiments.configs import Families
from experiments.studies.cells import Cell, Column, conduct
from experiments.studies.configs import Spot
from jaxnets.commands import spot, spotting
from jaxnets.commands.configs.options import ImageOptions
from jaxnets.commands.configs.spot import METHODS, Sides, SpotTrain
from jaxnets.commands.session import Session
from jaxnets.errors import UserError
from jaxnets.files import read_json
from jaxnets.media.jpeg import recompressed
from jaxnets.registry import check_name
from jaxnets.run.load import load_run, read_description
from jaxnets.run.trained import TrainedClassifier


def _as_jpeg(quality: int, rows: np.ndarray) -> np.ndarray:
    return np.stack([recompressed(row, quality) for row in rows])


def _resized(share: float, rows: np.ndarray) -> np.ndarray:
    """The pictures shrunk to a share of their sides, and stretched to their size again."""

    def there_and_back(row: np.ndarray) -> np.ndarray:
        image = Image.fromarray(row[..., 0] if row.shape[-1] == 1 else row)
        small = image.resize((round(share * image.width), round(share * image.height)), _BICUBIC)
        return np.asarray(small.resize(image.size, _BICUBIC)).reshape(row.shape)

    return np.stack([there_and_back(row) for row in rows])


_BICUBIC = Image.Resampling.BICUBIC

#: What is done to test pictures -> the function on their rows.
CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as they are": lambda rows: rows,
    **{f"JPEG {quality}": partial(_as_jpeg, quality) for quality in (90, 70, 50)},
    **{f"resized {share}": partial(_resized, share) for share in (0.75, 0.5)},
}

#: Heading of a column -> which pictures, which number.
_HEADINGS = {
    f"{what}, {who}": f"{who}/as they are/{score}"
    for who in ("seen", "left out")
    for what, score in (("accuracy", "detector_accuracy"), ("AP", "average_precision"))
} | {
    f"{change}, {who}": f"{who}/{change}/detector_accuracy"
    for who in ("seen", "left out")
    for change in ("JPEG 70", "resized 0.5")
}


def run(config: Spot, session: Session) -> Path:
    """The command; gives the JSON file with the table."""
    for method in config.methods:
        check_name("method", method, METHODS)
    if len(config.generators) < 2 or len({*config.generators}) < len(config.generators):
        raise UserError("--generators needs two or more different ones: each is left out once")
    root = config.run_dir or Path("runs") / "study-spot"
    generators = {name: _found(config, name) for name in config.generators if config.runs}
    if not generators:
        generators = _trained(config, root.with_name(f"{root.name}-generators"), session)
    weights = {name: load_run(folder).facts["weights"] for name, folder in generators.items()}
    cells = [
        Cell(
            {"method": method, "left out": left_out},
            seed,
            {"data": config.data, "pictures": config.pictures, "generators": weights},
        )
        for seed in range(config.seeds)
        for left_out in generators
        for method in config.methods
    ]
    return conduct(
        "spot",
        cells,
        partial(_measure, config, generators, session),
        [
            Column(
                heading, score, ".3f" if "AP" in heading else ".1f", 1 if "AP" in heading else 100
            )
            for heading, score in _HEADINGS.items()
        ],
        run_dir=root,
        out=config.out,
        about={"data": config.data, "minutes": None if config.runs else config.minutes},
    )


def _found(config: Spot, name: str) -> Path:
    """The run of a generator among those that are given."""
    assert config.runs is not None
    folder = config.runs / name
    folder = folder if folder.is_dir() else config.runs / f"{name}-seed-0"
    if read_description(folder).kind != "generator":
        raise UserError(f"{folder} is no run of `generate`; name the generators with --generators")
    return folder


def _trained(config: Spot, root: Path, session: Session) -> dict[str, Path]:
    """The runs of the generators, trained for the same minutes each."""
    contest = Families(
        names=config.generators,
        data=config.data,
        minutes=(config.minutes,),
        seeds=1,
        accuracy_score=False,
        run_dir=root,
        out=root.with_name(f"{root.name}.json"),
    )
    families.run(contest, session)
    return {name: root / f"{name}-seed-0" for name in config.generators}


def _measure(
    config: Spot, generators: Mapping[str, Path], session: Session, cell: Cell, folder: Path
) -> dict[str, float]:
    """Trains a detector, and tests it on the generators that it has seen and on the other."""
    left_out = cell.row["left out"]
    seen = tuple(str(path) for name, path in generators.items() if name != left_out)
    told: dict[str, Any] = {"real": config.data, "pictures": config.pictures, "seed": cell.seed}
    detector = folder / "detector"
    spot.run(
        SpotTrain(generated=seen, method=cell.row["method"], run_dir=detector, **told), session
    )
    trained: TrainedClassifier = load_run(detector)
    column: Any = trained.columns["inputs"]
    scores = {"seconds": read_json(detector / "summary.json")["train_seconds"]}
    for who, names in (("seen", seen), ("left out", (str(generators[left_out]),))):
        sides = Sides(generated=names, **told)
        drawn = spotting.draw(sides, ImageOptions(), column, ("test",))
        for change, function in CHANGES.items():
            test = spotting.make_alike(drawn, column, function).splits["test"]
            for name, value in spot.tested(trained, test).items():
                kind, _, run = name.partition("/")
                name = f"{kind}/{Path(run).name}" if run else name
                scores[f"{who}/{change}/{name}"] = value
    return scores
