"""Make images with a trained generator."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from jaxnets import data, parallel, provenance, report, sampling, watermark
from jaxnets.commands import checks, common, generate, judging, looking, pictures, populations
from jaxnets.commands.configs import constraints
from jaxnets.commands.configs.generate import Generate, read_again
from jaxnets.commands.configs.options import given
from jaxnets.commands.configs.reading import config_of_run
from jaxnets.commands.configs.use import Sample
from jaxnets.commands.gan_step import Built
from jaxnets.commands.session import Session
from jaxnets.data import DataSet
from jaxnets.errors import UserError
from jaxnets.files import check_writable, write_files
from jaxnets.runs import read_run
from jaxnets.state import TrainState

#: The p-value from which on a batch's own watermark counts as not to be found.
_FOUND = 0.001


@dataclasses.dataclass(frozen=True)
class _Places:
    """Where things are written."""

    grid: Path
    arrays: Path
    record: Path
    walk: Path
    images: Path


def run(config: Sample, session: Session) -> None:
    """The command."""
    record = read_run(config.run)
    if record["experiment"] != "generate":
        raise UserError(
            f"{config.run} is a run of `{record['experiment']}`; samples need one of `generate`"
        )
    places = _check(config)
    beside = looking.places(config, places.grid)
    options = config_of_run(config.run, record, Generate, read_again)
    member = populations.number_of(options, config.member)
    dataset = common.load_data(options)
    walked = 0 if config.interpolate is None else config.interpolate * config.points
    _check_images(config, dataset, walked)
    labels = _labels(config, options, dataset)
    maker = _maker(config, options, dataset, labels, member)
    contents = maker.batch(places)
    if config.interpolate is not None:
        contents[places.walk] = maker.walk(config.interpolate)
    contents |= maker.beside(beside)
    try:
        write_files(contents)
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename}: {error.strerror}; choose another --out"
        ) from error
    print(f"{config.count} images: {places.grid} and {places.arrays}")
    if config.images:
        print(f"each as a PNG: {places.images}/")
    if config.interpolate is not None:
        print(f"{walked} frames: {places.walk}")
    for shows, path in beside.items():
        print(f"{shows}: {path}")


def _check_images(config: Sample, dataset: DataSet, walked: int) -> None:
    """Fails for images that no memory, no PNG or no watermark holds."""
    shape = dataset.splits["train"].inputs.shape[1:]
    checks.images_fit(config.count + walked * dataset.num_classes, shape)
    if config.images and shape[-1] not in (1, 3):
        raise UserError(
            f"--images writes PNGs of 1 or 3 channels, and {dataset.name} has {shape[-1]}; the "
            ".npz has all of them"
        )
    if config.watermark is not None:  # which fails for images that are too small, and empty keys
        watermark.embed(np.zeros((1, *shape), np.uint8), config.watermark)


def _labels(config: Sample, options: Generate, dataset: DataSet) -> np.ndarray:
    """The classes to make, one for each image."""
    if config.class_label is None:
        return np.arange(config.count, dtype=np.int32) % dataset.num_classes
    if not options.conditional:
        raise UserError(f"{config.run} was trained without classes; leave --class-label out")
    if not 0 <= config.class_label < dataset.num_classes:
        raise UserError(
            f"class label {config.class_label} is outside 0..{dataset.num_classes - 1} "
            f"({dataset.name} has {dataset.num_classes} classes)"
        )
    return np.full(config.count, config.class_label, np.int32)


def _maker(
    config: Sample, options: Generate, dataset: DataSet, labels: np.ndarray, member: int
) -> _Maker:
    """The generator of a run's member, with its trained weights."""
    mesh = parallel.make_mesh(1)
    built = generate.build(dataclasses.replace(options, judge=None), dataset, mesh)
    built.task.pipeline.close()
    like = parallel.replicate(built.task.init(), mesh)
    state = judging.trained(config.run, like, best_by=options.best_by)
    return _Maker(
        config, options, dataset, labels, built, populations.member(options, state, member)
    )


