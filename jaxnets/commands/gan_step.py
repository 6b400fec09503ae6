"""The networks, the first state and the step that a config of `generate` means."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxnets import losses
from jaxnets.commands import populations, scoring, starting
from jaxnets.commands.configs import sweeps
from jaxnets.commands.configs.constraints import ends, is_ramp
from jaxnets.commands.configs.generate import Generate
from jaxnets.commands.configs.options import given
from jaxnets.commands.configs.reading import TEACHER
from jaxnets.commands.teaching import Teacher
from jaxnets.data import DataSet, Split, augment
from jaxnets.errors import UserError
from jaxnets.judge.sampling import Sample
from jaxnets.judge.scoring import Judge
from jaxnets.models import make_discriminator, make_generator
from jaxnets.models.classifiers import scale_widths
from jaxnets.models.conditioning import TaughtDiscriminator
from jaxnets.models.projected import ProjectedDiscriminator
from jaxnets.run.load import Description
from jaxnets.run.task import Lazily, Task
from jaxnets.run.trained import TrainedGenerator
from jaxnets.train import optimizers, state, steps
from jaxnets.train.game import Game
from jaxnets.train.state import TrainState
from jaxnets.train.steps import Step

#: Channels of the heads on a teacher's features, times --width.
_HEADS = 64


@dataclasses.dataclass(frozen=True)
class Built:
    """A GAN's task and what belongs to it."""

    task: Task
    description: Description
    #: of each member, the images that it is trained on
    trains: Sequence[Split]
    steps_per_epoch: float
    generator: Any
    sample: Sample
    #: (state, labels [N][, seed]) -> one generated image for each label, as a split
    samples_like: Callable[..., Split]
    #: (state, number of the member) -> what is measured of one GAN at every evaluation
    scores: Callable[[TrainState, int], dict[str, Any]]
    judge: Judge | None
    #: names of the further scores by the judge
    metrics: Sequence[str]
    conditional: bool
    start: starting.Start | None
    teacher: Teacher | None = None

    @property
    def train(self) -> Split:
        """The images that the first, or only, member is trained on."""
        return self.trains[0]

    @property
    def fingerprints(self) -> dict[str, str]:
        """What `config.json` keeps of the teacher."""
        return {} if self.teacher is None else {TEACHER: self.teacher.digest}

    def trained(self, state: TrainState) -> TrainedGenerator:
        """The generator of one member's state, whole on this process."""
        return trained(self.description, self.generator, state)


def trained(description: Description, generator: Any, state: TrainState) -> TrainedGenerator:
    """The generator of a state, whole on this process."""
    variables = state.nets["generator"].averaged
    made: TrainedGenerator = description.trained(generator, variables, int(state.step))
    return made


def describe(config: Generate, dataset: DataSet) -> Description:
    """The generator that a resolved config names."""
    network = {
        "name": given(config.generator),
        "latent_size": given(config.latent_size),
        "widths": config.generator_widths,
        "attention": config.generator_attention,
        "fields": _fields(config.generator_fields, "--generator-fields"),
        **_of_both(config, dataset),
    }
    members = populations.names(config)
    higher = scoring.HIGHER_IS_BETTER.get(config.best_by, True)
    return Description.of("generator", network, dataset, members=members, higher_is_better=higher)


def _of_both(config: Generate, dataset: DataSet) -> dict[str, Any]:
    """What both networks are built with."""
    return {
        "num_classes": dataset.num_classes if config.conditional else None,
        "width": given(config.width),
        "dtype": config.dtype,
    }


def networks(config: Generate, dataset: DataSet, teacher: Teacher | None = None) -> Any:
    """The (generator, discriminator) that a resolved config names."""
    shape = dataset.columns["inputs"].shape
    arguments = dict(describe(config, dataset).network)
    generator = make_generator(arguments.pop("name"), image_shape=shape, **arguments)
    if teacher is not None and config.teach == "project":
        both = _of_both(config, dataset)
        (both["width"],) = scale_widths((_HEADS,), both["width"])
        return generator, ProjectedDiscriminator(teacher.scales, **both)
    discriminator = make_discriminator(
        config.discriminator or given(config.generator),
        image_shape=shape,
        widths=config.discriminator_widths,
        attention=config.discriminator_attention,
        fields=_fields(config.discriminator_fields, "--discriminator-fields"),
        conditioning=config.conditioning,
        spectral_norm=config.spectral_norm,
        **_of_both(config, dataset),
    )
    if teacher is not None and config.teach == "distil":
        discriminator = TaughtDiscriminator(discriminator, teacher.size)
    return generator, discriminator


