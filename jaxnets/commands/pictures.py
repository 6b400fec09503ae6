"""What a report shows of a GAN."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxnets import evaluate, metrics, provenance, report
from jaxnets.commands.gan_step import Built
from jaxnets.commands.provenance import fingerprint
from jaxnets.data import DataSet
from jaxnets.files import write_files
from jaxnets.log import read_records
from jaxnets.scoring import Looks
from jaxnets.state import TrainState


def animation(frames: Sequence[bytes], *, milliseconds: int = 60) -> bytes:
    """PNGs of one size, one after the other and over again, as an animated PNG."""
    first, *others = [Image.open(io.BytesIO(frame)) for frame in frames]
    buffer = io.BytesIO()
    first.save(
        buffer, format="PNG", save_all=True, append_images=others, duration=milliseconds, loop=0
    )
    return buffer.getvalue()


def facts(model: str, dataset: DataSet, state: TrainState) -> dict[str, str]:
    """What the mark of a generated image says of its generator: which, of what data, which weights.

    Args:
      model: its name.
      dataset: that it was trained on.
      state: of one GAN, whole on this process.
    """
    return {
        "model": model,
        "weights": evaluate.digest(state.nets["generator"].averaged),
        "data": dataset.name,
        **fingerprint(dataset),
    }


def preview(
    path: Path, images: Any, columns: int, about: Mapping[str, str], **options: Any
) -> None:
    """Writes a grid of generated images with their mark; `options` are those of `grid_png`."""
    picture = report.grid_png(images, columns, **options)
    write_files({path: provenance.mark(picture, about)})


def nearest(
    looks: Looks, path: Path, about: Mapping[str, str] | None = None, *, neighbours: int = 4
) -> Path:
    """Writes a picture of samples that look most like copies, beside the nearest training images.

    Of each class, or of all where samples have none, it shows the sample that is nearest to a
    training image in the CNN's features. Its mark says `about` the generator what `facts` gave.
    """
    samples, names = looks.samples, looks.dataset.class_names
    away = looks.memorisation.samples.distance[:, 0]
    if looks.conditional:
        classes = np.unique(samples.target)[:20]
        of_class = [np.flatnonzero(samples.target == c) for c in classes]
        rows = np.array([found[away[found].argmin()] for found in of_class])
        labels = [names[c] for c in classes]
    else:
        rows, labels = np.argsort(away)[:10], None
    k = min(neighbours, len(looks.train))
    found = metrics.nearest_neighbours(looks.made[1][rows], looks.trained, k=k)
    near = looks.train.inputs[found.index]
    pixels = np.concatenate([samples.inputs[rows][:, None], near], axis=1)
    columns = ["sample", *(f"{distance + 1}." for distance in range(k))]
    picture = report.grid_png(
        pixels.reshape(-1, *pixels.shape[2:]), k + 1, row_labels=labels, column_labels=columns
    )
    write_files({path: provenance.mark(picture, about or {}, composite=True)})
    return path


def figures(built: Built, state: TrainState, dataset: DataSet, folder: Path) -> list[Any]:
    """A GAN's part of a report: samples beside real images, and its curves.

    The samples are of the state given, that of one GAN.
    """
    records = [r for r in read_records(folder / "metrics.jsonl") if r["split"] == "train"]
    test = dataset.splits["test"]
    classes = min(dataset.num_classes, 20)
    labels = np.repeat(np.arange(classes, dtype=np.int32), 8)
    fakes = built.samples_like(state, labels, seed=2).inputs.reshape(
        classes, 8, *test.inputs.shape[1:]
    )
    reals = np.zeros_like(fakes)  # stays black where a class has fewer than eight test images
    for c in range(classes):
        found = test.inputs[np.flatnonzero(test.target == c)[:8]]
        reals[c, : len(found)] = found
    both = np.concatenate([fakes, reals], axis=1)
    picture = report.grid_png(
        both.reshape(-1, *both.shape[2:]),
        both.shape[1],
        row_labels=dataset.class_names[:classes] if built.conditional else None,
        column_labels=["sample"] * 8 + ["real"] * 8,
    )
    about = facts(built.task.name, dataset, state)
    picture = provenance.mark(picture, about, composite=True)
    write_files({folder / "samples" / "beside-real.png": picture})
    caption = "Samples, and beside them test images"
    caption += " of the same class." if built.conditional else "; the samples have no classes."
    return [
        report.Figure(picture, caption=caption),
        report.Figure(report.curves_svg(records, ["d_loss", "g_loss"], title="losses")),
        report.Figure(
            report.curves_svg(records, ["d_real", "d_fake"], title="discriminator's mean logits")
        ),
    ]
