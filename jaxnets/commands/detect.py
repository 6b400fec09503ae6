"""Train a CNN to find objects in pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxnets.commands import checks, common, populations, starting, training
from jaxnets.commands.configs.detect import Detect, resolve
from jaxnets.commands.configs.options import given
from jaxnets.commands.history import History
from jaxnets.commands.session import Session
from jaxnets.data import DataSet, Split
from jaxnets.data.box_views import BoxViews
from jaxnets.data.sources import size_of
from jaxnets.data.sources.objects import Objects, load_objects, shares_of_pixels
from jaxnets.errors import UserError
from jaxnets.judge import detection
from jaxnets.judge.evaluate import to_look_at
from jaxnets.media import report
from jaxnets.media.boxes import drawn
from jaxnets.metrics import overlaps
from jaxnets.models.detectors import make_detector
from jaxnets.processes import distributed
from jaxnets.run.detector import TrainedDetector
from jaxnets.run.load import Description, read_description
from jaxnets.run.task import Ranking, Task
from jaxnets.train import freezing, optimizers, state
from jaxnets.train.detection import detector_step
from jaxnets.train.state import TrainState
from jaxnets.train.steps import Step

#: Classes of the classifier whose features are used; its last layer is not.
_UNUSED = 2
#: Rows of the table: name of a number -> what it is.
_ROWS = {
    "test_ap50": "average precision at an overlap of 0.5",
    "test_ap": "average precision, overlaps of 0.5 to 0.95",
    "test_ap_small": "of small objects (less than 32x32 pixels)",
    "test_ap_medium": "of medium ones",
    "test_ap_large": "of large ones (96x96 pixels or more)",
    "test_ar_100": "average recall of 100 boxes",
}
_SHOWN = {
    "loss": "training loss",
    "test_ap50": "test AP at 0.5",
    "validation_ap50": "validation AP at 0.5",
}
#: Pictures of a report, and from which score on a box is drawn.
_DRAWN, _LEAST = 8, 0.3


@dataclasses.dataclass(frozen=True)
class Built:
    """A detector's task and what belongs to it."""

    task: Task
    description: Description
    model: nn.Module
    train: Split
    steps_per_epoch: float
    start: starting.Start | None


def read(config: Detect) -> Objects:
    """The pictures that a config names."""
    size = None if config.image_size is None else size_of(config.image_size)
    return load_objects(
        config.data,
        image_size=size,
        channels=config.channels,
        background=config.background,
        skip_bad=config.skip_bad,
    )


def describe(config: Detect, dataset: DataSet) -> Description:
    """The detector that a resolved config names."""
    backbone = {"name": config.network, "num_classes": _UNUSED, "width": given(config.width)}
    network = {
        "name": "centernet",
        "num_classes": dataset.num_classes,
        "backbone": {**backbone, "dtype": config.dtype},
        "width": config.channels_inside,
        "dtype": config.dtype,
    }
    return Description.of("detector", network, dataset, members=populations.names(config))


