"""Terms: what joins a player's loss, each with its weight and its own numbers in the state."""

import abc
import dataclasses
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxnets.devices.axis import psum
from jaxnets.errors import UserError
from jaxnets.losses.classification import cross_entropy
from jaxnets.metrics.mean import Mean
from jaxnets.typing import Array, Batch, Metrics, PRNGKey, PyTree

__all__ = [
    "Auxiliary",
    "Distillation",
    "FeatureMatching",
    "LeCam",
    "Play",
    "Side",
    "Term",
    "Weight",
    "mean_distance",
]

#: A number, which may be traced (swept over a population), or a function of the step.
Weight = Array | float | optax.Schedule


class Side(NamedTuple):
    """Reals or fakes, and what the discriminator makes of them.

    Attributes:
      inputs: [B, *spatial, C].
      logits: [B], or [B, S] of a discriminator with S heads.
      features: name -> [B, ...].
    """

    inputs: Array
    logits: Array
    features: Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class Play:
    """What is on the table in one move of a GAN's game.

    Attributes:
      batch: the examples of this update, leaves [B, ...], with `mask`.
      module: the player's network.
      variables: its variables, of which `params` are differentiated.
      nets: all networks, by name, as they were before this move.
      extra: the numbers that terms keep in the state, by name.
      critics: two functions `images [B, ...] -> logits [B]`, the discriminator behind the
        augmentation and with the dropout of the reals, and with those of the fakes.
      real: the reals, and what the discriminator makes of them.
      fake: likewise; the inputs have no gradient in the discriminator's moves.
      labels: [B], or None where the networks get none.
      latents: [B, Z] of the fakes.
    """

    batch: Batch
    module: nn.Module
    variables: PyTree
    nets: Mapping[str, Any]
    extra: Mapping[str, Array]
    critics: tuple[Callable[[Array], Array], Callable[[Array], Array]]
    real: Side
    fake: Side
    labels: Array | None
    latents: Array

    def mean(self, values: Array) -> Mean:
        """The metric of values [B], or of several heads [B, S], over the examples that count."""
        return Mean.of(values.reshape(len(values), -1).mean(axis=1), self.batch["mask"])


class Term(abc.ABC):
    """A summand of one player's loss.

    Attributes:
      player: whose loss it joins, "discriminator" or "generator".
      weight: its factor, a number or a function of the step.
      extra: its own numbers in the state, name -> first value, of any shape.
      reads_features: whether it looks at the discriminator's features. Where a term of the
        discriminator does, a penalty can't spare the pass that gives them.
    """

    player: str = "discriminator"
    weight: Weight = 1.0
    extra: Mapping[str, ArrayLike] = types.MappingProxyType({})
    reads_features: bool = False

    @abc.abstractmethod
    def __call__(self, play: Play, key: PRNGKey) -> tuple[Array, Metrics]:
        """Its values [B], before the weight, and its metrics."""

    def after(self, extra: Mapping[str, Array], metrics: Metrics) -> Mapping[str, Array]:
        """The next values of its numbers, given those of this step and the step's metrics."""
        del extra, metrics
        return {}


@dataclasses.dataclass(frozen=True)
class LeCam(Term):
    """`relu(D(x) - a_f)^2 + relu(a_r - D(G(z)))^2`: a critic kept near what it said so far.

    a_r and a_f are moving averages of its logits of reals and fakes, `lecam_real` and `lecam_fake`
    in the state. The cut at zero is that of the authors' code; eq. 5 of the paper has none.

    Attributes:
      weight: the paper has 0.3 for CIFAR at a tenth of the data, 0.01 for all of it.
      decay: share of the old averages that a step keeps.

    Reference:
      Tseng et al. 2021, Regularizing Generative Adversarial Networks under Limited Data,
      arXiv:2104.03310.
    """

    weight: Weight = 0.3
    decay: float = 0.99
    extra = types.MappingProxyType({"lecam_real": 0.0, "lecam_fake": 0.0})

    def __call__(self, play: Play, key: PRNGKey) -> tuple[Array, Metrics]:
        """Values [B] and the metric `lecam`."""
        above = jax.nn.relu(play.real.logits - play.extra["lecam_fake"])
        below = jax.nn.relu(play.extra["lecam_real"] - play.fake.logits)
        values = jnp.square(above) + jnp.square(below)
        return values, {"lecam": play.mean(values)}

    def after(self, extra: Mapping[str, Array], metrics: Metrics) -> Mapping[str, Array]:
        """The averages, moved towards the step's mean logits."""
        return {
            name: self.decay * extra[name] + (1.0 - self.decay) * metrics[logits].on_device()
            for name, logits in (("lecam_real", "d_real"), ("lecam_fake", "d_fake"))
        }