def _fields(texts: Sequence[str] | None, flag: str) -> dict[str, Any]:
    """NAME=VALUE, ... as names and numbers, or texts."""
    fields: dict[str, Any] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name or name in fields:
            raise UserError(
                f"{flag} takes NAME=VALUE, each name once, as in blocks=3; got {text!r}"
            )
        fields[name] = value
        for kind in (float, int):
            with contextlib.suppress(ValueError):
                fields[name] = kind(value)
    return fields


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A config's numbers of the step, those of a sweep in their place.

    Attributes:
      config: resolved.
      total_steps: of the run.
      swept: field -> number of a member, perhaps traced.
    """

    config: Generate
    total_steps: int
    swept: Mapping[str, Any]

    def of(self, name: str, batch_size: int | None = None) -> Any:
        """A field as a number, or as a function of steps (or of updates) of so many images."""
        if name in self.swept:
            return self.swept[name]
        value = getattr(self.config, name)
        if value is None:
            return None
        start, end = ends(value, name)
        if not is_ramp(value):
            return start
        images = self.config.step_images
        over = self.config.ramp_images
        over = self.total_steps * images if over is None else over
        return optimizers.over_images(start, end, over, batch_size or images)

    def optimizers(self) -> tuple[Any, Any]:
        """The generator's and the discriminator's."""
        config, made = self.config, []
        for net, updates in (
            ("generator", 1),
            ("discriminator", given(config.discriminator_steps)),
        ):
            images = config.step_images // updates
            peak = self.of(f"{net}_learning_rate", images)
            rate: Any = peak
            if not callable(peak):
                rate = optimizers.make_schedule(
                    given(config.schedule), peak, self.total_steps * updates
                )
            made.append(
                optimizers.make_optimizer(
                    config.optimizer,
                    rate,
                    clip_norm=config.clip_norm,
                    b1=given(config.b1),
                    b2=self.of("b2", images),
                    weight_clip=config.weight_clip if net == "discriminator" else None,
                )
            )
        return made[0], made[1]

    def ema_decay(self) -> Any:
        """Of the generator's average, as a function of the step; None where none is kept."""
        if not keeps_average(self.config):
            return None
        return optimizers.half_life_decay(
            self.of("ema_half_life"), self.config.step_images, warmup=self.config.ema_warmup
        )


def keeps_average(config: Generate) -> bool:
    """Whether the generator has a moving average."""
    span = ends(given(config.ema_half_life), "ema_half_life")
    return max(span) > 0 or sweeps.is_swept(config, "ema_half_life")


def _terms(numbers: Numbers, penalised: bool, teacher: Teacher | None) -> list[Any]:
    """The terms of both players' losses; the costly ones only where the step is to have them."""
    config, terms = numbers.config, []
    every = given(config.penalty_every)
    if penalised and config.penalty != "none":
        weight = _times(numbers.of("penalty_weight"), every)
        terms.append(losses.penalty(given(config.penalty), weight))
    if sweeps.uses(config, "lecam_weight"):
        terms.append(losses.LeCam(numbers.of("lecam_weight")))
    if penalised and sweeps.uses(config, "path_length_weight"):
        terms.append(losses.PathLength(_times(numbers.of("path_length_weight"), every)))
    if sweeps.uses(config, "matching_weight"):
        terms.append(losses.FeatureMatching(numbers.of("matching_weight")))
    if teacher is not None and config.teach != "project":
        term = {"distil": losses.Distillation, "match": losses.FeatureMatching}[given(config.teach)]
        terms.append(term(features=teacher.pooled, weight=numbers.of("teacher_weight")))
    if config.conditioning == "auxiliary" and sweeps.uses(config, "auxiliary_weight"):
        weight = numbers.of("auxiliary_weight")
        terms += [losses.Auxiliary(player, weight) for player in ("discriminator", "generator")]
    return terms


