"""What a report shows of a GAN."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.generate import Built
    from jaxnets.data import DataSet
    from jaxnets.state import TrainState


def figures(built: Built, state: TrainState, dataset: DataSet, folder: Path) -> list[Any]:
    """A GAN's part of a report: samples beside real images, and its curves.

    The samples are of the state given, that of one GAN.
    """
    import numpy as np

    from jaxnets import report
    from jaxnets.log import read_records

    records = [r for r in read_records(folder / "metrics.jsonl") if r["split"] == "train"]
    test = dataset.splits["test"]
    classes = min(dataset.num_classes, 20)
    labels = np.repeat(np.arange(classes, dtype=np.int32), 8)
    fakes = built.samples_like(state, labels, seed=2).images.reshape(
        classes, 8, *test.images.shape[1:]
    )
    reals = np.zeros_like(fakes)  # stays black where a class has fewer than eight test images
    for c in range(classes):
        found = test.images[np.flatnonzero(test.labels == c)[:8]]
        reals[c, : len(found)] = found
    both = np.concatenate([fakes, reals], axis=1)
    picture = report.grid_png(
        both.reshape(-1, *both.shape[2:]),
        both.shape[1],
        row_labels=dataset.class_names[:classes] if built.conditional else None,
        column_labels=["sample"] * 8 + ["real"] * 8,
    )
    report.write_atomically(folder / "samples" / "beside-real.png", picture)
    caption = "Samples, and beside them test images"
    caption += " of the same class." if built.conditional else "; the samples have no classes."
    return [
        report.Figure(picture, caption=caption),
        report.Figure(report.curves_svg(records, ["d_loss", "g_loss"], title="losses")),
        report.Figure(
            report.curves_svg(records, ["d_real", "d_fake"], title="discriminator's mean logits")
        ),
    ]
