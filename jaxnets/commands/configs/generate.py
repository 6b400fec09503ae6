"""What `generate` can be told, and the values that suit a family of networks and a data set."""

from __future__ import annotations

import dataclasses
import math
import types
from pathlib import Path
from typing import Annotated, Literal

from jaxnets.commands import common
from jaxnets.commands.configs import presets, ramps, sweeps
from jaxnets.commands.configs.constraints import COUNT, DECAY, EPOCHS, NOT_NEGATIVE, POSITIVE, Range
from jaxnets.commands.configs.ramps import Ramp

#: Weights of penalties, from their papers, where --penalty-weight is not given.
_LAMBDAS = {"wgan_gp": 10.0, "dragan": 10.0, "consistency": 10.0}

#: Numbers that may be START:END -> which no end of theirs reaches, and their range in words.
_RAMPS = {
    "penalty_weight": (math.inf, "at least 0"),
    "augment_probability": (math.nextafter(1, 2), "in [0, 1]"),
    "generator_learning_rate": (math.inf, "at least 0"),
    "discriminator_learning_rate": (math.inf, "at least 0"),
    "b2": (1.0, "in [0, 1)"),
    "ema_half_life": (math.inf, "at least 0"),
}


@dataclasses.dataclass(frozen=True)
class Generate(common.RunOptions, common.DataOptions):
    """Train a GAN to make images; with the defaults, class-conditional on Fashion-MNIST.

    A flag whose default is None takes its value from a preset that suits the family and the data
    set; config.json in the run's folder shows it. Where a value may be START:END, it goes from one
    to the other along half a cosine, over the first --ramp-images images.
    """

    preset: str | None = None
    """Values of the flags whose default is None, by name (`list` has them); by default those of
    the family's small networks for digits and fashion_mnist, and its paper's for other data."""
    generator: str | None = None
    """dcgan, r3gan, sngan or stylegan2."""
    discriminator: str | None = None
    """dcgan, r3gan, sngan, stylegan2, or any classifier of `classify` as the trunk; by default the
    generator's own."""
    conditional: bool = True
    """Give both networks the class of each image; then a class can be asked for."""
    conditioning: str = "projection"
    """How the discriminator heeds classes: projection, concatenated or auxiliary (AC-GAN)."""
    auxiliary_weight: Annotated[float, NOT_NEGATIVE] = 0.1
    """Weight of the classes' cross-entropy, of --conditioning auxiliary. The paper's 1 makes
    samples of a class alike: their spread on digits was 0.67 of real images', and 0.95 with 0.1."""
    latent_size: int | None = None
    """Length of the generator's input."""
    width: Annotated[float | None, POSITIVE] = None
    """Factor on every number of channels that the family's paper has."""
    generator_widths: tuple[int, ...] | None = None
    """Channels of the generator's stages instead, from the fewest pixels to the image, such as
    64 32 16; each stage has twice the size of the one before. Of dcgan one number: the last's."""
    discriminator_widths: tuple[int, ...] | None = None
    """Channels of the discriminator's stages, from the image on. Of dcgan one: the first's."""
    generator_attention: tuple[int, ...] = ()
    """Self-attention after these of the generator's stages; 0 is that of the fewest pixels."""
    discriminator_attention: tuple[int, ...] = ()
    """Self-attention after these of the discriminator's stages; 1 is that of the image's size, or
    of half of it."""
    generator_fields: tuple[str, ...] | None = None
    """Other values of the generator's own fields, as blocks=3 of r3gan, or mapping_layers=2 and
    style_size=128 of stylegan2; what there is, `make_generator` in Python says."""
    discriminator_fields: tuple[str, ...] | None = None
    """The same of the discriminator, as blocks=3 of r3gan, or dropout=0.3 of dcgan."""
    spectral_norm: bool = False
    """Divide each kernel of the discriminator by its largest singular value (dcgan; sngan does in
    any case)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation; parameters are float32 in any case."""

    epochs: Annotated[float | None, EPOCHS] = None
    """Passes over the training images."""
    batch_size: Annotated[int | None, COUNT] = None
    """Images that one discriminator update sees, over all devices."""
    micro_batches: Annotated[int, COUNT] = 1
    """Parts in which a batch is computed, to save memory; gradients add up."""
    discriminator_steps: Annotated[int | None, COUNT] = None
    """Discriminator updates to one generator update, each on images of its own."""

    loss: str | None = None
    """minimax, non_saturating, least_squares, hinge, wasserstein or relativistic."""
    penalty: str | None = None
    """none, r1, r2, r1_r2, wgan_gp, dragan or consistency."""
    penalty_weight: Ramp | None = None
    """Factor of the penalty: gamma of R1 and R2, lambda of the others. Or START:END."""
    penalty_every: Annotated[int | None, COUNT] = None
    """Apply the penalty at every n-th step only, n times as strong (lazy regularisation)."""
    lecam_weight: Annotated[float, NOT_NEGATIVE] = 0.0
    """Keep the discriminator near the mean of what it said so far (LeCam), for few images."""
    path_length_weight: Annotated[float | None, NOT_NEGATIVE] = None
    """Let a step in the styles change the image by as much everywhere (stylegan2; its paper has
    2, and so have the presets of 64 pixels and more), at the steps of --penalty-every."""
    matching_weight: Annotated[float, NOT_NEGATIVE] = 0.0
    """Draw the mean features of samples to those of real images (feature matching)."""
    matching_cnn: Path | None = None
    """Folder of a `classify` run, whose features are matched; by default the discriminator's."""
    weight_clip: Annotated[float | None, POSITIVE] = None
    """Keep every weight of the discriminator within this of zero (the first Wasserstein GAN)."""
    augment: str | None = None
    """Differentiable augmentation of reals and fakes (translation leaves grey behind, shift the
    image mirrored at its edge): any of color,translation,shift,cutout,flip."""
    augment_probability: Ramp | None = None
    """Share of the images that each of them is applied to; all, or at first 0 if it is adaptive.
    Or START:END."""
    adaptive_augment: bool = False
    """Let that share follow how sure the discriminator is of real images (ADA)."""
    augment_target: Annotated[float, Range(above=-1, below=1)] = 0.6
    """How sure it may be, of --adaptive-augment: the mean sign of its logits of real images."""
    augment_images: Annotated[float, POSITIVE] = 500_000.0
    """Images over which --adaptive-augment moves the share from 0 to 1 at most."""

    optimizer: str = "adam"
    """sgd, nesterov, adam, rmsprop, lion or lamb."""
    generator_learning_rate: Ramp | None = None
    """The generator's highest learning rate, or START:END."""
    discriminator_learning_rate: Ramp | None = None
    """The discriminator's highest learning rate, or START:END."""
    b1: Annotated[float | None, DECAY] = None
    """Decay of the first moment."""
    b2: Ramp | None = None
    """Decay of the second moment, or START:END (adam)."""
    schedule: str | None = None
    """constant, cosine or linear: how both learning rates go on from their highest."""
    clip_norm: Annotated[float | None, POSITIVE] = None
    """Greatest global norm of a gradient."""
    ema_half_life: Ramp | None = None
    """Images after which half of the generator's moving average, which makes the samples, is new;
    0 keeps none. Or START:END."""
    ema_warmup: Annotated[float, Range(least=0, most=1.0)] = 0.05
    """That half-life is at most this share of the images seen so far; 0 is no warm-up."""
    ramp_images: Annotated[float | None, NOT_NEGATIVE] = None
    """Images over which values go from START to END; by default all of the run's."""

    sweep: str = ""
    """Train one GAN for each value of a number, all in one program, and tell which is the best:
    NAME=VALUE,VALUE,... such as gamma=0.01,0.1,1, or any flag that is a number of the step."""

    labels_per_class: int | None = None
    """Train on this many images of each class only."""
    judge: Path | None = None
    """Folder of a `classify` run on the same data, whose features measure Frechet distances, and
    which looks whether samples have all classes and differ within each."""
    metrics: str = ""
    """Scores of `evaluate --metrics` to take at every evaluation too, by --judge."""
    best_by: str = "frechet"
    """Which number of the evaluations --keep-best goes by: frechet, or one of --metrics."""
    accuracy_score: bool = True
    """At the end, train a CNN on samples only and test it on real images (if conditional)."""
    score_epochs: Annotated[float | None, POSITIVE] = None
    """For how many passes over as many samples as there are training images."""

    pictures: bool = True
    """Show in the report, beside samples, a walk through the latents, truncations, mixed styles (of
    stylegan2) and, with --judge, the training images nearest to samples."""

    #: Fields -> what was done before there was a choice, where that is not the default.
    BEFORE = types.MappingProxyType({"path_length_weight": 0.0})

    @property
    def step_images(self) -> int:
        """Images that a step sees, over all its updates of the discriminator; once resolved."""
        return common.given(self.batch_size) * common.given(self.discriminator_steps)