def build(config: Detect, objects: Objects, mesh: Mesh) -> Built:
    """Turns a resolved config and pictures into a task for the loop."""
    dataset, column = objects.dataset, objects.dataset.columns["inputs"]
    size, parts = given(config.batch_size), (4,) if config.mosaic else ()
    checks.check_batch(size, mesh, config.micro_batches, *parts)
    if config.mosaic and any(side % 2 for side in column.shape[:2]):
        raise UserError("--mosaic halves pictures: give an --image-size of even numbers")
    description = describe(config, dataset)
    model = make_detector(column=column, **description.network)
    train = dataset.splits["train"]
    feed = training.make_feed(config, [train] * populations.size(config), size, mesh)
    example = jnp.zeros((1, *column.shape))
    frozen = None
    if config.freeze is not None:
        frozen = freezing.frozen_up_to(model, example, config.freeze)
    start = _start(config, dataset.num_classes)
    optimizer = partial(training.optimizer, total_steps=feed.total_steps, frozen=frozen)

    def init(member: int) -> TrainState:
        init_key, run_key = jax.random.split(jax.random.key(populations.seeds(config)[member]))
        net = state.init_net(
            model,
            init_key,
            example,
            train=False,
            optimizer=optimizer(config),
            ema=config.ema_decay is not None,
            prepare=start.into_detector if start is not None else lambda variables: variables,
        )
        return TrainState.create(run_key, {"detector": net})

    def step_of(swept: Mapping[str, Any]) -> Step:
        of = dataclasses.replace(config, **swept)
        return detector_step(
            model,
            optimizer(of),
            views=BoxViews(of.zoom, of.stretch, of.flip, of.colour),
            mosaics=of.mosaic,
            box_weight=of.box_weight,
            ema_decay=None if of.ema_decay is None else _averaging(of.ema_decay),
            micro_batches=of.micro_batches,
            frozen=frozen,
        )

    checks.network_fits(config, lambda: populations.init(config, init), mesh)
    look = detection.look_with(model)

    def scores(of: TrainState, member: int) -> dict[str, float]:
        numbers = {}
        for which in ("test", "validation"):
            if which in dataset.splits:
                told = (objects.pictures[which], dataset.class_names)
                variables = to_look_at(of).nets["detector"].averaged
                found = detection.find(look, variables, dataset.splits[which], told[0])
                for name, value in detection.scores(found, *told).items():
                    # A slash is between a number and a member of a population.
                    numbers[f"{which}_{name.replace('/', ':')}"] = value
        return numbers

    watched = "validation_ap50" if "validation" in dataset.splits else "test_ap50"
    task = training.make_task(
        config,
        f"detector of {dataset.name}",
        feed,
        init,
        populations.step(config, step_of),
        scores,
        ranking=_ranking(config, dataset),
        shown=_SHOWN,
        headline=Ranking(watched),
    )
    told = None if start is None else start.telling(init)
    return Built(task, description, model, train, feed.steps_per_epoch, told)


def _averaging(decay: Any) -> optax.Schedule:
    """The decay at a step, warmed up: a short run would keep its beginning."""
    return optimizers.half_life_decay(jnp.log(0.5) / jnp.log(decay), 1)


def _ranking(config: Detect, dataset: DataSet) -> Ranking | None:
    if config.keep_best <= 0:
        return None
    if "validation" not in dataset.splits:
        raise UserError("--keep-best needs pictures to watch: a list or folder for validation")
    return Ranking("validation_ap50")