def maker(
    config: Generate,
    nets: tuple[Any, Any],
    total_steps: int,
    teacher: Teacher | None = None,
) -> Callable[..., Game]:
    """How a member's step is made: `(numbers swept, penalised) -> step`.

    Args:
      config: resolved.
      nets: generator and discriminator.
      total_steps: of the run.
      teacher: the CNN that helps, if one does.
    """
    adversarial = losses.adversarial_loss(given(config.loss))
    # What is unknown is refused now, and not when the step is first traced.
    optimizers.make_schedule(given(config.schedule), 0.0, 1)
    augmentation = augment.gan_augmentation(config.augment) if config.augment else None

    def make(swept: Mapping[str, Any], penalised: bool = True) -> Game:
        numbers = Numbers(config, total_steps, swept)
        probability = numbers.of("augment_probability")
        if config.adaptive_augment:
            start = ends(config.augment_probability or 0.0, "augment_probability")[0]
            probability = augment.Adaptive(config.augment_target, config.augment_images, start)
        return steps.adversarial_step(
            *nets,
            adversarial,
            *numbers.optimizers(),
            latent_size=given(config.latent_size),
            conditional=config.conditional,
            discriminator_steps=given(config.discriminator_steps),
            terms=_terms(numbers, penalised, teacher),
            augment=augmentation,
            augment_probability=probability,
            ema_decay=numbers.ema_decay(),
            micro_batches=config.micro_batches,
        )

    return make


def whole_step(config: Generate, make: Callable[..., Step]) -> Any:
    """The run's step: with the penalties at every step, at every n-th, or at none."""
    penalised = populations.step(config, make)
    nothing = config.penalty == "none" and not sweeps.uses(config, "path_length_weight")
    if nothing or config.penalty_every == 1:
        return penalised
    plain = populations.step(config, partial(make, penalised=False))
    return Lazily(penalised, plain, given(config.penalty_every))


def first_state(
    config: Generate,
    nets: tuple[Any, Any],
    image_shape: tuple[int, ...],
    total_steps: int,
    keys: Callable[[int], Any],
    start: starting.Start | None = None,
) -> Callable[[int], TrainState]:
    """A function from a member's number to its first state.

    Args:
      config: resolved.
      nets: generator and discriminator.
      image_shape: (H, W, C).
      total_steps: of the run.
      keys: number of a member -> keys of generator, discriminator, run, ...
      start: the weights that they start from, if not from random ones.
    """
    generator, discriminator = nets
    optimizers = Numbers(config, total_steps, {}).optimizers()
    labels = jnp.zeros(1, jnp.int32) if config.conditional else None
    extra = maker(config, nets, total_steps)({}).extra

    def trained(net: str) -> Any:
        return None if start is None else partial(start.into, net)

    def init(member: int) -> TrainState:
        generator_key, discriminator_key, run_key, *_ = keys(member)
        return state.TrainState.create(
            run_key,
            {
                "generator": state.init_net(
                    generator,
                    generator_key,
                    jnp.zeros((1, config.latent_size)),
                    labels,
                    train=False,
                    optimizer=optimizers[0],
                    ema=keeps_average(config),
                    prepare=trained("generator"),
                ),
                "discriminator": state.init_net(
                    discriminator,
                    discriminator_key,
                    jnp.zeros((1, *image_shape)),
                    labels,
                    train=False,
                    optimizer=optimizers[1],
                    prepare=trained("discriminator"),
                ),
            },
            extra=extra,
        )

    return init


def check_penalty(config: Generate, discriminator: Any, image_shape: tuple[int, ...]) -> None:
    """Fails for a penalty on a discriminator whose logits depend on the whole batch."""
    if config.penalty == "none":
        return
    labels = jnp.zeros(1, jnp.int32) if config.conditional else None
    images = jnp.zeros((1, *image_shape))
    made = jax.eval_shape(
        lambda key: discriminator.init(key, images, labels, train=False), jax.random.key(0)
    )
    if "batch_stats" in made:
        raise UserError(
            f"--discriminator {config.discriminator} normalises over the batch, so an image "
            "has no gradient of its own to penalise; add --penalty none"
        )


def _times(value: Any, factor: int) -> Any:
    if callable(value):
        ramp: Any = value
        return lambda step: factor * ramp(step)
    return factor * value
