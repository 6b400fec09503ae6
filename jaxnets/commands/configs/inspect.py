"""What `inspect` can be told."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from jaxnets.commands.configs.constraints import COUNT, NOT_NEGATIVE, POSITIVE, SEED, Needs, Range
from jaxnets.commands.configs.options import CacheOptions

_CNN = Needs("--method padim or patchcore", lambda c: c.method != "f-anogan")
_PADIM = Needs("--method padim", lambda c: c.method == "padim")
_BANK = Needs("--method patchcore", lambda c: c.method == "patchcore")
_GAN = Needs("--method f-anogan", lambda c: c.method == "f-anogan")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """What PaDiM and PatchCore see, and what they keep of it."""

    GROUP: ClassVar[str] = "feature"

    layers: Annotated[tuple[str, ...] | None, _CNN] = None
    """Layers of the CNN whose features are looked at, such as stage4 stage6; the grid of positions
    is that of the middle one. By default those that suit the method."""
    channels: Annotated[int, COUNT, _PADIM] = 300
    """Channels that PaDiM chooses by chance, of all that the layers have."""
    coreset: Annotated[float, Range(above=0, most=1), _BANK] = 0.1
    """Share of all patches that PatchCore keeps."""
    neighbours: Annotated[int, COUNT, _BANK] = 9
    """Neighbours in the bank by which PatchCore weighs a picture's greatest distance; 1 leaves the
    distance as it is."""
    place: Annotated[float, NOT_NEGATIVE, _BANK] = 1.0
    """How much the place of a patch counts, across the whole picture and in standard deviations of
    every feature; 0 compares patches of any place."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GanOptions:
    """The networks of f-AnoGAN and their training."""

    GROUP: ClassVar[str] = "gan"

    patch: Annotated[int, Range(least=8, most=64), _GAN] = 32
    """Side of the patches that the GAN makes."""
    gan_steps: Annotated[int, COUNT, _GAN] = 2000
    """Steps of the WGAN-GP, each of --critic-updates and one of the generator."""
    critic_updates: Annotated[int, Range(least=1, most=8), _GAN] = 3
    """Updates of the discriminator in a step."""
    encoder_steps: Annotated[int, COUNT, _GAN] = 2000
    """Steps of the encoder, after them."""
    batch_size: Annotated[int, Range(least=2), _GAN] = 64
    """Patches of an update."""
    width: Annotated[float, Range(above=0, most=8), _GAN] = 0.5
    """Factor on every number of channels; 1 is the published DCGAN."""
    latent_size: Annotated[int, Range(least=1, most=4096), _GAN] = 64
    """Length of the latent vectors."""
    learning_rate: Annotated[float, POSITIVE, _GAN] = 2e-4
    """Of all three networks."""
    kappa: Annotated[float, NOT_NEGATIVE, _GAN] = 1.0
    """Weight of the residual in the discriminator's features."""


@dataclasses.dataclass(frozen=True)
class Inspect(FeatureOptions, GanOptions, CacheOptions):
    """Learn what faultless pictures look like, and tell faulty ones and where the fault is.

    The folder is laid out as MVTec AD (train/good, test/good, test/FAULT, and masks in
    ground_truth/FAULT/NAME_mask.png), or has a sub-folder `good` and one for each kind of fault.
    """

    FIRST: ClassVar[tuple[str, ...]] = (
        *("data", "method", "features", "image_size", "false_alarms", "held_out"),
        *("background", "seed", "run_dir"),
    )

    data: str = ""
    """folder:PATH of the pictures."""
    method: Literal["padim", "patchcore", "f-anogan"] = "padim"
    """padim (a Gaussian for each position), patchcore (the nearest of kept patches), or f-anogan
    (a GAN and an encoder)."""
    features: Annotated[str, _CNN] = "imagenet"
    """The CNN that padim and patchcore look through: imagenet (EfficientNet-Lite0), or the folder
    of a `classify` run."""
    image_size: Annotated[tuple[int, ...] | None, tyro.conf.arg(metavar="H [W]")] = None
    """Height and width, or one number for both, that every picture is resized to as a whole: it may
    be distorted, and nothing is cut off. By default 224 for imagenet, the run's own for a run, and
    128 for f-anogan."""
    false_alarms: Annotated[float, Range(above=0, below=1)] = 0.01
    """Share of faultless pictures that may be called faulty; the threshold follows from it."""
    held_out: Annotated[float, Range(above=0, below=1)] = 0.15
    """Share of the faultless training pictures that is not learnt from, but gives the threshold."""
    background: str | None = None
    """Colour that transparent pictures are laid on; by default white."""
    seed: Annotated[int, SEED] = 0
    """Every random number of the run follows from it."""
    run_dir: Path | None = None
    """The run's folder; the same command on the same folder goes on where it stopped. By default
    runs/inspect-<date>-<time>."""
