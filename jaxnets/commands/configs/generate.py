"""What `generate` can be told, and the values that suit a family of networks and a data set."""

from __future__ import annotations

import dataclasses
import types
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from jaxnets.commands.configs import presets, sweeps, teaching
from jaxnets.commands.configs.constraints import (
    COUNT,
    DECAY,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    SWEPT,
    Needs,
    Ramp,
    Range,
    check_needs,
    constraints,
    flag,
    is_ramp,
)
from jaxnets.commands.configs.options import ClassRunOptions, check_numbers, given, with_preset
from jaxnets.commands.configs.teaching import TeacherOptions
from jaxnets.errors import UserError

#: What --judge may be besides the folder of a run, and the data that a CNN comes with jaxnets for.
SHIPPED, IMAGENET, NO_JUDGE = Path("shipped"), Path("imagenet"), Path("none")
SHIPPED_JUDGES = ("digits", "fashion_mnist")

#: Weights of penalties, from their papers, where --penalty-weight is not given.
_LAMBDAS = {"wgan_gp": 10.0, "dragan": 10.0, "consistency": 10.0}


def _penalised(config: Any) -> bool:
    return config.penalty != "none"


_PENALTY = Needs("a penalty: choose one with --penalty", _penalised)
_LAZY = Needs(
    "a penalty: choose one with --penalty, or set --path-length-weight",
    lambda config: _penalised(config) or sweeps.uses(config, "path_length_weight"),
)
_AUXILIARY = Needs(
    "--conditioning auxiliary, in a GAN with classes",
    lambda config: config.conditional and config.conditioning == "auxiliary",
)
_ADAPTIVE = Needs("--adaptive-augment", lambda config: config.adaptive_augment)
_RAMP = Needs(
    "a value that changes: give one as START:END",
    lambda config: any(is_ramp(getattr(config, name)) for name, _ in constraints(config, Range)),
)
_SCORE = Needs(
    "the accuracy score: leave --no-accuracy-score and --no-conditional out",
    lambda config: config.conditional and config.accuracy_score,
)


@dataclasses.dataclass(frozen=True)
class NetworkOptions:
    """What the two networks are made of."""

    GROUP: ClassVar[str] = "network"

    discriminator: str | None = None
    """dcgan, r3gan, sngan, stylegan2, or any classifier of `classify` as the trunk; by default the
    generator's own."""
    conditioning: str = "projection"
    """How the discriminator uses classes: projection, concatenated or auxiliary (AC-GAN)."""
    latent_size: int | None = None
    """Length of the generator's input."""
    width: Annotated[float | None, POSITIVE] = None
    """Factor on every number of channels that the family's paper has."""
    generator_widths: tuple[int, ...] | None = None
    """Channels of the generator's stages instead, from the fewest pixels to the image, such as
    64 32 16; each stage has twice the size of the one before. dcgan takes one number, the last
    stage's."""
    discriminator_widths: tuple[int, ...] | None = None
    """Channels of the discriminator's stages, from the image on. dcgan takes one number, the first
    stage's."""
    generator_attention: tuple[int, ...] = ()
    """Self-attention after these of the generator's stages; 0 is that of the fewest pixels."""
    discriminator_attention: tuple[int, ...] = ()
    """Self-attention after these of the discriminator's stages; 1 is that of the image's size, or
    of half of it."""
    generator_fields: tuple[str, ...] | None = None
    """Other values of the generator's own fields, as blocks=3 of r3gan, or mapping_layers=2 and
    style_size=128 of stylegan2; `make_generator` lists them."""
    discriminator_fields: tuple[str, ...] | None = None
    """The same of the discriminator, as blocks=3 of r3gan, or dropout=0.3 of dcgan."""
    spectral_norm: bool = False
    """Divide each kernel of the discriminator by its largest singular value (dcgan; sngan does in
    any case)."""


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """What the two networks minimise: the adversarial loss, and terms that are added to it."""

    GROUP: ClassVar[str] = "loss"

    loss: str | None = None
    """minimax, non_saturating, least_squares, hinge, wasserstein or relativistic."""
    penalty: str | None = None
    """none, r1, r2, r1_r2, wgan_gp, dragan or consistency."""
    penalty_weight: Annotated[Ramp | None, NOT_NEGATIVE, _PENALTY, SWEPT] = None
    """Factor of the penalty: gamma of R1 and R2, lambda of the others. Or START:END."""
    penalty_every: Annotated[int | None, COUNT, _LAZY] = None
    """Apply the penalty at every n-th step only, n times as strong (lazy regularisation)."""
    auxiliary_weight: Annotated[float, NOT_NEGATIVE, _AUXILIARY, SWEPT] = 0.1
    """Weight of the classes' cross-entropy (--conditioning auxiliary). The paper's 1 makes samples
    of a class alike: their spread on digits was 0.67 of real images', and 0.95 with 0.1."""
    lecam_weight: Annotated[float, NOT_NEGATIVE, SWEPT] = 0.0
    """Keep the discriminator's logits near their own moving mean (LeCam), for few images."""
    path_length_weight: Annotated[float | None, NOT_NEGATIVE, SWEPT] = None
    """Weight of path-length regularisation (stylegan2): equal steps in the styles change the image
    equally. The paper and the presets from 64 pixels on have 2; taken at the steps of
    --penalty-every."""
    matching_weight: Annotated[float, NOT_NEGATIVE, SWEPT] = 0.0
    """Weight of a generator loss that pulls the mean features of samples towards those of real
    images (feature matching), by the discriminator; for those of a trained CNN see --teacher."""


