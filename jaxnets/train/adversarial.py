"""The alternating step of a generative adversarial network."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxnets.data.augment import AUGMENT_PROBABILITY, Adaptive, Augmentation, sometimes
from jaxnets.data.augment import apply as augment_batch
from jaxnets.devices import axis
from jaxnets.errors import UserError
from jaxnets.losses.adversarial import AdversarialLoss
from jaxnets.losses.penalties import Critic, Penalty
from jaxnets.losses.terms import Play, Side, Term
from jaxnets.metrics.mean import Mean
from jaxnets.train.descent import forward, value_at
from jaxnets.train.game import Game, Move, add_terms, game_step, terms_of
from jaxnets.train.state import TrainState
from jaxnets.typing import Array, Batch, Metrics, PRNGKey, PyTree

__all__ = ["adversarial_step", "sample_latents"]

#: `(images, side) -> (logits, features, model_state)`; side 0 augments as for reals, 1 for fakes.
_Look = Callable[..., tuple[Array, Mapping[str, Array], PyTree]]


def adversarial_step(
    generator: nn.Module,
    discriminator: nn.Module,
    loss: AdversarialLoss,
    generator_optimizer: optax.GradientTransformation,
    discriminator_optimizer: optax.GradientTransformation,
    *,
    latent_size: int,
    conditional: bool = False,
    discriminator_steps: int = 1,
    terms: Sequence[Term] = (),
    augment: Augmentation | None = None,
    augment_probability: Array | float | optax.Schedule | Adaptive | None = None,
    ema_decay: Array | float | optax.Schedule | None = None,
    micro_batches: int = 1,
) -> Game:
    """The alternating step of a generative adversarial network: a game of two moves.

    First k updates of `state.nets["discriminator"]`, each on its own share of the batch and fresh
    latents; then one update of `state.nets["generator"]` against the discriminator as it now is.
    Each minimises its side of `loss` and `sum_i weight_i term_i` of its own terms.

    Args:
      generator: `(latents [B, Z], labels or None, train) -> (images, features)`.
      discriminator: `(images, labels or None, train) -> (logits [B], features)`.
      loss: both players' losses.
      generator_optimizer: the one that the generator was initialised with.
      discriminator_optimizer: likewise.
      latent_size: Z; latents are drawn from N(0, I).
      conditional: whether both networks get the labels of the real images.
      discriminator_steps: k; the batch is dealt out over them, so k must divide it.
      terms: of either player, as `penalty("r1", 0.1)`, `LeCam()`, `FeatureMatching()`,
        `PathLength()`, `Auxiliary("discriminator")` or any other `jaxnets.losses.Term`. The critic
        of a penalty includes the augmentation, so penalties are with respect to the images before.
      augment: differentiable `(key, image) -> image`, applied to reals and fakes alike.
      augment_probability: the share of images that it is applied to, in [0, 1], or a function of
        the step; by default all. `Adaptive` keeps it in the state, and moves it after each step.
      ema_decay: of the moving average of each network that was initialised with one (the
        generator, as a rule), a number or a function of the step.
      micro_batches: see `descend`; applies to every update.

    Returns:
      A step, whose `extra` is what the terms keep in the state, with the metrics `d_loss`,
      `g_loss`, `d_real` and `d_fake` (mean logits), `d_accuracy` (share of reals and fakes on the
      right side of the loss's border, which is 0 as a rule), `d_sign_real` and `d_sign_fake` (on
      which side, as mean signs in [-1, 1], see `AdversarialLoss.signs`; Karras et al. 2020,
      arXiv:2006.06676, take the first for a measure of overfitting; of a relativistic or
      Wasserstein loss, which looks at differences only, the three are of a real's logit against
      that of its fake), `augment_probability` where there is one, those of the terms, and the two
      networks' `grad_norm` and `finite/...` (see `descend`).

    Raises:
      UserError: for a term of another player, or two that keep numbers of one name in the state.
    """
    if strangers := [t for t in terms if t.player not in ("discriminator", "generator")]:
        raise UserError(
            f"{type(strangers[0]).__name__} is a term of {strangers[0].player!r}; choose "
            "'discriminator' or 'generator'"
        )
    share = augment_probability
    table = _Table(generator, discriminator, loss, latent_size, conditional, terms, augment, share)
    k, d_move, g_move = discriminator_steps, table.discriminate, table.generate
    moves = [
        Move("discriminator", d_move, discriminator_optimizer, times=k, prefix="d_"),
        Move("generator", g_move, generator_optimizer, prefix="g_"),
    ]
    stateful = [*terms, share] if isinstance(share, Adaptive) else terms
    return game_step(moves, stateful=stateful, ema_decay=ema_decay, micro_batches=micro_batches)


def sample_latents(key: PRNGKey, count: int, size: int) -> Array:
    """Latents [count, size] from N(0, I), each from its own global example's key."""
    keys = axis.example_keys(key, count)
    return jax.vmap(lambda k: jax.random.normal(k, (size,), jnp.float32))(keys)


