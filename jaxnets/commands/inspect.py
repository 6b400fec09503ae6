"""Learn from faultless pictures, and tell faulty ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets import data, models
from jaxnets.columns import Image
from jaxnets.commands import anogan, common, training
from jaxnets.commands.configs import constraints
from jaxnets.commands.configs.inspect import Inspect
from jaxnets.commands.session import Session
from jaxnets.data import DataSet, Split
from jaxnets.data.sources import size_of
from jaxnets.data.sources.inspection import Inspection, load_inspection
from jaxnets.errors import UserError
from jaxnets.files import check_path, read_json
from jaxnets.judge import inspection
from jaxnets.judge.inspection import Scored
from jaxnets.media import report
from jaxnets.media.heat import outlined, painted
from jaxnets.models.inspectors import layers_of
from jaxnets.models.pretrained import load_pretrained
from jaxnets.run.checkpoint import Checkpoints
from jaxnets.run.inspector import TrainedInspector
from jaxnets.run.load import Description, load_run
from jaxnets.run.runs import newest_checkpoint, read_run
from jaxnets.run.trained import TrainedClassifier
from jaxnets.train.state import Net, TrainState

#: Layers of EfficientNet-Lite0 that suit a method.
_LAYERS = {
    "padim": ("stage3", "stage4", "stage5", "stage6"),
    "patchcore": ("stage4", "stage6"),
}
#: Side of the pictures where none is asked for.
_SIDE = {"padim": 224, "patchcore": 224, "f-anogan": 128}
#: Pictures that the report shows of each end.
_SHOWN = 8

_ROWS = {
    "auroc": ("AUROC of pictures, all faults", ".4f"),
    "average_precision": ("average precision of pictures", ".4f"),
    "pixel_auroc": ("AUROC of pixels", ".4f"),
    "pixel_pro": ("PRO of regions, up to 30% false positives", ".4f"),
    "false_alarms": ("false alarms at the threshold, on test pictures", ".2%"),
    "recall": ("faulty pictures told at the threshold", ".2%"),
}


@dataclasses.dataclass(frozen=True)
class Backbone:
    """The CNN that pictures are looked at through.

    Attributes:
      network: arguments of `jaxnets.models.classifier_of`.
      variables: its weights.
      shape: (H, W, C) of the images that it was made for.
      usual: layers that suit a method; empty where that is not known.
    """

    network: Mapping[str, Any]
    variables: Mapping[str, Any]
    shape: tuple[int, int, int]
    usual: tuple[str, ...] = ()


def backbone(config: Inspect) -> Backbone:
    """The CNN that --features names.

    Raises:
      UserError: if there is none, or it does not look at pictures in grey or colour.
    """
    if config.features == "imagenet":
        name, side = "efficientnet_lite0", 224
        module, variables = load_pretrained(name, image_shape=(side, side, 3))
        network = {"name": name, "num_classes": module.num_classes}  # type: ignore[attr-defined]
        return Backbone(network, variables, (side, side, 3), _LAYERS[config.method])
    check_path(config.features, "--features")
    trained = load_run(config.features)
    column = trained.columns["inputs"]
    if not isinstance(trained, TrainedClassifier) or column.kind != "image":
        raise UserError(f"--features {config.features} is no run of `classify` on pictures")
    if column.shape[-1] not in (1, 3):
        raise UserError(f"--features {config.features} looks at {column.shape[-1]} channels")
    return Backbone(trained.description["network"], trained.variables, column.shape)


def _network(config: Inspect, cnn: Backbone | None, shape: Any, pictures: int) -> dict[str, Any]:
    """Arguments of `jaxnets.models.make_inspector`, but for the column."""
    common = {"name": config.method, "num_classes": None}
    if cnn is None:
        if min(shape[:2]) < config.patch:
            raise UserError(
                f"--patch {config.patch} is larger than --image-size {shape[0]} {shape[1]}"
            )
        fields = {
            name: getattr(config, name) for name in ("patch", "latent_size", "width", "kappa")
        }
        return {**common, **fields}
    network = dict(cnn.network)
    module = models.classifier_of(network.pop("name"), Image(cnn.shape), **network)
    try:
        places = layers_of(module, cnn.variables, shape)
    except UserError as error:
        height, width, _ = cnn.shape
        raise UserError(
            f"--features {config.features}: {error}; leave --image-size out for its own, {height}x"
            f"{width}"
        ) from error
    layers = config.layers or cnn.usual or tuple(places)[-3 if config.method == "padim" else -2 :]
    for layer in layers:
        if layer not in places:
            raise UserError(f"--layers: there is no {layer!r}; choose from {', '.join(places)}")
    grid = places[layers[(len(layers) - 1) // 2]][:2]
    size = sum(places[layer][-1] for layer in layers)
    common |= {
        "backbone": dict(cnn.network),
        "backbone_size": list(cnn.shape[:2]),
        "layers": list(layers),
        "grid": list(grid),
        "size": size,
    }
    if config.method == "padim":
        return {**common, "channels": min(config.channels, size)}
    bank = inspection.bank_size(pictures, grid[0] * grid[1], size, config.coreset)
    return {**common, "bank": bank, "neighbours": config.neighbours, "place": config.place}


@dataclasses.dataclass(frozen=True)
class _Built:
    """What `training.open_run` asks of a task that the loop may not run."""

    task: Any
    description: Description
    train: Split
    steps_per_epoch: float = 1.0
    start: None = None


@dataclasses.dataclass(frozen=True)
class _Named:
    name: str


def read(config: Inspect, channels: int | None, own: tuple[int, ...] | None) -> Inspection:
    """The pictures that a config names.

    Args:
      config: of the run.
      channels: 1, 3, or None for those of the files.
      own: size that a run's CNN was trained with.
    """
    asked = config.image_size or own or (_SIDE[config.method],)
    size = size_of(asked)
    return load_inspection(
        config.data, image_size=size, channels=channels, background=config.background
    )


def run(config: Inspect, session: Session) -> Path:
    """The command; gives the run's folder."""
    constraints.check(config)
    constraints.check_needs(config, config)
    cnn = None if config.method == "f-anogan" else backbone(config)
    own = None if cnn is None or cnn.usual else cnn.shape[:2]
    pictures = read(config, None if cnn is None else cnn.shape[-1], own)
    dataset = pictures.dataset
    train, held_out = data.split_validation(dataset.splits["train"], config.held_out, config.seed)
    column = dataset.columns["inputs"]
    network = _network(config, cnn, column.shape, len(train))
    description = Description.of("inspector", network, dataset, members=["inspector"])
    task = _Named(f"{config.method} on {dataset.name}")
    folder = training.open_run(
        "inspect", config, dataset, session, _Built(task, description, train)
    )
    print(f"note: {_told(config, train, held_out, column.shape)}", flush=True)
    if newest_checkpoint(folder) is None:
        _learn(config, description, cnn, train, held_out, folder, session)
    trained: TrainedInspector = load_run(folder)
    numbers, scored, held = evaluate(trained, pictures, held_out)
    if not (folder / "summary.json").exists():
        common.write_summary(folder, numbers, None)
    _write(config, folder, trained, pictures, numbers, scored, held)
    return folder