@dataclasses.dataclass(frozen=True)
class AugmentOptions:
    """How all that the discriminator sees is changed, real images and samples alike."""

    GROUP: ClassVar[str] = "augmentation"

    augment: str | None = None
    """Differentiable augmentation (translation leaves grey behind, shift the image mirrored at its
    edge); by default shift for fewer than 20,000 images of your own, and "" is none; any of
    color,translation,shift,cutout,flip."""
    augment_probability: Annotated[Ramp | None, SHARE, SWEPT] = None
    """Share of the images that each of them is applied to; all, or at first 0 if it is adaptive.
    Or START:END."""
    adaptive_augment: bool = False
    """Apply them more often when the discriminator becomes too sure of real images (ADA)."""
    augment_target: Annotated[float, Range(above=-1, below=1), _ADAPTIVE] = 0.6
    """Mean sign of the discriminator's logits of real images that --adaptive-augment aims at: 0 is
    undecided, 1 always sure."""
    augment_images: Annotated[float, POSITIVE, _ADAPTIVE] = 500_000.0
    """Images over which --adaptive-augment moves the share from 0 to 1 at most."""


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """How the weights follow the gradients, and the generator's average the weights."""

    GROUP: ClassVar[str] = "optimizer"

    optimizer: str = "adam"
    """sgd, nesterov, adam, rmsprop, lion or lamb."""
    generator_learning_rate: Annotated[Ramp | None, NOT_NEGATIVE, SWEPT] = None
    """The generator's highest learning rate, or START:END."""
    discriminator_learning_rate: Annotated[Ramp | None, NOT_NEGATIVE, SWEPT] = None
    """The discriminator's highest learning rate, or START:END."""
    schedule: str | None = None
    """constant, cosine or linear: how both learning rates go on from their highest."""
    b1: Annotated[float | None, DECAY] = None
    """Decay of the first moment."""
    b2: Annotated[Ramp | None, DECAY] = None
    """Decay of the second moment, or START:END (adam)."""
    discriminator_steps: Annotated[int | None, COUNT] = None
    """Discriminator updates to one generator update, each on images of its own."""
    clip_norm: Annotated[float | None, POSITIVE] = None
    """Greatest global norm of a gradient."""
    weight_clip: Annotated[float | None, POSITIVE] = None
    """Keep every weight of the discriminator within this of zero (the first Wasserstein GAN)."""
    ema_half_life: Annotated[Ramp | None, NOT_NEGATIVE, SWEPT] = None
    """Images after which half of the generator's moving average, which makes the samples, is new;
    0 keeps none. Or START:END."""
    ema_warmup: Annotated[float, SHARE] = 0.05
    """That half-life is at most this share of the images seen so far; 0 is no warm-up."""
    ramp_images: Annotated[float | None, NOT_NEGATIVE, _RAMP] = None
    """Images over which values go from START to END; by default all of the run's."""


