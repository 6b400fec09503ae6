"""Make images with a trained generator."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from jaxnets.commands import checks, common
from jaxnets.commands.configs import constraints
from jaxnets.commands.configs.constraints import COUNT, SEED, Range


@dataclasses.dataclass(frozen=True)
class Sample(common.CacheOptions):
    """Make images with the generator of a run: a grid as PNG, and all of them as .npz.

    Every PNG is marked as synthetic, and a JSON beside the .npz says what made it.
    """

    run: common.PositionalRun
    """Folder of a `generate` run."""
    class_label: int | None = None
    """The class to make; by default all of them in turn."""
    count: Annotated[int, COUNT] = 64
    """How many images."""
    truncation: Annotated[float | None, Range(above=0, most=1)] = None
    """In (0, 1]: keep latents near the mean; more typical images, less variety."""
    seed: Annotated[int, SEED] = 0
    """Other seeds give other images."""
    member: str | None = None
    """Of a run with --seeds: the generator with this seed; of one with --sweep, that with this
    value, such as gamma=0.1 (and gamma=0.1,seed-1 with --seeds too); by default the first."""
    interpolate: Annotated[int | None, COUNT] = None
    """Make an animated picture as well: this many frames from each latent to the next, through
    --points of them and back to the first, of all classes or of the one asked for."""
    points: Annotated[int, COUNT] = 4
    """Latents that --interpolate visits."""
    images: bool = False
    """Write each image as a PNG of its own as well, into a folder."""
    watermark: str | None = None
    """Secret text or number: put an invisible watermark into every image, which `detect --key`
    finds. Who guesses it can find and remove the watermark; it is written nowhere."""
    style_mixing: int | None = None
    """Of a stylegan2: draw every sample's coarse styles with every sample's fine ones, which begin
    at this stage; 1 is the first that doubles the image."""
    truncation_sweep: str | None = None
    """Draw the same samples at several truncations, such as 0.3,0.5,0.7,1.0."""
    out: Path | None = None
    """Path of the files, without .png, .npz, .json, -walk.png, -mixing.png and -truncation.png, and
    of the folder of --images; by default inside the run's samples/."""


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


