"""Steps that learn from unlabelled examples too: pseudo-labels, FixMatch and a GAN's classifier.

Their batches have `unlabelled` [B, R, ...] beside the labelled examples (see
`jaxnets.data.pipeline.WithUnlabelled`).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxnets.data.augment import Augmentation
from jaxnets.data.augment import apply as augment_batch
from jaxnets.devices import axis
from jaxnets.losses.classification import cross_entropy
from jaxnets.losses.terms import mean_distance
from jaxnets.metrics.mean import Mean
from jaxnets.train.adversarial import sample_latents
from jaxnets.train.descent import forward
from jaxnets.train.freezing import Frozen
from jaxnets.train.game import Game, Move, game_step
from jaxnets.train.state import TrainState
from jaxnets.typing import Array, Batch, Metrics, PRNGKey, PyTree

__all__ = ["Common", "Consistency", "consistency_step", "gan_step"]


@dataclasses.dataclass(frozen=True)
class Common:
    """What all of these steps need.

    Attributes:
      model: `(inputs, train) -> (logits [B, K], features)`, kept in `state.nets["classifier"]`.
      loss: of the labelled examples, `(logits [B, K], labels [B]) -> [B]`.
      optimizer: the one that the classifier was initialised with.
      augment: `(key, example) -> example`, of labelled examples; None for none.
      weak: the same of unlabelled examples, which leaves their class plain to see.
      ema_decay: of the moving average of the classifier.
      micro_batches: see `jaxnets.train.descent.descend`.
      frozen: variables that stay as they are (see `jaxnets.train.freezing`).
    """

    model: nn.Module
    loss: Callable[[Array, Array], Array]
    optimizer: optax.GradientTransformation
    augment: Augmentation | None = None
    weak: Augmentation | None = None
    ema_decay: Array | float | None = None
    micro_batches: int = 1
    frozen: Mapping[str, Any] | None = None

    def labelled(self, batch: Batch, key: PRNGKey) -> Array:
        """The labelled examples [B, ...], augmented."""
        return _augmented(self.augment, batch["inputs"], key)

    def look(self, params: PyTree, model_state: PyTree, key: PRNGKey, examples: Array) -> Any:
        """The classifier in training mode: logits, features and its state."""
        model: Any = self.model if self.frozen is None else Frozen(self.model, self.frozen)
        return forward(model, model_state, key)(params, examples)

    def look_at_both(
        self, params: PyTree, model_state: PyTree, key: PRNGKey, labelled: Array, others: Array
    ) -> tuple[Array, Array, PyTree]:
        """One pass over labelled examples [B, ...] and R times as many others [B R, ...].

        Interleaved, so that each stays on its device.

        Returns:
          Logits [B, K] and [B R, K], and the state.
        """
        count, shape = labelled.shape[0], labelled.shape[1:]
        both = jnp.concatenate([labelled[:, None], others.reshape(count, -1, *shape)], axis=1)
        logits, _, after = self.look(params, model_state, key, both.reshape(-1, *shape))
        logits = logits.reshape(count, -1, logits.shape[-1])
        return logits[:, 0], logits[:, 1:].reshape(-1, logits.shape[-1]), after

    def supervised(self, batch: Batch, logits: Array) -> tuple[Array, dict[str, Any]]:
        """The loss of the labelled examples [B], and its metrics."""
        # A label of -1 on padding has no loss, and 0 times its NaN would still be a gradient.
        labels = jnp.where(batch["mask"] > 0, batch["target"], 0)
        values = self.loss(logits, labels)
        return values, {
            "loss": Mean.of(values, batch["mask"]),
            "accuracy": Mean.of(logits.argmax(axis=-1) == labels, batch["mask"]),
        }

    def game(self, moves: list[Move]) -> Game:
        """The step of these moves."""
        return game_step(
            moves,
            ema_decay=self.ema_decay,
            micro_batches=self.micro_batches,
            num_classes=getattr(self.model, "num_classes", None),
        )


@dataclasses.dataclass(frozen=True)
class Consistency:
    """What the averaged network is sure of, to be learned as if it were known.

    `[max q >= threshold] CE(p(strong(u)), argmax q)` with `q = average(weak(u))`. With a strong
    augmentation that is FixMatch; without, the labels are learned on the very view that they were
    read from, as pseudo-labels.

    Attributes:
      threshold: least probability of a label that counts.
      strong: `(key, example) -> example` of what is learned; None for the weak view itself.
      weight: of the term.

    References:
      Lee 2013, Pseudo-Label, ICML workshop on challenges in representation learning.
      Sohn et al. 2020, FixMatch, arXiv:2001.07685; labels by the averaged network as in Tarvainen
      and Valpola 2017, Mean teachers are better role models, arXiv:1703.01780.
    """

    threshold: Array | float = 0.95
    strong: Augmentation | None = None
    weight: Array | float = 1.0

    def __call__(
        self,
        common: Common,
        params: PyTree,
        model_state: PyTree,
        batch: Batch,
        key: PRNGKey,
        state: TrainState,
    ) -> tuple[Array, dict[str, Any]]:
        """Values [B] times the weight, and the metrics `unlabelled_loss` and `sure`."""
        weak_key, strong_key, dropout_key = jax.random.split(key, 3)
        unlabelled, count = _rows(batch), len(batch["inputs"])
        weak = seen = _augmented(common.weak, unlabelled, weak_key)
        teacher = state.nets["classifier"].averaged
        said = jax.lax.stop_gradient(common.model.apply(teacher, weak, train=False)[0])
        if self.strong is not None:
            seen = _augmented(self.strong, unlabelled, strong_key)
        # A pass of its own, whose moments do not enter what the classifier is tested with.
        logits, _, _ = common.look(params, model_state, dropout_key, seen)
        sure = jax.nn.softmax(said).max(axis=-1) >= self.threshold
        values = jnp.where(sure, cross_entropy(logits, said.argmax(axis=-1)), 0.0)
        values, share = (of.reshape(count, -1).mean(axis=1) for of in (values, sure))
        told = {"unlabelled_loss": values, "sure": share}
        return self.weight * values, {k: Mean.of(of, batch["mask"]) for k, of in told.items()}


def consistency_step(common: Common, consistency: Consistency) -> Game:
    """A step with pseudo-labels, or FixMatch: `CE(p(x), y)` and the consistency.

    Returns:
      A game of one move with the metrics `loss` and `accuracy` of the labelled examples,
      `unlabelled_loss`, and `sure`, the share of unlabelled examples that count.
    """

    def objective(
        params: PyTree, model_state: PyTree, batch: Batch, key: PRNGKey, state: TrainState
    ):
        own_key, dropout_key, others_key = jax.random.split(key, 3)
        logits, _, after = common.look(
            params, model_state, dropout_key, common.labelled(batch, own_key)
        )
        values, metrics = common.supervised(batch, logits)
        added, told = consistency(common, params, model_state, batch, others_key, state)
        return values + added, (after, metrics | told)

    return common.game([Move("classifier", objective, common.optimizer, frozen=common.frozen)])


def gan_step(
    common: Common,
    generator: nn.Module,
    generator_optimizer: optax.GradientTransformation,
    *,
    latent_size: int,
    fakes: int = 1,
    weight: Array | float = 1.0,
    entropy_weight: Array | float = 0.0,
    consistency: Consistency | None = None,
) -> Game:
    """A GAN whose discriminator is the classifier: what is of any class is real.

    With `Z = logsumexp(logits)` the discriminator minimises
    `CE(p(x), y) + weight / 2 [softplus(-Z(u)) + softplus(Z(G(z)))] + entropy_weight H(p(u))`, and
    the generator the distance between the mean penultimate features of unlabelled examples and of
    its own, see `jaxnets.losses.terms.mean_distance`.

    Args:
      common: see there.
      generator: `(latents, None, train) -> (images, features)`, kept in `state.nets["generator"]`.
      generator_optimizer: the one that it was initialised with.
      latent_size: length of the latents.
      fakes: generated images for each labelled example of a batch.
      weight: of the discriminator's part of the loss.
      entropy_weight: of the entropy of what the classifier says of unlabelled examples.
      consistency: FixMatch's term, to be added to the GAN's.

    Returns:
      A game of two moves with the metrics `loss` and `accuracy` of the labelled examples, `d_loss`
      (the bracket above, halved), `d_real` and `d_fake` (mean Z), `entropy`, and `matching` of the
      generator.

    References:
      Salimans et al. 2016, Improved Techniques for Training GANs, arXiv:1606.03498, section 5.
      Dai et al. 2017, Good Semi-supervised Learning That Requires a Bad GAN, arXiv:1705.09783, for
      the entropy.
    """
    played = _Gan(common, generator, latent_size, fakes, weight, entropy_weight, consistency)
    return common.game(
        [
            Move("classifier", played.discriminate, common.optimizer, frozen=common.frozen),
            Move("generator", played.match, generator_optimizer, prefix="g_"),
        ]
    )


@dataclasses.dataclass(frozen=True)
class _Gan:
    """What both players' objectives share; see `gan_step`."""

    common: Common
    generator: nn.Module
    latent_size: int
    fakes: int
    weight: Array | float
    entropy_weight: Array | float
    consistency: Consistency | None

    def generate(self, params: PyTree, model_state: PyTree, count: int, key: PRNGKey) -> Any:
        """So many images for each of `count` rows, and the generator's state after them."""
        latents_key, dropout_key = jax.random.split(key)
        latents = sample_latents(latents_key, self.fakes * count, self.latent_size)
        images, _, after = forward(self.generator, model_state, dropout_key)(params, latents, None)
        return images, after

    def discriminate(
        self, params: PyTree, model_state: PyTree, batch: Batch, key: PRNGKey, state: TrainState
    ) -> tuple[Array, tuple[PyTree, Metrics]]:
        """The classifier's objective."""
        common = self.common
        own_key, weak_key, fake_key, see_key, dropout_key = jax.random.split(key, 5)
        unlabelled, count, net = _rows(batch), len(batch["inputs"]), state.nets["generator"]
        real = _augmented(common.weak, unlabelled, weak_key)
        fake, _ = self.generate(net.params, net.model_state, count, fake_key)
        fake = _augmented(common.weak, jax.lax.stop_gradient(fake), see_key)
        of_labelled, of_real, after = common.look_at_both(
            params, model_state, dropout_key, common.labelled(batch, own_key), real
        )
        # A pass of their own: their moments are not to enter what the classifier is tested with.
        of_fake, _, _ = common.look(params, model_state, dropout_key, fake)
        values, metrics = common.supervised(batch, of_labelled)
        real_sums, fake_sums = (
            jax.nn.logsumexp(of, axis=-1).reshape(count, -1) for of in (of_real, of_fake)
        )
        adversarial = jax.nn.softplus(-real_sums).mean(axis=1)
        adversarial = 0.5 * (adversarial + jax.nn.softplus(fake_sums).mean(axis=1))
        shares = jax.nn.log_softmax(of_real)
        entropy = -(jnp.exp(shares) * shares).sum(axis=-1).reshape(count, -1).mean(axis=1)
        told = {
            "d_loss": adversarial,
            "d_real": real_sums.mean(axis=1),
            "d_fake": fake_sums.mean(axis=1),
            "entropy": entropy,
        }
        metrics |= {name: Mean.of(of, batch["mask"]) for name, of in told.items()}
        values = values + self.weight * adversarial + self.entropy_weight * entropy
        if self.consistency is not None:
            own_key = jax.random.fold_in(key, 1)
            added, told = self.consistency(common, params, model_state, batch, own_key, state)
            values, metrics = values + added, metrics | told
        return values, (after, metrics)

    def match(
        self, params: PyTree, model_state: PyTree, batch: Batch, key: PRNGKey, state: TrainState
    ) -> tuple[Array, tuple[PyTree, Metrics]]:
        """The generator's objective."""
        common = self.common
        weak_key, fake_key, see_key, dropout_key = jax.random.split(key, 4)
        unlabelled, count, net = _rows(batch), len(batch["inputs"]), state.nets["classifier"]
        real = _augmented(common.weak, unlabelled, weak_key)
        fake, model_state = self.generate(params, model_state, count, fake_key)
        fake = _augmented(common.weak, fake, see_key)
        means = []
        for images in (real, fake):
            _, features, _ = common.look(net.params, net.model_state, dropout_key, images)
            of = features["penultimate"]
            means.append(of.reshape(count, -1, *of.shape[1:]).mean(axis=1))
        distance = mean_distance(means[0], means[1], batch["mask"])
        return distance, (model_state, {"matching": Mean.of(distance, batch["mask"])})


def _rows(batch: Batch) -> Array:
    """The unlabelled examples, [B R, ...]."""
    unlabelled = batch["unlabelled"]
    return unlabelled.reshape(-1, *unlabelled.shape[2:])


def _augmented(augment: Augmentation | None, examples: Array, key: PRNGKey) -> Array:
    """Each with its own key, the same on any number of devices."""
    if augment is None:
        return examples
    return augment_batch(augment, axis.example_keys(key, len(examples)), examples)