@dataclasses.dataclass(frozen=True)
class JudgeOptions:
    """How samples are scored, during the run and at its end."""

    GROUP: ClassVar[str] = "score"

    metrics: str = ""
    """Scores of `evaluate --metrics` to take at every evaluation too, by --judge."""
    best_by: str = "frechet"
    """Which number of the evaluations --keep-best goes by: frechet, or one of --metrics."""
    accuracy_score: bool = True
    """At the end, train a CNN on samples only and test it on real images (if conditional)."""
    score_epochs: Annotated[float | None, POSITIVE, _SCORE] = None
    """For how many passes over as many samples as there are training images."""
    pictures: bool = True
    """Show in the report, beside samples, a walk through the latents, truncations, mixed styles (of
    stylegan2) and, with --judge, the training images nearest to samples."""


@dataclasses.dataclass(frozen=True)
class Generate(
    NetworkOptions,
    LossOptions,
    TeacherOptions,
    AugmentOptions,
    OptimizerOptions,
    JudgeOptions,
    ClassRunOptions,
):
    """Train a GAN to make images; with the defaults, class-conditional on Fashion-MNIST.

    What has no default takes its value from a preset that suits the family and the data set;
    config.json in the run's folder shows it. Where a value may be START:END, it goes from one to
    the other along half a cosine, over the first --ramp-images images.
    """

    FIRST: ClassVar[tuple[str, ...]] = (
        "data",
        "image_size",
        "generator",
        "preset",
        "conditional",
        "epochs",
        "batch_size",
        "augment",
        "judge",
        "init_from",
        "labels_per_class",
        "seed",
        "seeds",
        "devices",
        "run_dir",
    )

    preset: str | None = None
    """Values of the flags without a default, by name (`list` has them): by default the family's
    small networks, which a CPU trains in minutes, as sngan_small; those of the papers, as
    stylegan2_64, are for accelerators."""
    generator: str | None = None
    """dcgan, r3gan, sngan or stylegan2; by default sngan, but dcgan for digits and
    fashion_mnist."""
    conditional: bool = True
    """Give both networks the class of each image; then a class can be asked for."""
    balance: Literal["none", "oversample"] = "none"
    """oversample: show all classes equally often, however few images they have."""
    batch_size: Annotated[int | None, COUNT] = None
    """Images that one discriminator update sees, over all devices."""
    judge: Path | None = None
    """The CNN whose features measure Frechet distances, and which looks whether samples have all
    classes and differ within each: the folder of a `classify` run on the same data; shipped, the
    one that comes with jaxnets (for digits and fashion_mnist, and then the default); imagenet, for
    colour images; or none."""
    #: Fields -> what was done before there was a choice, where that is not the default.
    BEFORE: ClassVar = types.MappingProxyType({"path_length_weight": 0.0})

    @property
    def cnn(self) -> Path | None:
        """The judge; None where there is to be none."""
        return None if self.judge in (None, NO_JUDGE) else self.judge

    @property
    def step_images(self) -> int:
        """Images that a step sees, over all its updates of the discriminator; once resolved."""
        return given(self.batch_size) * given(self.discriminator_steps)

    @property
    def ends(self) -> str:
        """What depends on the number of epochs; "" if a run may go on for more. Once resolved."""
        if self.schedule != "constant":
            return f"--schedule {self.schedule} ends with it"
        ramps = [name for name, _ in constraints(self, Range) if is_ramp(getattr(self, name))]
        if ramps and self.ramp_images is None:
            return f"{flag(ramps[0])} changes to its end, without --ramp-images"
        return ""