@dataclasses.dataclass(frozen=True)
class _Maker:
    """A trained generator, and what is asked of it."""

    config: Sample
    options: Generate
    dataset: DataSet
    labels: np.ndarray
    built: Built
    state: TrainState

    @property
    def variables(self) -> Any:
        """Of the generator's average."""
        return self.state.nets["generator"].averaged

    @property
    def asked(self) -> Any:
        """What the generator is asked for: labels, or how many images."""
        return self.labels if self.options.conditional else self.config.count

    @property
    def about(self) -> dict[str, Any]:
        """What marks and records say of the images."""
        key = self.config.watermark
        return {
            **pictures.facts(self.built.task.name, self.dataset, self.state),
            "generator": self.options.generator,
            "seed": self.config.seed,
            "truncation": self.config.truncation,
            "watermark": None if key is None else watermark.ABOUT,
        }

    def finished(self, images: Any) -> Any:
        """Bytes with the watermark where one is asked for; else as the generator made them."""
        if self.config.watermark is None:
            return images
        pixels = data.to_uint8(images)
        flat = pixels.reshape(-1, *pixels.shape[-3:])
        return watermark.embed(flat, self.config.watermark).reshape(pixels.shape)

    def batch(self, places: _Places) -> dict[Path, bytes]:
        """The files of the samples: a grid, all of them as arrays, a record; perhaps each alone."""
        config = self.config
        key = jax.random.key(config.seed)
        made = self.finished(self.built.sample(self.variables, key, self.asked, config.truncation))
        pixels = made if made.dtype == np.uint8 else data.to_uint8(made)
        if config.watermark is not None:
            _warn_of_weakness(pixels, config.watermark)
        content = {"images": pixels}
        if self.options.conditional:
            content["labels"] = self.labels
        classes = self.dataset.num_classes if config.class_label is None else 8
        grid = report.grid_png(made, min(config.count, classes))
        contents = {
            places.grid: provenance.mark(grid, self.about),
            places.arrays: _npz(content),
            places.record: _record(self.about, content),
        }
        return contents | (_each(places.images, content, self.about) if config.images else {})

    def walk(self, frames: int) -> bytes:
        """An animated picture of what lies between latents."""
        walk = sampling.make_walk(
            self.built.generator,
            latent_size=given(self.options.latent_size),
            conditional=self.options.conditional,
        )
        classes: Any = np.arange(self.dataset.num_classes, dtype=np.int32)
        if self.config.class_label is not None:
            classes = classes[[self.config.class_label]]
        shown = classes if self.options.conditional else len(classes)
        key = jax.random.key(self.config.seed)
        images = self.finished(walk(self.variables, key, shown, self.config.points, frames))
        columns = min(images.shape[1], 10)
        moving = pictures.animation([report.grid_png(frame, columns) for frame in images])
        return provenance.mark(moving, {**self.about, "truncation": None})

    def beside(self, places: Mapping[str, Path]) -> dict[Path, bytes]:
        """The pictures of truncations and mixed styles that were asked for."""
        drawn = looking.pictures(
            self.config,
            places,
            self.built.sample,
            self.built.generator,
            self.variables,
            self.asked,
            self.dataset.class_names if self.options.conditional else None,
            finished=self.finished,
        )
        about = {**self.about, "truncation": None}
        return {path: provenance.mark(picture, about) for path, picture in drawn.items()}


def _warn_of_weakness(pixels: np.ndarray, key: str) -> None:
    """Says so where the images are too few and too small to hold a watermark."""
    chance = watermark.detect(pixels, key).batch_p_value
    if chance > _FOUND:
        count, height, width = pixels.shape[:3]
        print(
            f"warning: the watermark is too weak to be found in these {count} images of "
            f"{height}x{width} pixels, even as they are (chance {chance:.2g}); larger images, or "
            "more of them, hold more",
            file=sys.stderr,
        )


def _check(config: Sample) -> _Places:
    """Fails for numbers and places that no samples can be made with or written to."""
    constraints.check(config)
    places = _places(config)
    for path in (places.grid, places.arrays, places.record):
        check_writable(path, "--out")
    if config.interpolate is not None:
        check_writable(places.walk, "--out")
    if config.images:
        check_writable(places.images / _name(0), "--out")
        names = {_name(i) for i in range(config.count)}
        others = [path for path in places.images.glob("*") if path.name not in names]
        if others:  # which would pass for images of this batch
            raise UserError(
                f"{places.images} holds {others[0].name} already, which is not of these images; "
                "choose another --out"
            )
    return places


def _places(config: Sample) -> _Places:
    out = config.out
    if out is None:
        which = "all" if config.class_label is None else f"class-{config.class_label}"
        of_member = "" if config.member is None else f"-member-{config.member}"
        out = config.run / "samples" / f"sample{of_member}-{which}-seed-{config.seed}"
    if not out.name:
        raise UserError(f"--out {out} names no file; give a path such as {out / 'samples'}")
    ends = (".png", ".npz", ".json", "-walk.png")
    return _Places(*(out.with_name(out.name + end) for end in ends), images=out)


def _name(index: int) -> str:
    return f"{index:06}.png"


def _npz(content: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **content)  # type: ignore[arg-type]
    return buffer.getvalue()


def _record(about: Mapping[str, Any], content: Mapping[str, Any]) -> bytes:
    """The JSON beside a batch: that it is synthetic, and what it would take to make it again."""
    machine = common.machine()
    batch = {
        "count": len(content["images"]),
        "image_shape": list(content["images"].shape[1:]),
        "labels": content["labels"].tolist() if "labels" in content else None,
        "versions": {name: machine[name] for name in ("jaxnets", "jax", "flax", "python")},
    }
    return (json.dumps({**provenance.record(about), **batch}, indent=2) + "\n").encode()


def _each(folder: Path, content: Mapping[str, Any], about: Mapping[str, Any]) -> dict[Path, bytes]:
    """Every image as the bytes of a marked PNG of its own size."""
    found = {}
    for i, pixels in enumerate(content["images"]):
        buffer = io.BytesIO()
        plane = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
        Image.fromarray(plane).save(buffer, "PNG")
        label = int(content["labels"][i]) if "labels" in content else None
        found[folder / _name(i)] = provenance.mark(buffer.getvalue(), {**about, "label": label})
    return found
