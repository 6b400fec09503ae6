"""Pictures of a GAN, with their mark: for its report, and for `sample`."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from jaxnets import metrics
from jaxnets.commands.gan_step import Built
from jaxnets.data import DataSet
from jaxnets.errors import UserError
from jaxnets.files import write_files
from jaxnets.judge import sampling
from jaxnets.judge.scoring import Looks
from jaxnets.media import provenance, report
from jaxnets.run.log import read_records
from jaxnets.run.trained import TrainedGenerator
from jaxnets.train.state import TrainState

#: Samples in a row of a walk or of a sweep; samples whose styles are mixed with each other.
_IN_A_ROW, _MIXED = 10, 8
#: Seed of a report's pictures beside its samples.
_SEED = 3


def animation(frames: Sequence[bytes], *, milliseconds: int = 60) -> bytes:
    """PNGs of one size, one after the other and over again, as an animated PNG."""
    first, *others = [Image.open(io.BytesIO(frame)) for frame in frames]
    buffer = io.BytesIO()
    first.save(
        buffer, format="PNG", save_all=True, append_images=others, duration=milliseconds, loop=0
    )
    return buffer.getvalue()


@dataclasses.dataclass(frozen=True)
class Artist:
    """Draws what a generator has learned, beyond its samples.

    Attributes:
      trained: the generator.
      seed: of the latents.
      about: what the marks say.
      finish: what is done to images, of any leading axes, before they are drawn.
    """

    trained: TrainedGenerator
    seed: int
    about: Mapping[str, Any]
    finish: Callable[[Any], Any] = lambda images: images

    def _inputs(self, labels: np.ndarray) -> tuple[Any, Any, Any]:
        """Variables, key, and what is asked for: labels, or how many where there are no classes."""
        asked = labels if self.trained.conditional else len(labels)
        return self.trained.variables, jax.random.key(self.seed), asked

    def _names(self, labels: np.ndarray) -> list[str] | None:
        """The classes' names, where the generator has classes."""
        if not self.trained.conditional:
            return None
        return [self.trained.class_names[label] for label in labels]

    def samples(self, labels: np.ndarray, truncation: float | None) -> np.ndarray:
        """The labels' samples as bytes, finished."""
        made = self.trained.sample(len(labels), labels, seed=self.seed, truncation=truncation)
        return self.finish(made)  # type: ignore[no-any-return]

    def walk(self, classes: np.ndarray, points: int, frames: int) -> bytes:
        """An animated walk from latent to latent and back, for each of the classes."""
        trained = self.trained
        walk = sampling.make_walk(
            trained.module, latent_size=trained.latent_size, conditional=trained.conditional
        )
        images = walk(*self._inputs(classes), points, frames)
        columns = min(images.shape[1], _IN_A_ROW)
        names = self._names(classes) if columns == images.shape[1] else None
        drawn = [
            report.grid_png(frame, columns, column_labels=names) for frame in self.finish(images)
        ]
        return provenance.mark(animation(drawn), {**self.about, "truncation": None})

    def truncations(self, labels: np.ndarray, numbers: Sequence[float]) -> bytes:
        """The first of the labels' samples at several truncations, a row for each."""
        labels = labels[:_IN_A_ROW]
        images = np.stack([self.samples(labels, number) for number in numbers])
        return self._table(images, [f"{number:g}" for number in numbers], self._names(labels))

    def mixing(self, labels: np.ndarray, stage: int) -> bytes:
        """The first of the labels' samples with each other's styles from a stage on."""
        if not sampling.has_styles(self.trained.module):
            raise UserError(
                "--style-mixing needs a generator with styles; train one with --generator stylegan2"
            )
        labels = labels[:_MIXED]
        images = sampling.style_mixing(self.trained.module, *self._inputs(labels), stage)
        names = self._names(labels) or [str(i + 1) for i in range(len(labels))]
        return self._table(
            self.finish(images),
            [f"coarse: {name}" for name in names],
            [f"fine: {name}" for name in names],
        )

    def _table(self, images: Any, rows: list[str], columns: list[str] | None) -> bytes:
        """Images [rows, columns, H, W, C] as a marked PNG."""
        flat = images.reshape(-1, *images.shape[2:])
        picture = report.grid_png(flat, images.shape[1], row_labels=rows, column_labels=columns)
        return provenance.mark(picture, {**self.about, "truncation": None})


def nearest(
    looks: Looks, path: Path, about: Mapping[str, str] | None = None, *, neighbours: int = 4
) -> Path:
    """Writes a picture of samples that look most like copies, beside the nearest training images.

    Of each class, or of all where samples have none, it shows the sample that is nearest to a
    training image in the CNN's features. Its mark says `about` the generator what `facts` gave.
    """
    samples, names = looks.samples, looks.dataset.class_names
    distances = looks.memorisation.samples.distance[:, 0]
    if looks.conditional:
        classes = np.unique(samples.target)[:20]
        of_class = [np.flatnonzero(samples.target == c) for c in classes]
        rows = np.array([those[distances[those].argmin()] for those in of_class])
        labels = [names[c] for c in classes]
    else:
        rows, labels = np.argsort(distances)[:10], None
    k = min(neighbours, len(looks.train))
    near = metrics.nearest_neighbours(looks.made[1][rows], looks.trained, k=k).index
    pixels = np.concatenate([samples.inputs[rows][:, None], looks.train.inputs[near]], axis=1)
    columns = ["sample", *(f"{rank + 1}." for rank in range(k))]
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
        shown = test.inputs[np.flatnonzero(test.target == c)[:8]]
        reals[c, : len(shown)] = shown
    both = np.concatenate([fakes, reals], axis=1)
    picture = report.grid_png(
        both.reshape(-1, *both.shape[2:]),
        both.shape[1],
        row_labels=dataset.class_names[:classes] if built.conditional else None,
        column_labels=["sample"] * 8 + ["real"] * 8,
    )
    picture = provenance.mark(picture, built.trained(state).facts, composite=True)
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


def more_figures(
    built: Built, state: TrainState, dataset: DataSet, folder: Path, looks: Looks | None
) -> list[report.Figure]:
    """A report's pictures of what lies between and beside a GAN's samples; kept as files too.

    Args:
      built: the GAN.
      state: of one GAN.
      dataset: the real images.
      folder: of the run.
      looks: what a CNN sees, where there is one; then the nearest training images are shown.
    """
    trained = built.trained(state)
    about = trained.facts
    artist = Artist(trained, _SEED, {**about, "seed": _SEED})
    classes = np.arange(min(dataset.num_classes, _IN_A_ROW), dtype=np.int32)
    drawn = {"walk": (artist.walk(classes, 4, 8), "Between latents, by slerp, and back.")}
    if sampling.has_styles(built.generator):
        drawn["mixing"] = (
            artist.mixing(classes, 1),
            "Styles mixed: each row has the first stage's of one sample, each column the other "
            "stages' of another.",
        )
    drawn["truncation"] = (
        artist.truncations(classes, (0.3, 0.5, 0.7, 1.0)),
        "The same samples, truncated to so much of the latents (or styles): more typical ones on "
        "top, more variety below.",
    )
    samples = folder / "samples"
    write_files({samples / f"report-{what}.png": picture for what, (picture, _) in drawn.items()})
    figures = [report.Figure(picture, caption) for picture, caption in drawn.values()]
    if looks is not None:
        near = nearest(looks, samples / "nearest.png", about).read_bytes()
        caption = (
            "The samples nearest to training images, in the features of the CNN, and their "
            "neighbours: are they copies?"
        )
        figures.append(report.Figure(near, caption))
    return figures
