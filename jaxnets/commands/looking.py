"""Pictures that show what a generator has learned, beyond its samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jaxnets import provenance, report, sampling
from jaxnets.commands import pictures as drawn
from jaxnets.commands.configs.generate import Generate
from jaxnets.commands.configs.options import given
from jaxnets.commands.configs.use import Sample
from jaxnets.commands.gan_step import Built
from jaxnets.data import DataSet
from jaxnets.errors import UserError
from jaxnets.files import check_writable, write_files
from jaxnets.scoring import Looks
from jaxnets.state import TrainState

#: Samples that are mixed with each other: as many rows and columns.
MIXED = 8
#: Of an image of 256 pixels, the largest that `make_gan` makes; its stages double it so often.
LAST_STAGE = 6
#: Samples in each row of a sweep.
SWEPT = 10

#: Of a report: latents of a walk, pictures from each to the next, numbers of a sweep, and a seed.
_POINTS, _FRAMES, _TRUNCATIONS, _SEED = 4, 8, "0.3,0.5,0.7,1", 3

_CAPTIONS = {
    "truncation": "The same samples, truncated to so much of the latents (or styles): more typical "
    "ones on top, more variety below.",
    "mixing": "Styles mixed: each row has the first stage's of one sample, each column the other "
    "stages' of another.",
    "nearest": "The samples nearest to training images, in the features of the CNN, and their "
    "neighbours: are they copies?",
}


def truncations(text: str | None) -> list[float]:
    """The numbers of `--truncation-sweep`.

    Raises:
      UserError: unless they are numbers in (0, 1], parted by commas.
    """
    found = []
    for part in [] if text is None else text.split(","):
        try:
            number = float(part)
        except ValueError:
            number = 0.0
        if not 0 < number <= 1:
            raise UserError(
                f"--truncation-sweep takes numbers in (0, 1], as in 0.3,0.5,0.7,1.0; got {part!r}"
            )
        found.append(number)
    if len(found) > 32:
        raise UserError(f"--truncation-sweep has {len(found)} numbers; give at most 32")
    return found


def places(config: Sample, grid: Path) -> dict[str, Path]:
    """Where the pictures that were asked for go, by what they show; checks their flags.

    Args:
      config: of the command.
      grid: its picture of samples, beside which they go.

    Raises:
      UserError: for a flag that no picture can be made with, or a place that is not to be written.
    """
    found = {}
    if config.style_mixing is not None:
        if not 1 <= config.style_mixing <= LAST_STAGE:
            raise UserError(
                f"--style-mixing must be in 1..{LAST_STAGE}, or to the last stage where there are "
                f"fewer, got {config.style_mixing}"
            )
        found["mixing"] = grid.with_name(f"{grid.stem}-mixing.png")
    if truncations(config.truncation_sweep):
        found["truncation"] = grid.with_name(f"{grid.stem}-truncation.png")
    for path in found.values():
        check_writable(path, "--out")
    return found


def pictures(
    config: Sample,
    into: Mapping[str, Path],
    sample: Any,
    generator: nn.Module,
    variables: Any,
    labels: Any,
    names: Sequence[str] | None,
    finished: Callable[[Any], Any] = lambda images: images,
) -> dict[Path, bytes]:
    """The pictures, as PNG files' bytes.

    Args:
      config: of the command.
      into: of `places`.
      sample: see `jaxnets.sampling.make_sample`.
      generator: the same generator as a module.
      variables: its variables.
      labels: [N] classes, or the number N for a generator without.
      names: of the classes; None for a generator without.
      finished: what is done to images before they are drawn, of any leading axes.

    Raises:
      UserError: if styles are to be mixed and the generator has none.
    """
    key = jax.random.key(config.seed)

    def at_most(count: int) -> tuple[Any, int]:
        if names is None:
            return min(labels, count), min(labels, count)
        return labels[:count], min(len(labels), count)

    found = {}
    if "mixing" in into:
        assert config.style_mixing is not None
        if not sampling.has_styles(generator):
            raise UserError(
                "--style-mixing needs a generator with styles; train one with --generator stylegan2"
            )
        asked, count = at_most(MIXED)
        images = sampling.style_mixing(generator, variables, key, asked, config.style_mixing)
        told = [str(i + 1) if names is None else names[asked[i]] for i in range(count)]
        found[into["mixing"]] = report.grid_png(
            finished(images).reshape(-1, *images.shape[2:]),
            count,
            row_labels=[f"coarse: {name}" for name in told],
            column_labels=[f"fine: {name}" for name in told],
        )
    if "truncation" in into:
        asked, count = at_most(SWEPT)
        numbers = truncations(config.truncation_sweep)
        images = np.stack([sample(variables, key, asked, number) for number in numbers])
        found[into["truncation"]] = report.grid_png(
            finished(images).reshape(-1, *images.shape[2:]),
            count,
            row_labels=[f"{number:g}" for number in numbers],
            column_labels=None if names is None else [names[int(label)] for label in asked],
        )
    return found


def seen(built: Built, state: TrainState, dataset: DataSet, member: int = 0) -> Looks | None:
    """What the CNN, if there is one, sees in samples and images; all processes must call it."""
    if built.judge is None:
        return None
    samples = built.samples_like(state, dataset.splits["test"].target)
    looks = Looks(built.judge, samples, dataset, built.trains[member], built.conditional)
    _ = looks.made, looks.real, looks.trained  # kept; each is made by all processes together
    return looks


def figures(
    config: Generate,
    built: Built,
    state: TrainState,
    dataset: DataSet,
    folder: Path,
    looks: Looks | None,
) -> list[Any]:
    """A report's pictures of what lies between and beside a GAN's samples; kept as files too.

    Args:
      config: of the run, resolved.
      built: of `generate.build`.
      state: of one GAN.
      dataset: the real images.
      folder: of the run.
      looks: of `seen`.
    """
    about = drawn.facts(built.task.name, dataset, state)
    generator = built.generator
    variables = state.nets["generator"].averaged
    count = min(dataset.num_classes, SWEPT)
    asked: Any = np.arange(count, dtype=np.int32) if config.conditional else count
    names = dataset.class_names if config.conditional else None
    styled = sampling.has_styles(generator)
    options = Sample(
        run=folder,
        seed=_SEED,
        truncation_sweep=_TRUNCATIONS,
        style_mixing=1 if styled else None,
    )
    walk = sampling.make_walk(
        generator, latent_size=given(config.latent_size), conditional=config.conditional
    )
    frames = walk(variables, jax.random.key(_SEED), asked, _POINTS, _FRAMES)
    moving = drawn.animation([report.grid_png(frame, count) for frame in frames])
    into = places(options, folder / "samples" / "report.png")
    shown = pictures(options, into, built.sample, generator, variables, asked, names)
    told = {
        folder / "samples" / "report-walk.png": (moving, "Between latents, by slerp, and back."),
        **{
            path: (picture, _CAPTIONS[what])
            for what, path in into.items()
            for picture in [shown[path]]
        },
    }
    found = []
    for path, (picture, caption) in told.items():
        marked = provenance.mark(picture, {**about, "seed": _SEED})
        write_files({path: marked})
        found.append(report.Figure(marked, caption=caption))
    if looks is not None:
        near = drawn.nearest(looks, folder / "samples" / "nearest.png", about)
        found.append(report.Figure(near.read_bytes(), caption=_CAPTIONS["nearest"]))
    return found
