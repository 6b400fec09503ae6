"""What `classify --few-labels` feeds and trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxnets.columns import Column
from jaxnets.commands import populations, training
from jaxnets.commands.configs.classify import Classify
from jaxnets.commands.configs.few_labels import GANS, SURE
from jaxnets.commands.configs.options import given
from jaxnets.data import DataSet, Split, augment
from jaxnets.data.pipeline import WithUnlabelled
from jaxnets.errors import UserError
from jaxnets.models import make_generator
from jaxnets.nn.frontends import perturb
from jaxnets.train import optimizers, state
from jaxnets.train.few_labels import Common, Consistency, consistency_step, gan_step
from jaxnets.train.state import TrainState
from jaxnets.train.steps import Step

_LATENT_SIZE = 64

#: Generated images for each labelled one. As many as unlabelled ones cost twice the time a step.
_FAKES = 1


def is_on(config: Classify) -> bool:
    """Whether a run learns from unlabelled examples."""
    return config.few_labels != "none"


def check(config: Classify, column: Column) -> None:
    """Fails, in one sentence, for what can't be done with unlabelled examples.

    Raises:
      UserError: for it.
    """
    kinds = {"pseudo": ("image", "sound", "tokens"), "fixmatch": ("image", "sound")}
    if is_on(config) and column.kind not in kinds.get(config.few_labels, ("image",)):
        others = "--few-labels pseudo" + " or fixmatch" * (column.kind == "sound")
        raise UserError(
            f"--few-labels {config.few_labels} is not for {config.data}, which has no images; use "
            f"{others}"
        )
    if is_on(config) and config.mixup:
        raise UserError(
            f"--mixup blends labels, which --few-labels {config.few_labels} has few of; leave one "
            "of them out"
        )
    if config.strong_augment and column.kind != "image":
        raise UserError(f"--strong-augment is for images; {config.data} has none")


def make_feed(
    config: Classify, trains: Sequence[Split], pools: Sequence[Split], mesh: Mesh
) -> training.Feed:
    """What feeds a run whose steps see the members' labelled examples, and perhaps others.

    Args:
      config: resolved.
      trains: of each member, the labelled examples.
      pools: of each member, all training examples.
      mesh: the devices.
    """
    size = given(config.batch_size)
    if not is_on(config):
        return training.make_feed(config, trains, size, mesh)
    of_split = {
        id(pool): Split(pool.inputs, columns={"inputs": pool.columns["inputs"]}) for pool in pools
    }
    others = [of_split[id(pool)] for pool in pools]
    every = size * config.unlabelled_ratio
    if every > len(pools[0]):
        raise UserError(
            f"--batch-size {size} with --unlabelled-ratio {config.unlabelled_ratio} is {every} "
            f"unlabelled examples a step, and there are {len(pools[0])}; choose less of one"
        )
    feed = training.make_feed(config, others, every, mesh)
    labelled = populations.pipeline(config, trains, size, mesh)
    return dataclasses.replace(feed, pipeline=WithUnlabelled(labelled, feed.pipeline))


def of_labelled(config: Classify, weak: Any) -> Any:
    """What is done to labelled examples, given what is done to all."""
    return augment.strong_augmentation(weak) if config.strong_augment else weak


def step(config: Classify, column: Column, common: Common, total_steps: int) -> Step:
    """The step of a member.

    Args:
      config: resolved; what is swept may be traced.
      column: of the inputs.
      common: what all methods need.
      total_steps: of the run.
    """
    consistency = None
    if config.few_labels in SURE:
        strong = None if config.few_labels == "pseudo" else _strong(config, column, common.weak)
        consistency = Consistency(given(config.threshold), strong, config.unlabelled_weight)
    if config.few_labels not in GANS:
        return consistency_step(common, given(consistency))
    return gan_step(
        common,
        _generator(config, column),
        _optimizer(config, total_steps),
        latent_size=_LATENT_SIZE,
        fakes=_FAKES,
        weight=config.adversarial_weight,
        entropy_weight=config.entropy_weight,
        consistency=consistency,
    )


def first_state(
    config: Classify, dataset: DataSet, total_steps: int, init: Callable[[int], TrainState]
) -> Callable[[int], TrainState]:
    """A member's first state, with the generator where there is one."""
    if config.few_labels not in GANS:
        return init
    generator = _generator(config, dataset.columns["inputs"])

    def with_generator(member: int) -> TrainState:
        first = init(member)
        net = state.init_net(
            generator,
            jax.random.fold_in(first.key, 2**31),
            jnp.zeros((1, _LATENT_SIZE)),
            None,
            train=False,
            optimizer=_optimizer(config, total_steps),
        )
        return dataclasses.replace(first, nets={**first.nets, "generator": net})

    return with_generator


def _generator(config: Classify, column: Column) -> Any:
    return make_generator(
        "dcgan",
        image_shape=column.shape,
        latent_size=_LATENT_SIZE,
        width=config.gan_width,
        dtype=config.dtype,
    )


def _optimizer(config: Classify, total_steps: int) -> Any:
    rate = optimizers.make_schedule("constant", config.gan_learning_rate, total_steps)
    return optimizers.make_optimizer("adam", rate, b1=0.5)


def _strong(config: Classify, column: Column, weak: Any) -> augment.Augmentation:
    """What FixMatch learns its pseudo-labels on."""
    if column.kind == "image":
        return augment.strong_augmentation(weak)
    return partial(perturb, shift=2 * config.shift, speed=2 * config.speed)
