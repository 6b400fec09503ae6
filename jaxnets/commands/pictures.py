"""The report of a GAN, and its pictures, with their mark, which `sample` makes too."""

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
from jaxnets.commands import judging, populations, scoring
from jaxnets.commands.history import History
from jaxnets.data import DataSet
from jaxnets.errors import UserError
from jaxnets.files import write_files
from jaxnets.judge import sampling
from jaxnets.judge.scoring import Looks
from jaxnets.media import provenance, report
from jaxnets.run.trained import TrainedGenerator

#: Samples in a row of a walk or of a sweep; samples whose styles are mixed with each other.
_IN_A_ROW, _MIXED = 10, 8
#: Rows of classes in a report's samples, and so many in each that two grids fit side by side.
_ROWS, _EACH = 20, 6
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


def write(
    history: History,
    trained: TrainedGenerator | None,
    dataset: DataSet | None,
    looks: Looks | None,
    absent: Sequence[str] = (),
) -> None:
    """Writes the report of a run, and prints its table.

    It shows what there is of the generator, the real images and what a CNN sees of both; `absent`
    says what is left out.
    """
    config, numbers = history.config, history.numbers
    seen = numbers.get("step", 0) * config.step_images * populations.size(config)
    rows = [*judging.rows(numbers), *judging.score_rows(config, numbers)]
    rows += [*history.rows(), ("images seen", f"{seen:,}")]
    parts, curves = history.opening(rows, absent), _curves(history)
    if curves:
        parts.append(report.Figure(curves, heading="Curves"))
    if trained is not None:
        parts.append(samples(trained, history.folder, dataset))
        if config.pictures:
            parts += _more(trained, history.folder, looks)
    elif previews := sorted((history.folder / "samples").rglob("step-*.png")):
        parts.append(report.Figure(previews[-1].read_bytes(), f"Samples: {previews[-1].name}"))
    history.write(rows, parts, absent)


def _curves(history: History) -> list[str]:
    """How far samples are from real images, what a CNN makes of them, and the losses."""
    name = scoring.number_name(history.config.best_by)
    distances: list[tuple[dict[str, str], str, bool]] = [
        ({"frechet": "samples", "frechet_floor": "floor (real images)"}, "Frechet distance", True),
        ({name: "samples"}, history.config.best_by, False),
        ({"samples_pixel_spread": "samples"}, "spread by pixels, to real images", False),
    ]
    drawn = (history.curve(labels, title, log=log) for labels, title, log in distances)
    shares = {f"samples_{name}": name for name in ("recognised", "precision", "recall")}
    return [
        *next(filter(None, drawn), []),
        *history.curve(shares, "shares of samples, by the CNN"),
        *history.curve({"d_loss": "discriminator", "g_loss": "generator"}, "losses"),
        *history.curve({"d_real": "real", "d_fake": "samples"}, "discriminator's mean logits"),
    ]


def samples(trained: TrainedGenerator, folder: Path, dataset: DataSet | None) -> report.Figure:
    """Samples, a row for each class, beside real images if they are there; also as a file."""
    classes = trained.class_names[:_ROWS] if trained.conditional else None
    labels = np.repeat(np.arange(len(classes or range(_EACH)), dtype=np.int32), _EACH)
    made = trained.sample(len(labels), labels, seed=2)
    picture = provenance.mark(report.grid_png(made, _EACH, row_labels=classes), trained.facts)
    write_files({folder / "samples" / "report-samples.png": picture})
    if dataset is None:
        return report.Figure(picture, heading="Samples")
    test, reals = dataset.splits["test"], np.zeros_like(made)  # black where a class has too few
    if classes is None:
        shown = test.inputs[np.linspace(0, len(test) - 1, len(reals)).astype(int)]
        reals[:] = shown
    for label in np.unique(labels) if classes else ():
        shown = test.inputs[np.flatnonzero(test.target == label)[:_EACH]]
        reals[label * _EACH :][: len(shown)] = shown
    real = report.grid_png(reals, _EACH, row_labels=classes)
    return report.Figure(
        [picture, real], "Samples first, then test images.", "Samples and real images"
    )


def _more(trained: TrainedGenerator, folder: Path, looks: Looks | None) -> list[report.Figure]:
    """Pictures of what lies between and beside a GAN's samples; kept as files too."""
    about = trained.facts
    artist = Artist(trained, _SEED, {**about, "seed": _SEED})
    classes = np.arange(len(trained.class_names[:_IN_A_ROW]) or _IN_A_ROW, dtype=np.int32)
    drawn = {"walk": (artist.walk(classes, 4, 8), "Between latents, by slerp, and back.")}
    if sampling.has_styles(trained.module):
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
    place = folder / "samples"
    write_files({place / f"report-{what}.png": picture for what, (picture, _) in drawn.items()})
    figures = [report.Figure(picture, caption) for picture, caption in drawn.values()]
    if looks is not None:
        near = nearest(looks, place / "nearest.png", about).read_bytes()
        caption = (
            "The samples nearest to training images, in the features of the CNN, and their "
            "neighbours: are they copies?"
        )
        figures.append(report.Figure(near, caption))
    return figures
