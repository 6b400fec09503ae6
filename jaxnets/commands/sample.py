"""Make images with a trained generator."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxnets import data
from jaxnets.columns import class_of
from jaxnets.commands import checks, common, populations
from jaxnets.commands.configs import constraints
from jaxnets.commands.configs.use import Sample
from jaxnets.commands.pictures import Artist
from jaxnets.commands.session import Session
from jaxnets.errors import UserError
from jaxnets.files import check_writable, write_files
from jaxnets.media import provenance, report, watermark
from jaxnets.run.load import Description, load_run, read_description
from jaxnets.run.trained import TrainedGenerator

#: The p-value from which on a batch's own watermark counts as too weak.
_WEAK = 0.001


def run(config: Sample, session: Session) -> None:
    """The command."""
    constraints.check(config)
    numbers = truncations(config.truncation_sweep)
    member = populations.name_of(config.member)
    told = read_description(config.run, member=member)
    if told.kind != "generator":
        raise UserError(f"{config.run} is a run of `classify`; samples need one of `generate`")
    label = None
    if config.class_label is not None:
        label = class_of(told.class_names, config.class_label)
    places = _places(config, label)
    walked = 0 if config.interpolate is None else config.interpolate * config.points
    _check_images(config, told, walked)
    trained: TrainedGenerator = load_run(config.run, member=member)
    labels = trained.labels(config.count, label)
    artist = _artist(config, trained)
    contents = _batch(config, artist, labels, places)
    if config.interpolate is not None:
        classes = np.arange(max(1, len(trained.class_names)), dtype=np.int32)
        classes = classes if label is None else labels[:1]
        contents[places["walk"]] = artist.walk(classes, config.points, config.interpolate)
    if config.style_mixing is not None:
        contents[places["mixing"]] = artist.mixing(labels, config.style_mixing)
    if numbers:
        contents[places["truncation"]] = artist.truncations(labels, numbers)
    try:
        write_files(contents)
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename}: {error.strerror}; choose another --out"
        ) from error
    of = "" if label is None else f" of class {label}, {trained.class_names[label]}"
    print(f"{config.count} images{of}: {places['grid']} and {places['arrays']}")
    if config.images:
        print(f"each as a PNG: {places['images']}/")
    if config.interpolate is not None:
        print(f"{walked} frames: {places['walk']}")
    for what in ("mixing", "truncation"):
        if what in places:
            print(f"{what}: {places[what]}")


def truncations(text: str | None) -> list[float]:
    """The numbers of `--truncation-sweep`.

    Raises:
      UserError: unless they are numbers in (0, 1], separated by commas.
    """
    numbers = []
    for part in [] if text is None else text.split(","):
        try:
            number = float(part)
        except ValueError:
            number = 0.0
        if not 0 < number <= 1:
            raise UserError(
                f"--truncation-sweep takes numbers in (0, 1], as in 0.3,0.5,0.7,1.0; got {part!r}"
            )
        numbers.append(number)
    if len(numbers) > 32:
        raise UserError(f"--truncation-sweep has {len(numbers)} numbers; give at most 32")
    return numbers


def _places(config: Sample, label: int | None) -> dict[str, Path]:
    """Where what was asked for is written; `label` is the class.

    Raises:
      UserError: for a place that cannot be written, or that holds images of another batch.
    """
    out = config.out
    if out is None:
        which = "all" if label is None else f"class-{label}"
        of_member = "" if config.member is None else f"-member-{config.member}"
        out = config.run / "samples" / f"sample{of_member}-{which}-seed-{config.seed}"
    if not out.name:
        raise UserError(f"--out {out} names no file; give a path such as {out / 'samples'}")
    ends = {"grid": ".png", "arrays": ".npz", "record": ".json"}
    if out.suffix in ends.values():
        out = out.with_suffix("")
    for what, asked in (
        ("walk", config.interpolate),
        ("mixing", config.style_mixing),
        ("truncation", config.truncation_sweep),
    ):
        if asked is not None:
            ends[what] = f"-{what}.png"
    places = {what: out.with_name(out.name + end) for what, end in ends.items()}
    for path in places.values():
        check_writable(path, "--out")
    if config.images:
        check_writable(out / "000000.png", "--out")
        names = {f"{i:06}.png" for i in range(config.count)}
        others = [path for path in out.glob("*") if path.name not in names]
        if others:  # which would pass for images of this batch
            raise UserError(
                f"{out} holds {others[0].name} already, which is not of these images; choose "
                "another --out"
            )
        places["images"] = out
    return places


def _check_images(config: Sample, told: Description, walked: int) -> None:
    """Fails for images that no memory, no PNG or no watermark holds."""
    shape = told.inputs.shape
    checks.images_fit(config.count + walked * max(1, len(told.class_names)), shape)
    if config.images and shape[-1] not in (1, 3):
        raise UserError(
            f"--images writes PNGs of 1 or 3 channels, and those of {config.run} have {shape[-1]}; "
            "the .npz has all of them"
        )
    if config.watermark is not None:  # which fails for images that are too small, and empty keys
        watermark.embed(np.zeros((1, *shape), np.uint8), config.watermark)


def _artist(config: Sample, trained: TrainedGenerator) -> Artist:
    """The generator, with what is done to its images and what their marks say."""
    key = config.watermark
    about = {
        **trained.facts,
        "generator": trained.config.get("generator"),
        "seed": config.seed,
        "truncation": config.truncation,
        "watermark": None if key is None else watermark.ABOUT,
    }
    artist = Artist(trained, config.seed, about)
    return artist if key is None else dataclasses.replace(artist, finish=partial(_embed, key))


def _embed(key: str, images: Any) -> Any:
    """The images [..., H, W, C], bytes or floats in [-1, 1], as bytes with a watermark."""
    pixels = images if images.dtype == np.uint8 else data.to_uint8(images)
    return watermark.embed(pixels.reshape(-1, *pixels.shape[-3:]), key).reshape(pixels.shape)


def _batch(
    config: Sample, artist: Artist, labels: np.ndarray, places: Mapping[str, Path]
) -> dict[Path, bytes]:
    """The files of the samples: a grid, all of them as arrays, a record; perhaps each alone."""
    trained = artist.trained
    pixels = artist.samples(labels, config.truncation)
    if config.watermark is not None:
        _warn_of_weakness(pixels, config.watermark)
    classes = len(trained.class_names) if trained.conditional else 0
    in_turn = config.class_label is None and classes > 0
    columns = min(config.count, classes if in_turn else 8)
    heads = trained.class_names[:columns] if in_turn else None
    content: dict[str, Any] = {"images": pixels}
    if trained.conditional:
        content |= {"labels": labels, "class_names": np.array(trained.class_names)}
    arrays = io.BytesIO()
    np.savez_compressed(arrays, **content)
    known = labels.tolist() if trained.conditional else None
    machine = common.machine()
    record = {  # what it would take to make them again
        **provenance.record(artist.about),
        "count": len(pixels),
        "image_shape": list(pixels.shape[1:]),
        "labels": known,
        "class_names": list(trained.class_names) if trained.conditional else None,
        "versions": {name: machine[name] for name in ("jaxnets", "jax", "flax", "python")},
    }
    contents = {
        places["grid"]: provenance.mark(
            report.grid_png(pixels, columns, column_labels=heads), artist.about
        ),
        places["arrays"]: arrays.getvalue(),
        places["record"]: (json.dumps(record, indent=2) + "\n").encode(),
    }
    if config.images:
        column: Any = trained.columns["inputs"]
        names = None if known is None else [trained.class_names[k] for k in known]
        contents |= column.files(pixels, places["images"], artist.about, names)
    return contents


def _warn_of_weakness(pixels: np.ndarray, key: str) -> None:
    """Says so where the images are too few and too small to hold a watermark."""
    chance = watermark.detect(pixels, key).batch_p_value
    if chance > _WEAK:
        count, height, width = pixels.shape[:3]
        print(
            f"warning: the watermark is too weak to be found in these {count} images of "
            f"{height}x{width} pixels, even as they are (chance {chance:.2g}); larger images, or "
            "more of them, hold more",
            file=sys.stderr,
        )