def resolve(config: Generate) -> Generate:
    """The config with every value in its place.

    Raises:
      UserError: for a value that no run can be made with.
    """
    from jaxnets.errors import UserError

    if config.adaptive_augment and config.loss == "wasserstein":
        raise UserError(
            "--adaptive-augment follows how sure the discriminator is of real images, which a "
            "Wasserstein critic does not say; give --augment-probability instead"
        )
    values = presets.values(config.preset, config.generator, config.data)
    # Networks that were asked for are not those whose channels the preset has.
    if config.width is not None:
        values = {**values, "generator_widths": None, "discriminator_widths": None}
    if config.discriminator not in (None, values["generator"]):
        values |= {"discriminator_widths": None, "discriminator_fields": None}
    values["discriminator"] = values["generator"]
    if config.penalty in _LAMBDAS:
        values["penalty_weight"] = _LAMBDAS[config.penalty]
    swept = sweeps.sweep_of(config)
    if swept is not None and ramps.is_ramp(values.get(swept.field)):
        values[swept.field] = swept.values[0]  # a preset's ramp is not what was asked for
    if config.augment == "" or config.adaptive_augment:
        values.pop("augment_probability", None)
    fields = {}
    for name in ("generator_fields", "discriminator_fields"):
        own, preset = getattr(config, name), values.get(name)
        if own and preset:  # those that were not asked for are still the preset's
            asked = {text.partition("=")[0] for text in own}
            fields[name] = (*(t for t in preset if t.partition("=")[0] not in asked), *own)
    found = common.with_preset(
        dataclasses.replace(config, **fields), {"default": values}, "default"
    )
    # A config that is resolved already does not tell what was asked for from what was filled.
    if any(getattr(config, name) is None for name in presets.DEFAULTS):
        _check_that_all_is_heeded(config, found)
    return _checked(found)