def resolve(config: Generate) -> Generate:
    """The config with every value in its place.

    Raises:
      UserError: for a value that no run can be made with.
    """
    if config.adaptive_augment and config.loss == "wasserstein":
        raise UserError(
            "--adaptive-augment follows how sure the discriminator is of real images, which a "
            "Wasserstein critic does not say; give --augment-probability instead"
        )
    if config.judge is None and config.data in SHIPPED_JUDGES:
        config = dataclasses.replace(config, judge=SHIPPED)
    values = presets.values(config.preset, config.generator, config.data)
    # Networks that were asked for are not those whose channels the preset has.
    if config.width is not None:
        values = {**values, "generator_widths": None, "discriminator_widths": None}
    if config.discriminator not in (None, values["generator"]):
        values |= {"discriminator_widths": None, "discriminator_fields": None}
    values |= {"discriminator": values["generator"], **teaching.values(config)}
    if config.penalty in _LAMBDAS:
        values["penalty_weight"] = _LAMBDAS[config.penalty]
    swept = sweeps.sweep_of(config)
    if swept is not None and is_ramp(values.get(swept.field)):
        values[swept.field] = swept.values[0]  # a preset's ramp is not what was asked for
    if config.augment == "" or config.adaptive_augment:
        values.pop("augment_probability", None)
    fields = {}
    for name in ("generator_fields", "discriminator_fields"):
        own, preset = getattr(config, name), values.get(name)
        if own and preset:  # those that were not asked for are still the preset's
            asked = {text.partition("=")[0] for text in own}
            fields[name] = (*(t for t in preset if t.partition("=")[0] not in asked), *own)
    resolved = with_preset(dataclasses.replace(config, **fields), values)
    # A config that is resolved already does not tell what was asked for from what was filled.
    if any(getattr(config, name) is None for name in presets.DEFAULTS):
        check_needs(config, resolved)
    return _checked(resolved)


def read_again(config: Generate) -> Generate:
    """The config of an earlier run: it has every value, and presets may have changed since.

    Raises:
      UserError: for a value that no run can be made with.
    """
    return _checked(with_preset(config, {**presets.DEFAULTS, "discriminator": config.generator}))


def _checked(config: Generate) -> Generate:
    """The config, every value of which is one that a run can be made with."""
    for one in sweeps.each(config):
        try:
            check_numbers(one)
            _check_what_belongs_together(one)
        except UserError as error:
            raise error if one is config else UserError(f"--sweep: {error}") from error
    sweeps.check(config)
    return config


def _check_what_belongs_together(config: Generate) -> None:
    """Fails for a flag that says nothing without another."""
    if not config.augment and (config.adaptive_augment or config.augment_probability is not None):
        raise UserError(
            "--adaptive-augment and --augment-probability need an augmentation: choose some with "
            "--augment, such as --augment translation,cutout"
        )
    swept = sweeps.is_swept(config, "augment_probability")
    if config.adaptive_augment and (swept or is_ramp(config.augment_probability)):
        raise UserError(
            "--adaptive-augment moves the share itself: give --augment-probability one number, to "
            "start from"
        )
    for name in ("generator_learning_rate", "discriminator_learning_rate"):
        if is_ramp(getattr(config, name)) and config.schedule != "constant":
            raise UserError(
                f"{flag(name)} is START:END already: leave --schedule {config.schedule} out"
            )
    if given(config.path_length_weight) > 0 and config.generator != "stylegan2":
        raise UserError(
            "--path-length-weight needs a generator with styles: choose --generator stylegan2, not "
            f"{config.generator}"
        )
    if config.conditioning != "projection" and not config.conditional:
        raise UserError(
            f"--conditioning {config.conditioning} needs classes: leave --no-conditional out"
        )
    teaching.check(config)
    if config.metrics and config.cnn is None:
        raise UserError("--metrics needs a CNN to look at samples: name its run with --judge")
    if config.keep_best > 0 and (config.cnn is None or config.eval_every == 0):
        raise UserError(
            "--keep-best goes by what a CNN measures at every evaluation: set --judge, and "
            "--eval-every above 0"
        )