def run(config: Sample) -> None:
    """The command."""
    import sys

    import jax
    import numpy as np

    from jaxnets import data, evaluate, parallel, provenance, report, watermark
    from jaxnets.commands import gan_step, generate, judging, looking, pictures, populations
    from jaxnets.commands.configs import generate as gan_config
    from jaxnets.errors import UserError
    from jaxnets.files import write_files
    from jaxnets.runs import read_run

    found = read_run(config.run)
    if found["experiment"] != "generate":
        raise UserError(
            f"{config.run} is a run of `{found['experiment']}`; samples need one of `generate`"
        )
    places = _check(config)
    shown_beside = looking.places(config, places.grid)
    options = checks.config_of_run(config.run, found, gan_config.Generate, gan_config.read_again)
    member = populations.number_of(options, config.member)
    dataset = common.load_data(options)
    shape = dataset.splits["train"].inputs.shape[1:]
    walked = 0 if config.interpolate is None else config.interpolate * config.points
    checks.images_fit(config.count + walked * dataset.num_classes, shape)
    if config.images and shape[-1] not in (1, 3):
        raise UserError(
            f"--images writes PNGs of 1 or 3 channels, and {dataset.name} has {shape[-1]}; the "
            ".npz has all of them"
        )
    if config.watermark is not None:  # which fails for images that are too small, and empty keys
        watermark.embed(np.zeros((1, *shape), np.uint8), config.watermark)
    labels = np.arange(config.count, dtype=np.int32) % dataset.num_classes
    if config.class_label is not None:
        if not options.conditional:
            raise UserError(f"{config.run} was trained without classes; leave --class-label out")
        if not 0 <= config.class_label < dataset.num_classes:
            raise UserError(
                f"class label {config.class_label} is outside 0..{dataset.num_classes - 1} "
                f"({dataset.name} has {dataset.num_classes} classes)"
            )
        labels = np.full(config.count, config.class_label, np.int32)
    mesh = parallel.make_mesh(1)
    built = generate.build(dataclasses.replace(options, judge=None), dataset, mesh)
    built.task.pipeline.close()
    like = parallel.replicate(built.task.init(), mesh)
    state = judging.trained(config.run, like, best_by=options.best_by)
    one = populations.member(options, state, member)
    variables = one.nets["generator"].averaged
    made = built.sample(
        variables,
        jax.random.key(config.seed),
        labels if options.conditional else config.count,
        config.truncation,
    )

    def finished(images: Any) -> Any:
        """Bytes with the watermark where one is asked for; else as the generator made them."""
        if config.watermark is None:
            return images
        flat = data.to_uint8(images).reshape(-1, *shape)
        return watermark.embed(flat, config.watermark).reshape(images.shape)

    made = finished(made)
    pixels = made if made.dtype == np.uint8 else data.to_uint8(made)
    if config.watermark is not None:
        found = watermark.detect(pixels, config.watermark).batch_p_value
        if found > _FOUND:
            print(
                f"warning: the watermark is too weak to be found in these {config.count} images of "
                f"{shape[0]}x{shape[1]} pixels, even as they are (chance {found:.2g}); larger "
                "images, or more of them, hold more",
                file=sys.stderr,
            )
    about = {
        **pictures.facts(built.task.name, dataset, one),
        "generator": options.generator,
        "seed": config.seed,
        "truncation": config.truncation,
        "watermark": None if config.watermark is None else watermark.ABOUT,
    }
    columns = min(config.count, dataset.num_classes if config.class_label is None else 8)
    content = {"images": pixels}
    if options.conditional:
        content["labels"] = labels
    contents = {
        places.grid: provenance.mark(report.grid_png(made, columns), about),
        places.arrays: _npz(content),
        places.record: _record(about, content),
    }
    if config.interpolate is not None:
        walk = evaluate.make_walk(
            gan_step.networks(options, dataset)[0],
            latent_size=common.given(options.latent_size),
            conditional=options.conditional,
        )
        shown: Any = np.arange(dataset.num_classes, dtype=np.int32)
        if config.class_label is not None:
            shown = shown[[config.class_label]]
        if not options.conditional:
            shown = dataset.num_classes
        key = jax.random.key(config.seed)
        frames = finished(walk(variables, key, shown, config.points, config.interpolate))
        width = min(frames.shape[1], 10)
        moving = pictures.animation([report.grid_png(f, width) for f in frames])
        contents[places.walk] = provenance.mark(moving, {**about, "truncation": None})
    if config.images:
        contents |= _each(places.images, content, about)
    beside = looking.pictures(
        config,
        shown_beside,
        built.sample,
        gan_step.networks(options, dataset)[0],
        variables,
        labels if options.conditional else config.count,
        dataset.class_names if options.conditional else None,
        finished=finished,
    )
    for path, picture in beside.items():
        contents[path] = provenance.mark(picture, {**about, "truncation": None})
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
    for shows, path in shown_beside.items():
        print(f"{shows}: {path}")


def _check(config: Sample) -> _Places:
    """Fails for numbers and places that no samples can be made with or written to."""
    from jaxnets.errors import UserError
    from jaxnets.files import check_writable

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
        from jaxnets.errors import UserError

        raise UserError(f"--out {out} names no file; give a path such as {out / 'samples'}")
    ends = (".png", ".npz", ".json", "-walk.png")
    return _Places(*(out.with_name(out.name + end) for end in ends), images=out)


def _name(index: int) -> str:
    return f"{index:06}.png"


def _npz(content: Mapping[str, Any]) -> bytes:
    import io

    import numpy as np

    buffer = io.BytesIO()
    np.savez_compressed(buffer, **content)  # type: ignore[arg-type]
    return buffer.getvalue()


def _record(about: Mapping[str, Any], content: Mapping[str, Any]) -> bytes:
    """The JSON beside a batch: that it is synthetic, and what it would take to make it again."""
    import json

    from jaxnets import provenance

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
    import io

    from PIL import Image

    from jaxnets import provenance

    found = {}
    for i, pixels in enumerate(content["images"]):
        buffer = io.BytesIO()
        plane = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
        Image.fromarray(plane).save(buffer, "PNG")
        label = int(content["labels"][i]) if "labels" in content else None
        found[folder / _name(i)] = provenance.mark(buffer.getvalue(), {**about, "label": label})
    return found