@dataclasses.dataclass(frozen=True)
class _Table:
    """What both players' objectives share; see `adversarial_step`."""

    generator: nn.Module
    discriminator: nn.Module
    loss: AdversarialLoss
    latent_size: int
    conditional: bool
    terms: Sequence[Term]
    augment: Augmentation | None
    augment_probability: Array | float | optax.Schedule | Adaptive | None

    def discriminate(
        self, params: PyTree, model_state: PyTree, batch: Batch, key: PRNGKey, state: TrainState
    ) -> tuple[Array, tuple[PyTree, Metrics]]:
        """The discriminator's objective."""
        fake_key, look_key, terms_key = jax.random.split(key, 3)
        real, labels, g_net = batch["inputs"], self._labels(batch), state.nets["generator"]
        chex.assert_rank(real, {3, 4, 5})
        latents, fake, _ = self._fakes(g_net.params, g_net.model_state, labels, len(real), fake_key)
        chex.assert_equal_shape([real, fake])
        fake = jax.lax.stop_gradient(fake)
        variables = {"params": params, **model_state}
        terms = terms_of("discriminator", self.terms, terms_key)
        look, both = self._looks(params, model_state, labels, look_key, state)
        spared = _by_a_penalty(look, terms, model_state, real, fake)
        terms, real, fake, model_state = spared or (terms, *both(real, fake))
        nets, extra, critics = state.nets, state.extra, _critics(look)
        play = Play(
            batch, self.discriminator, variables, nets, extra, critics, real, fake, labels, latents
        )
        logits = real.logits, fake.logits
        values, signs = self.loss.d_loss(*logits), self.loss.signs(*logits)
        metrics = {
            "d_loss": play.mean(values),
            "d_real": play.mean(logits[0]),
            "d_fake": play.mean(logits[1]),
            "d_accuracy": play.mean(signs[0] > 0) + play.mean(signs[1] < 0),
            "d_sign_real": play.mean(signs[0]),
            "d_sign_fake": play.mean(signs[1]),
        }
        values, metrics = add_terms(terms, play, state.step, values, metrics)
        return values, (model_state, metrics)

    def generate(
        self, params: PyTree, model_state: PyTree, batch: Batch, key: PRNGKey, state: TrainState
    ) -> tuple[Array, tuple[PyTree, Metrics]]:
        """The generator's objective."""
        fake_key, look_key = jax.random.split(key)
        real, labels, d_net = batch["inputs"], self._labels(batch), state.nets["discriminator"]
        variables = {"params": params, **model_state}
        latents, fake, model_state = self._fakes(params, model_state, labels, len(real), fake_key)
        look, _ = self._looks(d_net.params, d_net.model_state, labels, look_key, state)
        # Few losses use the reals; XLA drops this pass where nothing does.
        real, fake = (Side(images, *look(images, i)[:2]) for i, images in enumerate((real, fake)))
        nets, extra, critics = state.nets, state.extra, _critics(look)
        play = Play(
            batch, self.generator, variables, nets, extra, critics, real, fake, labels, latents
        )
        values = self.loss.g_loss(real.logits, fake.logits)
        metrics = {"g_loss": play.mean(values)}
        if (share := self._share(state)) is not None:
            metrics[AUGMENT_PROBABILITY] = Mean.of(jnp.asarray(share)[None])
        # A key of its own, so that the other draws are those of a step without terms.
        terms = terms_of("generator", self.terms, jax.random.fold_in(key, 1))
        values, metrics = add_terms(terms, play, state.step, values, metrics)
        return values, (model_state, metrics)

    def _labels(self, batch: Batch) -> Array | None:
        return batch["target"] if self.conditional else None

    def _share(self, state: TrainState) -> Array | float | None:
        """Of the images that are augmented; None for all."""
        share = self.augment_probability
        if isinstance(share, Adaptive):
            return state.extra[AUGMENT_PROBABILITY]
        return value_at(share, state.step)

    def _fakes(
        self, params: PyTree, model_state: PyTree, labels: Array | None, count: int, key: PRNGKey
    ) -> tuple[Array, Array, PyTree]:
        """Latents, the images made of them, and the generator's state after it."""
        latent_key, dropout_key = jax.random.split(key)
        latents = sample_latents(latent_key, count, self.latent_size)
        apply = forward(self.generator, model_state, dropout_key)
        images, _, model_state = apply(params, latents, labels)
        return latents, images, model_state

    def _looks(
        self, params: PyTree, model_state: PyTree, labels: Array | None, key: PRNGKey, state: Any
    ) -> tuple[_Look, Callable[[Array, Array], tuple[Side, Side, PyTree]]]:
        """A discriminator as it looks at reals (side 0) or fakes (side 1), and at both at once."""
        augment, share = self.augment, self._share(state)
        if augment is not None and share is not None:
            augment = sometimes(augment, share)
        augment_key, dropout_key = jax.random.split(key)

        def seen(images: Array, side: int) -> Array:
            if augment is None:
                return images
            keys = axis.example_keys(jax.random.fold_in(augment_key, side), len(images))
            return augment_batch(augment, keys, images)

        def look(images: Array, side: int, now: PyTree = model_state) -> Any:
            apply = forward(self.discriminator, now, jax.random.fold_in(dropout_key, side))
            return apply(params, seen(images, side), labels)

        def look_at_both(real: Array, fake: Array) -> tuple[Side, Side, PyTree]:
            if "batch_stats" in model_state:  # which must not mix reals and fakes
                *of_real, after = look(real, 0)
                *of_fake, after = look(fake, 1, after)
                return Side(real, *of_real), Side(fake, *of_fake), after
            # One pass over twice the images. Interleaved, so that each stays on its device.
            both = jnp.stack([seen(real, 0), seen(fake, 1)], axis=1)
            twice = None if labels is None else jnp.repeat(labels, 2, axis=0)
            logits, features, after = forward(self.discriminator, model_state, dropout_key)(
                params, both.reshape(-1, *real.shape[1:]), twice
            )
            of_real, of_fake = (
                Side(images, logits[i::2], {name: f[i::2] for name, f in features.items()})
                for i, images in enumerate((real, fake))
            )
            return of_real, of_fake, after

        return look, look_at_both