def _told(config: Inspect, train: Split, held_out: Split, shape: tuple[int, ...]) -> str:
    """What is learnt from, and what the threshold is worth."""
    needed = int(np.ceil(1 / config.false_alarms)) - 1
    few = f", and --false-alarms {config.false_alarms:g} takes {needed}: it is their highest score"
    return (
        f"{len(train)} faultless pictures are learnt from, as a whole resized to {shape[0]}x"
        f"{shape[1]}; {len(held_out)} others give the threshold" + few * (len(held_out) < needed)
    )


def _learn(
    config: Inspect,
    description: Description,
    cnn: Backbone | None,
    train: Split,
    held_out: Split,
    folder: Path,
    session: Session,
) -> None:
    """Learns, sets the threshold, and saves both; no test picture is seen."""
    fields = dict(description.network)
    column: Any = description.inputs
    module = models.make_inspector(fields.pop("name"), column, **fields)
    example = jnp.zeros((1, *column.shape))
    init = partial(module.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), example)  # all of them are learnt
    variables: Any = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), dict(shapes))
    if cnn is None:
        variables = anogan.learn(config, module, variables, train, held_out, folder, session)
    else:
        weights = {
            name: {"method": {"embedding": {"network": of}}} for name, of in cnn.variables.items()
        }
        variables = {**variables, **weights}
        if config.method == "padim":
            variables = inspection.learn_padim(module, variables, train, config.seed)
        else:
            variables = inspection.learn_patchcore(
                module, variables, train, config.seed, config.coreset
            )
    scored = inspection.score(module, variables, held_out)
    variables = inspection.with_threshold(variables, scored, config.false_alarms)
    params = variables.pop("params")
    net = Net(jax.tree.map(jnp.asarray, params), jax.tree.map(jnp.asarray, variables), ())
    state = TrainState.create(jax.random.key(config.seed), {"inspector": net})
    with Checkpoints(folder / "checkpoints", about=read_run(folder)) as checkpoints:
        checkpoints.save_and_wait(state)


def evaluate(
    trained: TrainedInspector, pictures: Inspection, held_out: Split | None = None
) -> tuple[dict[str, Any], Scored, Scored | None]:
    """The numbers of a run on test pictures, and what it says of them and of held-out ones."""
    test: Split = pictures.dataset.splits["test"]
    scored = inspection.score(trained.module, trained.variables, test)
    held = None
    if held_out is not None:
        held = inspection.score(trained.module, trained.variables, held_out)
    masks = pictures.masked() if any(pictures.masks) else None
    names = pictures.dataset.class_names
    numbers = inspection.measure(scored, test.target, names, trained.threshold, masks)
    return {"threshold": trained.threshold, **numbers}, scored, held


