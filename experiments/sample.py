"""Make images with a trained generator."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from experiments import checks, common


@dataclasses.dataclass(frozen=True)
class Sample(common.CacheOptions):
    """Make images with the generator of a run: a grid as PNG, and all of them as .npz."""

    run: common.PositionalRun
    """Folder of a `generate` run."""
    class_label: int | None = None
    """The class to make; by default all of them in turn."""
    count: int = 64
    """How many images."""
    truncation: float | None = None
    """In (0, 1]: keep latents near the mean; more typical images, less variety."""
    seed: int = 0
    """Other seeds give other images."""
    member: int | None = None
    """Of a run with --seeds: the generator with this seed; by default the first."""
    interpolate: int | None = None
    """Make an animated picture as well: this many frames from each latent to the next, through
    --points of them and back to the first, of all classes or of the one asked for."""
    points: int = 4
    """Latents that --interpolate visits."""
    style_mixing: int | None = None
    """Of a stylegan2: draw every sample's coarse styles with every sample's fine ones, which begin
    at this stage; 1 is the first that doubles the image."""
    truncation_sweep: str | None = None
    """Draw the same samples at several truncations, such as 0.3,0.5,0.7,1.0."""
    out: Path | None = None
    """Path of the files, without .png, .npz, -walk.png, -mixing.png and -truncation.png; by default
    inside the run's samples/."""


def run(config: Sample) -> None:
    """The command."""
    import io

    import jax
    import numpy as np

    from experiments import generate, judging, looking, pictures, populations
    from jaxnets import data, evaluate, parallel, report
    from jaxnets.errors import UserError
    from jaxnets.files import check_writable, write_files
    from jaxnets.runs import read_run

    found = read_run(config.run)
    if found["experiment"] != "generate":
        raise UserError(
            f"{config.run} is a run of `{found['experiment']}`; samples need one of `generate`"
        )
    checks.seed(config)
    common.need_at_least_one(config, "count", "points")
    if config.interpolate is not None:
        common.need_at_least_one(config, "interpolate")
    if config.truncation is not None and not 0 < config.truncation <= 1:
        raise UserError(f"--truncation must be in (0, 1], got {config.truncation}")
    files = _files(config)[: 2 if config.interpolate is None else 3]
    for path in files:
        check_writable(path, "--out")
    shown_beside = looking.places(config, files[0])
    options = checks.config_of_run(config.run, found, generate.Generate, generate.resolve)
    populations.check_member(options, config.member)
    dataset = common.load_data(options)
    shape = dataset.splits["train"].images.shape[1:]
    walked = 0 if config.interpolate is None else config.interpolate * config.points
    checks.images_fit(config.count + walked * dataset.num_classes, shape)
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
    state = judging.trained(config.run, like, higher_is_better=False)
    variables = populations.member(options, state, config.member).nets["generator"].averaged
    images = built.sample(
        variables,
        jax.random.key(config.seed),
        labels if options.conditional else config.count,
        config.truncation,
    )
    columns = min(config.count, dataset.num_classes if config.class_label is None else 8)
    buffer = io.BytesIO()
    content = {"images": data.to_uint8(images)}
    if options.conditional:
        content["labels"] = labels
    np.savez_compressed(buffer, **content)  # type: ignore[arg-type]
    contents = [report.grid_png(images, columns), buffer.getvalue()]
    if config.interpolate is not None:
        walk = evaluate.make_walk(
            generate.networks(options, dataset)[0],
            latent_size=options.latent_size,
            conditional=options.conditional,
        )
        shown: Any = np.arange(dataset.num_classes, dtype=np.int32)
        if config.class_label is not None:
            shown = shown[[config.class_label]]
        if not options.conditional:
            shown = dataset.num_classes
        key = jax.random.key(config.seed)
        frames = walk(variables, key, shown, config.points, config.interpolate)
        width = min(frames.shape[1], 10)
        contents.append(pictures.animation([report.grid_png(f, width) for f in frames]))
    beside = looking.pictures(
        config,
        shown_beside,
        built.sample,
        generate.networks(options, dataset)[0],
        variables,
        labels if options.conditional else config.count,
        dataset.class_names if options.conditional else None,
    )
    try:
        write_files(dict(zip(files, contents, strict=True)) | beside)
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename}: {error.strerror}; choose another --out"
        ) from error
    print(f"{config.count} images: {files[0]} and {files[1]}")
    if config.interpolate is not None:
        print(f"{walked} frames: {files[2]}")
    for shows, path in shown_beside.items():
        print(f"{shows}: {path}")


def _files(config: Sample) -> tuple[Path, Path, Path]:
    """The grid, the arrays, and the animated picture."""
    out = config.out
    if out is None:
        which = "all" if config.class_label is None else f"class-{config.class_label}"
        of_member = "" if config.member is None else f"-member-{config.member}"
        out = config.run / "samples" / f"sample{of_member}-{which}-seed-{config.seed}"
    if not out.name:
        from jaxnets.errors import UserError

        raise UserError(f"--out {out} names no file; give a path such as {out / 'samples'}")
    grid, arrays, walk = (out.with_name(out.name + end) for end in (".png", ".npz", "-walk.png"))
    return grid, arrays, walk