def _critics(look: _Look) -> tuple[Critic, Critic]:
    """The logits alone, as of reals and as of fakes."""
    return lambda images: look(images, 0)[0], lambda images: look(images, 1)[0]


def _by_a_penalty(
    look: _Look,
    terms: list[tuple[Term, PRNGKey]],
    model_state: PyTree,
    real: Array,
    fake: Array,
) -> tuple[list[tuple[Term, PRNGKey]], Side, Side, PyTree] | None:
    """Both sides, one of them by a penalty's own pass, which gives logits and no features.

    Returns:
      The terms, of which that penalty knows its values; both sides; and the discriminator's state
      after them. None if no penalty is at the reals or the fakes, or the pass would not do.
    """
    if "batch_stats" in model_state or any(term.reads_features for term, _ in terms):
        return None
    for i, (term, key) in enumerate(terms):
        if isinstance(term, Penalty) and term.at != "between":
            side = int(term.at == "fake")
            known = term.with_logits(_critics(look)[side], key, real, fake)
            terms = [*terms[:i], (term.knowing(known), key), *terms[i + 1 :]]
            # Any other state follows the parameters: it is the same after either pass.
            others, _, after = look((fake, real)[side], 1 - side)
            logits = (others, known[0]) if side else (known[0], others)
            return terms, Side(real, logits[0], {}), Side(fake, logits[1], {}), after
    return None