def _write(
    config: Inspect,
    folder: Path,
    trained: TrainedInspector,
    pictures: Inspection,
    numbers: Mapping[str, Any],
    scored: Scored,
    held: Scored | None,
) -> None:
    """Writes the report of a run, and prints its table."""
    dataset: DataSet = pictures.dataset
    about = read_json(folder / "about.json")
    rows = [(told, f"{numbers[n]:{form}}") for n, (told, form) in _ROWS.items() if n in numbers]
    kinds = [
        [name, int((dataset.splits["test"].target == label).sum())]
        + [
            numbers.get(f"{n}/{name}")
            for n in ("auroc", "average_precision", "recall", "pixel_auroc")
        ]
        for label, name in enumerate(dataset.class_names)
        if label
    ]
    header = [
        "fault",
        "pictures",
        "AUROC",
        "average precision",
        "told at the threshold",
        "AUROC of pixels",
    ]
    notes = report.Text("\n\n".join(about["notes"]), "About the data")
    sections: list[report.Section] = [
        report.Table([*about["rows"].items()], heading="The run"),
        *([notes] if about["notes"] else []),
        report.Table(rows, heading="Results"),
    ]
    if kinds:
        sections.append(report.Table(kinds, header, heading="Kinds of faults"))
    sections += [
        _distribution(trained, dataset, scored, held),
        *_pictures(trained, pictures, scored),
    ]
    path = report.html_report(folder / "report.html", about["title"], sections)
    common.print_table(about["title"], rows)
    print(f"  report: {path}")


def _distribution(
    trained: TrainedInspector, dataset: DataSet, scored: Scored, held: Scored | None
) -> report.Figure:
    """Which share of each kind of picture is above every threshold."""
    labels = dataset.splits["test"].target
    groups = {
        name: scored.scores[labels == label] for label, name in enumerate(dataset.class_names)
    }
    if held is not None:
        groups["held out for the threshold"] = held.scores
    places = np.linspace(min(map(np.min, groups.values())), np.quantile(scored.scores, 0.98), 60)
    records = [
        {"score": x, **{name: float((of > x).mean()) for name, of in groups.items()}}
        for x in places.tolist()
    ]
    curve = report.curves_svg(records, list(groups), "score", "share of pictures above a score")
    caption = f"The threshold is {trained.threshold:.4g}."
    return report.Figure(curve, caption, "Scores")


def _pictures(
    trained: TrainedInspector, pictures: Inspection, scored: Scored
) -> list[report.Section]:
    """The most and the least suspicious test pictures, each beside its heat map."""
    test, order = pictures.dataset.splits["test"], np.argsort(-scored.scores, kind="stable")
    faulty = test.target > 0
    missed = order[faulty[order]][::-1][:_SHOWN]
    alarms = order[~faulty[order]][:_SHOWN]
    masks = dict(zip(*pictures.masked(), strict=True)) if any(pictures.masks) else {}
    groups = {
        "The most suspicious": order[:_SHOWN],
        "Faulty, and least suspicious": missed,
        "Faultless, and most suspicious": alarms,
        "The least suspicious": order[::-1][:_SHOWN],
    }
    caption = (
        "On the right, red is what is unusual, at half strength as much as the threshold; the "
        "outline is that of the mask."
    )

    def figure(heading: str, rows: np.ndarray) -> report.Figure:
        images = test.inputs[rows]
        plain = np.broadcast_to(images, (*images.shape[:3], 3)).astype(np.uint8)
        hot = painted(images, trained.heat(scored.maps[rows]))
        there = np.stack([masks.get(int(r), np.zeros(images.shape[1:3], bool)) for r in rows])
        cells = np.stack([plain, outlined(hot, there)], axis=1).reshape(-1, *plain.shape[1:])
        names = [
            f"{pictures.dataset.class_names[test.target[r]]} {pictures.paths[r].stem[:24]} "
            f"({scored.scores[r]:.3g})"
            for r in rows
        ]
        return report.Figure(report.grid_png(cells, 2, row_labels=names), caption, heading)

    return [figure(heading, rows) for heading, rows in groups.items() if len(rows)]


def read_again(config: Inspect, size: tuple[int, int], channels: int) -> Inspection:
    """The pictures of a run as its column has them."""
    return read(dataclasses.replace(config, image_size=size), channels, None)


def evaluate_again(folder: Path, config: Inspect) -> tuple[DataSet, int, dict[str, Any]]:
    """The pictures of a run as they are now, its step and its numbers."""
    trained: TrainedInspector = load_run(folder)
    height, width, channels = trained.columns["inputs"].shape
    pictures = read_again(config, (height, width), channels)
    return pictures.dataset, trained.step, evaluate(trained, pictures)[0]