def read_again(config: Generate) -> Generate:
    """The config of an earlier run: it has every value, and presets may have changed since.

    Raises:
      UserError: for a value that no run can be made with.
    """
    values = {**presets.DEFAULTS, "discriminator": config.generator}
    return _checked(common.with_preset(config, {"default": values}, "default"))


def _checked(config: Generate) -> Generate:
    """The config, every value of which is one that a run can be made with."""
    for one in sweeps.each(config):
        common.check_numbers(one)
        _check_ramps(one)
    sweeps.check(config)
    _check_what_belongs_together(config)
    return config


def _check_that_all_is_heeded(asked: Generate, config: Generate) -> None:
    """Fails for a number that was asked for, and is of something that the resolved run has not."""
    from jaxnets.errors import UserError

    penalised = config.penalty != "none"
    no_penalty = "of a penalty, and there is none: say which with --penalty"
    heeded = {
        "penalty_weight": (penalised, no_penalty),
        "penalty_every": (penalised or sweeps.uses(config, "path_length_weight"), no_penalty),
        "auxiliary_weight": (
            config.conditional and config.conditioning == "auxiliary",
            "of --conditioning auxiliary",
        ),
        "augment_target": (config.adaptive_augment, "of --adaptive-augment"),
        "augment_images": (config.adaptive_augment, "of --adaptive-augment"),
        "ramp_images": (
            any(ramps.is_ramp(getattr(config, name)) for name in _RAMPS),
            "of values that are START:END, and none is",
        ),
        "score_epochs": (
            config.conditional and config.accuracy_score,
            "of the accuracy score, which --no-conditional and --no-accuracy-score leave out",
        ),
    }
    for field in dataclasses.fields(asked):
        is_heeded, why = heeded.get(field.name, (True, ""))
        if not is_heeded and getattr(asked, field.name) != field.default:
            raise UserError(f"--{field.name.replace('_', '-')} is {why}")


def _check_ramps(config: Generate) -> None:
    """Fails for a number, or an end of a ramp, that is out of its range."""
    for name, (high, what) in _RAMPS.items():
        ramps.check(config, name, 0.0, high, what)


def _check_what_belongs_together(config: Generate) -> None:
    """Fails for a flag that says nothing without another."""
    from jaxnets.commands import scoring
    from jaxnets.errors import UserError
    from jaxnets.models.conditioning import CONDITIONING

    if not config.augment and (config.adaptive_augment or config.augment_probability is not None):
        raise UserError(
            "--adaptive-augment and --augment-probability are of --augment: say which, such as "
            "--augment translation,cutout"
        )
    if config.adaptive_augment and ramps.is_ramp(config.augment_probability):
        raise UserError("--adaptive-augment moves the share itself; give it a number to start from")
    for name in ("generator_learning_rate", "discriminator_learning_rate"):
        if ramps.is_ramp(getattr(config, name)) and config.schedule != "constant":
            raise UserError(
                f"--{name.replace('_', '-')} is START:END already; leave out --schedule "
                f"{config.schedule}"
            )
    if common.given(config.path_length_weight) > 0 and config.generator != "stylegan2":
        raise UserError(
            f"--path-length-weight is of generators with styles, as stylegan2, and not of "
            f"{config.generator}"
        )
    if config.conditioning not in CONDITIONING:
        raise UserError(
            f"unknown --conditioning {config.conditioning!r}; known are {', '.join(CONDITIONING)}"
        )
    if config.conditioning != "projection" and not config.conditional:
        raise UserError(f"--conditioning {config.conditioning} is of classes: train with them")
    if config.matching_cnn is not None and not sweeps.uses(config, "matching_weight"):
        raise UserError(
            "--matching-cnn is of feature matching: say how much with --matching-weight"
        )
    names = scoring.names_of(config.metrics, conditional=config.conditional)
    if names and config.judge is None:
        raise UserError("--metrics needs a CNN to look at samples: name its run with --judge")
    if config.best_by != "frechet" and config.best_by not in names:
        raise UserError(
            f"--best-by {config.best_by} is not measured; it takes frechet, or one of --metrics"
        )
    if config.best_by not in scoring.HIGHER_IS_BETTER:
        raise UserError(
            f"--best-by {config.best_by}: one state is not better than another by it; choose one "
            f"of {', '.join(scoring.HIGHER_IS_BETTER)}"
        )
    if config.keep_best > 0 and (config.judge is None or config.eval_every <= 0):
        raise UserError(
            "--keep-best goes by what a CNN measures at every evaluation: set --judge, and "
            "--eval-every above 0"
        )