@dataclasses.dataclass(frozen=True)
class _Start(starting.Start):
    """The weights that a detector starts from: all of another's, or its backbone's."""

    @property
    def _whole(self) -> bool:
        return self.nets is not None and "detector" in self.nets

    def into_detector(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """The detector's variables with these weights in their place."""
        if self._whole:
            return self.into("detector", own)
        backbone = self.into("classifier", _backbone(own))
        return {
            name: {**part, "backbone": backbone[name]} if name in backbone else part
            for name, part in own.items()
        }

    def telling(self, init: Any) -> starting.Start:
        """See `starting.Start.telling`."""
        if self._whole or self.nets is None:
            return super().telling(init)

        def backbone(member: int) -> Any:
            variables = init(member).nets["detector"].variables
            return SimpleNamespace(
                nets={"classifier": SimpleNamespace(variables=_backbone(variables))}
            )

        return super().telling(backbone)


def _backbone(variables: Mapping[str, Any]) -> dict[str, Any]:
    return {name: part["backbone"] for name, part in variables.items() if "backbone" in part}


def _start(config: Detect, classes: int) -> _Start | None:
    """The weights that --init-from names."""
    source = config.init_from
    if source is None:
        return None
    if Path(source, "network.json").exists() and read_description(source).kind == "detector":
        start = starting.begin(config, None, ["detector"], classes)
    else:
        start = starting.begin(config, config.network, ["classifier"], _UNUSED)
    assert start is not None
    return _Start(**{f.name: getattr(start, f.name) for f in dataclasses.fields(start)})


def suited(asked: Detect, config: Detect, dataset: DataSet) -> Detect:
    """The config with a batch that suits how many pictures there are, where none was asked for."""
    if asked.batch_size is not None:
        return config
    batch = training.fitting_batch(
        config, given(config.batch_size), len(dataset.splits["train"]), 4
    )
    return dataclasses.replace(config, batch_size=batch)


def run(config: Detect, session: Session) -> Path:
    """The command; gives the run's folder."""
    asked, config = config, resolve(config)
    loaded: list[Objects] = []

    def load(config: Detect) -> DataSet:
        loaded.append(read(config))
        return loaded[-1].dataset

    def built(config: Detect, dataset: DataSet, mesh: Mesh) -> Built:
        return build(config, loaded[-1], mesh)

    done = training.train("detect", config, built, session, partial(suited, asked), load=load)
    if not distributed.writes():
        return done.folder
    common.write_summary(done.folder, done.result.metrics, done.result)
    first = to_look_at(populations.members(done.config, done.result.state)[0])
    weights = first.nets["detector"].averaged
    trained = done.built.description.trained(done.built.model, weights, int(first.step))
    _report(History(done.folder, done.config), loaded[-1], trained)
    return done.folder


def _report(history: History, objects: Objects, trained: TrainedDetector) -> None:
    """Writes the report of a run, and prints its table."""
    numbers, names = history.numbers, objects.dataset.class_names
    rows = [(told, f"{numbers[n]:.4f}") for n, told in _ROWS.items() if n in numbers]
    rows += history.rows()
    both = [
        [numbers.get(f"test_{k}:{name.replace('/', ':')}", "") for k in ("ap50", "ap")]
        for name in names
    ]
    kinds = [[name, *of] for name, of in zip(names, both, strict=True)]
    sections = history.opening(rows, [])
    sections.append(report.Table(kinds, ("class", "AP at 0.5", "AP"), heading="Classes"))
    curves = history.curve({"loss": "training loss"}, "Training")
    curves += history.curve({"test_ap50": "test", "validation_ap50": "validation"}, "AP at 0.5")
    sections += [report.Figure(curve) for curve in curves]
    sections.append(_mistakes(objects, trained))
    history.write(rows, sections)


def _mistakes(objects: Objects, trained: TrainedDetector) -> report.Figure:
    """The test pictures with the most misses and false alarms, beside what there is."""
    test, pictures = objects.dataset.splits["test"], objects.pictures["test"]
    height, width = test.inputs.shape[1:3]
    found = trained.predict(np.asarray(test.inputs), least=_LEAST)
    scales = [shares_of_pixels(one.size, (height, width)) for one in pictures]
    # In pixels of the frames, which the network sees.
    boxes = [
        one.boxes * scale * [width, height, width, height]
        for one, scale in zip(pictures, scales, strict=True)
    ]
    told = zip(pictures, boxes, found, strict=True)
    wrong = [_wrong(of, one.labels, one.ignored, f.boxes, f.labels) for one, of, f in told]
    worst = np.argsort(wrong, kind="stable")[::-1][:_DRAWN]
    cells = []
    for row in worst:
        one = pictures[row]
        cells.append(drawn(test.inputs[row], boxes[row], one.labels, ignored=one.ignored))
        cells.append(drawn(test.inputs[row], found[row].boxes, found[row].labels))
    grid = report.grid_png(
        np.stack(cells),
        2,
        row_labels=[f"{pictures[row].path.stem[:20]} ({wrong[row]})" for row in worst],
        column_labels=["there", "found"],
    )
    caption = f"Found are boxes of a score of {_LEAST} or more; in brackets, how many are wrong."
    return report.Figure(grid, caption, "The most misses and false alarms")


def _wrong(
    boxes: np.ndarray, labels: np.ndarray, ignored: np.ndarray, found: np.ndarray, said: np.ndarray
) -> int:
    """Objects [K] that are missed, ignored ones left out, and found boxes [D] of none."""
    close = (overlaps(boxes, found) >= 0.5) & (labels[:, None] == said[None])
    return int((~close.any(axis=1) & ~ignored).sum() + (~close.any(axis=0)).sum())