@dataclasses.dataclass(frozen=True)
class FeatureMatching(Term):
    """`|mean f(x) - mean f(G(z))|^2`, the means over the examples of all devices.

    Attributes:
      weight: its factor.
      features: images [B, H, W, C] in [-1, 1] -> features f [B, ...], of any CNN; None takes the
        discriminator's "penultimate".

    Reference:
      Salimans et al. 2016, Improved Techniques for Training GANs, arXiv:1606.03498, section 3.1.
    """

    weight: Weight = 1.0
    features: Callable[[Array], Array] | None = None
    player = "generator"

    def __call__(self, play: Play, key: PRNGKey) -> tuple[Array, Metrics]:
        """Values [B], all the same number, and the metric `matching` (`cnn_matching` of a CNN)."""
        real, fake = (
            side.features["penultimate"] if self.features is None else self.features(side.inputs)
            for side in (play.real, play.fake)
        )
        values = mean_distance(real, fake, play.batch["mask"])
        name = "matching" if self.features is None else "cnn_matching"
        return values, {name: play.mean(values)}


@dataclasses.dataclass(frozen=True)
class Distillation(Term):
    """`1 - cos(h(D(x)), f(x))` of real images x: the discriminator learns what a frozen CNN sees.

    h(D(x)) are the discriminator's "taught" features, a linear layer on its "penultimate"; see
    `jaxnets.models.conditioning.TaughtDiscriminator`. The CNN sees images before augmentation.

    Attributes:
      features: images [B, H, W, C] in [-1, 1] -> features f [B, F] of a CNN that stays as it is.
      weight: its factor.

    Reference:
      GAT, arXiv 2026: `L_D + c sum(1 - cos(h_D(x), f(x)))` on real images, with c = 1.
    """

    features: Callable[[Array], Array]
    weight: Weight = 1.0
    reads_features = True

    def __call__(self, play: Play, key: PRNGKey) -> tuple[Array, Metrics]:
        """Values [B] in [0, 2] and the metric `distillation`."""
        if "taught" not in play.real.features:
            raise UserError(
                "this discriminator has no features to be taught; wrap it in "
                "jaxnets.models.conditioning.TaughtDiscriminator"
            )
        taught = play.real.features["taught"].astype(jnp.float32)
        seen = jax.lax.stop_gradient(self.features(play.real.inputs)).astype(jnp.float32)
        chex.assert_equal_shape([taught, seen])
        values = 1.0 - optax.cosine_similarity(taught, seen, epsilon=1e-6)
        return values, {"distillation": play.mean(values)}


def mean_distance(real: Array, fake: Array, mask: Array) -> Array:
    """`|mean real - mean fake|^2` of features [B, ...], over the examples of all devices.

    Args:
      real: not differentiated.
      fake: of equal shape.
      mask: [B], the examples that count.

    Returns:
      [B], all the same number.
    """
    chex.assert_equal_shape([real, fake])
    difference = (fake - jax.lax.stop_gradient(real)).reshape(len(mask), -1)
    kept = jnp.where(mask[:, None] > 0, difference.astype(jnp.float32), 0.0)
    total, count = psum((kept.sum(axis=0), (mask > 0).astype(jnp.float32).sum()))
    return jnp.full(mask.shape, jnp.square(total / jnp.maximum(count, 1.0)).sum())


@dataclasses.dataclass(frozen=True)
class Auxiliary(Term):
    """AC-GAN: cross-entropy of the discriminator's "class_logits" against the labels.

    Take one for each player: the discriminator names reals and fakes, the generator makes fakes
    that are named rightly. `jaxnets.models.conditioning.AuxiliaryClassifier` has such logits.

    Attributes:
      player: "discriminator" or "generator".
      weight: its factor.

    Reference:
      Odena et al. 2017, Conditional Image Synthesis with Auxiliary Classifier GANs,
      arXiv:1610.09585.
    """

    player: str
    weight: Weight = 1.0
    reads_features = True

    def __call__(self, play: Play, key: PRNGKey) -> tuple[Array, Metrics]:
        """Values [B]; the discriminator's with the metric `class_accuracy`, of reals."""
        # 0 on padding, whose label of -1 has no loss, and 0 times that is a NaN still.
        classes = jnp.where(play.batch["mask"] > 0, play.batch["target"], 0)
        values = cross_entropy(_class_logits(play.fake.features), classes)
        if self.player == "generator":
            return values, {}
        logits = _class_logits(play.real.features)
        right = logits.argmax(axis=-1) == classes
        return cross_entropy(logits, classes) + values, {"class_accuracy": play.mean(right)}


def _class_logits(features: Mapping[str, Array]) -> Array:
    if "class_logits" not in features:
        raise UserError(
            "this discriminator names no classes; wrap it in "
            "jaxnets.models.conditioning.AuxiliaryClassifier"
        )
    return features["class_logits"]
