"""The alternating step of a generative adversarial network."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxnets import axis
from jaxnets.augment import Adaptive, sometimes
from jaxnets.augment import apply as augment_batch
from jaxnets.descent import (
    Step,
    advance,
    descend,
    forward,
    merge_over_first_axis,
    of_net,
    split_batch,
    value_at,
)
from jaxnets.errors import UserError
from jaxnets.losses.adversarial import AdversarialLoss
from jaxnets.losses.classification import cross_entropy
from jaxnets.losses.path_length import PathLength
from jaxnets.losses.regularisers import FeatureMatching, LeCam, feature_distance
from jaxnets.losses.regularisers import lecam as lecam_of
from jaxnets.metrics.mean import Mean
from jaxnets.state import Net, TrainState
from jaxnets.typing import Array, Batch, Metrics, PRNGKey, PyTree

__all__ = [
    "AUGMENT_PROBABILITY",
    "LECAM_FAKE",
    "LECAM_REAL",
    "PATH_LENGTH_MEAN",
    "adversarial_step",
    "sample_latents",
]

Augmentation = Callable[[PRNGKey, Array], Array]
Penalty = Callable[[Callable[[Array], Array], PRNGKey, Array, Array], Array]

#: Name of ADA's probability in the state's `extra` and among the metrics.
AUGMENT_PROBABILITY = "augment_probability"

#: Names of LeCam's averages there.
LECAM_REAL, LECAM_FAKE = "lecam_real", "lecam_fake"

#: Name of the mean path length there.
PATH_LENGTH_MEAN = "path_length_mean"


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
    penalty: Penalty | None = None,
    penalty_weight: Array | float | optax.Schedule = 0.0,
    lecam: LeCam | None = None,
    matching: FeatureMatching | None = None,
    path_length: PathLength | None = None,
    auxiliary_weight: Array | float = 0.0,
    augment: Augmentation | None = None,
    augment_probability: Array | float | optax.Schedule | Adaptive | None = None,
    ema_decay: Array | float | optax.Schedule | None = None,
    micro_batches: int = 1,
) -> Step:
    """The alternating step of a generative adversarial network.

    First k updates of `state.nets["discriminator"]`, each on its own share of the batch and fresh
    latents; then one update of `state.nets["generator"]` against the discriminator as it now is.

    Args:
      generator: `(latents [B, Z], labels or None, train) -> (images, features)`.
      discriminator: `(images, labels or None, train) -> (logits [B], features)`.
      loss: both players' losses.
      generator_optimizer: the one that the generator was initialised with.
      discriminator_optimizer: likewise.
      latent_size: Z; latents are drawn from N(0, I).
      conditional: whether both networks get the labels of the real images.
      discriminator_steps: k; the batch is dealt out over them, so k must divide it.
      penalty: `(critic, key, real, fake) -> [B]`, see `jaxnets.losses.penalties`. The critic that
        it differentiates includes the augmentation, so penalties are with respect to the images
        before it.
      penalty_weight: factor of the penalty in the discriminator's loss, or a function of the step.
      lecam: keeps the discriminator near what it said so far; its two averages are
        `state.extra["lecam_real"]` and `["lecam_fake"]`, which must be there.
      matching: draws the mean features of fakes to those of reals.
      path_length: regularises a generator with styles, that is, with the methods `map` and
        `synthesise` of `jaxnets.models.style_gan.Generator`, on latents of its own; the mean
        length is `state.extra["path_length_mean"]`, which must be there.
      auxiliary_weight: of the cross-entropy of the discriminator's "class_logits" against the
        labels, of reals in its own loss and of fakes in both (Odena et al. 2017, AC-GAN,
        arXiv:1610.09585); 0 is off.
      augment: differentiable `(key, image) -> image`, applied to reals and fakes alike.
      augment_probability: the share of images that it is applied to, in [0, 1], or a function of
        the step; by default all. `Adaptive` keeps it in `state.extra["augment_probability"]`,
        which must be there, and moves it after each step's updates of the discriminator.
      ema_decay: of the moving average of each network that was initialised with one (the
        generator, as a rule), a number or a function of the step.
      micro_batches: see `descend`; applies to every update.

    Returns:
      A step with the metrics `d_loss`, `g_loss`, `d_real` and `d_fake` (mean logits), `d_accuracy`
      (share of reals and fakes on the right side of the loss's border, which is 0 as a rule),
      `d_sign_real` and `d_sign_fake` (on which side, as mean signs in [-1, 1], see
      `AdversarialLoss.signs`; Karras et al. 2020, arXiv:2006.06676, take the first for a measure of
      overfitting; of a relativistic or Wasserstein loss, which looks at differences only, the three
      are of a real's logit against that of its fake), `penalty`, `lecam`, `matching`,
      `path_length` (the penalty), `path_length_mean`, `class_accuracy` (of reals, by
      "class_logits") and `augment_probability` where there is one, and the two networks'
      `grad_norm` and `finite/...` (see `descend`).

    Raises:
      UserError: for a path length of a generator without styles.
    """
    if path_length is not None and not hasattr(generator, "synthesise"):
        raise UserError(
            f"path length regularisation needs a generator with styles, and "
            f"{type(generator).__name__} has none"
        )
    lecam_names = (LECAM_REAL, LECAM_FAKE)
    classifies = not isinstance(auxiliary_weight, int | float) or auxiliary_weight > 0

    def generate(params: PyTree, state: PyTree, labels: Array | None, count: int, key: PRNGKey):
        latent_key, dropout_key = jax.random.split(key)
        latents = sample_latents(latent_key, count, latent_size)
        images, _, state = forward(generator, state, dropout_key)(params, latents, labels)
        return images, state

    def judge(
        params: PyTree,
        state: PyTree,
        labels: Array | None,
        key: PRNGKey,
        augment: Augmentation | None,
    ):
        """A function of pairs of images that gives logits and features of each, and one of one."""
        augment_key, dropout_key = jax.random.split(key)

        def seen(images: Array, which: int) -> Array:
            if augment is None:
                return images
            keys = axis.example_keys(jax.random.fold_in(augment_key, which), images.shape[0])
            return augment_batch(augment, keys, images)

        def single(images: Array, which: int = 0, state: PyTree = state):
            key = jax.random.fold_in(dropout_key, which)
            return forward(discriminator, state, key)(params, seen(images, which), labels)

        def pair(real: Array, fake: Array):
            if "batch_stats" in state:  # which must not mix reals and fakes
                real_logits, of_real, after = single(real, 0)
                fake_logits, of_fake, after = single(fake, 1, after)
                return (real_logits, of_real), (fake_logits, of_fake), after
            # One pass over twice the images. Interleaved, so that each stays on its device.
            both = jnp.stack([seen(real, 0), seen(fake, 1)], axis=1)
            twice = None if labels is None else jnp.repeat(labels, 2, axis=0)
            logits, features, after = forward(discriminator, state, dropout_key)(
                params, both.reshape(-1, *real.shape[1:]), twice
            )
            of = [(logits[i::2], {k: f[i::2] for k, f in features.items()}) for i in (0, 1)]
            return *of, after

        return pair, single

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        g_net = state.nets["generator"]
        decay = value_at(ema_decay, state.step)
        update = partial(descend, ema_decay=decay, micro_batches=micro_batches)
        share = _share_to_augment(augment_probability, state)
        seen_as = augment if augment is None or share is None else sometimes(augment, share)
        if lecam is not None:
            _need(state, *lecam_names)
        if path_length is not None:
            _need(state, PATH_LENGTH_MEAN)

        def labels_of(part: Batch) -> Array | None:
            return part["target"] if conditional else None

        def d_objective(params: PyTree, model_state: PyTree, part: Batch, key: PRNGKey):
            fake_key, judge_key, penalty_key = jax.random.split(key, 3)
            real, mask, labels = part["inputs"], part["mask"], labels_of(part)
            chex.assert_rank(real, {3, 4, 5})
            fake, _ = generate(g_net.params, g_net.model_state, labels, real.shape[0], fake_key)
            chex.assert_equal_shape([real, fake])
            fake = jax.lax.stop_gradient(fake)
            pair, single = judge(params, model_state, labels, judge_key, seen_as)
            inputs = (lambda images: single(images, which)[0], penalty_key, real, fake)
            size, at = None, getattr(penalty, "at", "between")
            which = int(at == "fake")
            of_real = of_fake = {}
            if at == "between" or "batch_stats" in model_state or classifies:
                (real_logits, of_real), (fake_logits, of_fake), model_state = pair(real, fake)
            else:  # the penalty's pass over these images gives their logits too
                logits, size = penalty.with_logits(*inputs)  # type: ignore[union-attr]
                # Any other state follows the parameters: it is the same after either pass.
                others, _, model_state = single((fake, real)[which], 1 - which)
                real_logits, fake_logits = (others, logits) if which else (logits, others)
            values = loss.d_loss(real_logits, fake_logits)
            signs = loss.signs(real_logits, fake_logits)
            metrics = {
                "d_loss": Mean.of(values, mask),
                "d_real": Mean.of(real_logits, mask),
                "d_fake": Mean.of(fake_logits, mask),
                "d_accuracy": Mean.of(signs[0] > 0, mask) + Mean.of(signs[1] < 0, mask),
                "d_sign_real": Mean.of(signs[0], mask),
                "d_sign_fake": Mean.of(signs[1], mask),
            }
            if penalty is not None:
                size = penalty(*inputs) if size is None else size
                factor: Any = value_at(penalty_weight, state.step)
                values = values + factor * size
                metrics["penalty"] = Mean.of(size, mask)
            if lecam is not None:
                size = lecam_of(real_logits, fake_logits, *(state.extra[n] for n in lecam_names))
                values = values + lecam.weight * size
                metrics["lecam"] = Mean.of(size, mask)
            if classifies:
                classes = _classes(part)
                values = values + auxiliary_weight * sum(
                    cross_entropy(_class_logits(of), classes) for of in (of_real, of_fake)
                )
                right = _class_logits(of_real).argmax(axis=-1) == classes
                metrics["class_accuracy"] = Mean.of(right, mask)
            return values, (model_state, metrics)

        def update_discriminator(d_net: Net, part: tuple[Batch, PRNGKey]):
            return update(d_net, d_objective, *part, optimizer=discriminator_optimizer)

        d_key, g_key = jax.random.split(key)
        d_net = state.nets["discriminator"]
        if discriminator_steps == 1:
            d_net, d_metrics = update_discriminator(d_net, (batch, d_key))
            last = batch
        else:
            parts = split_batch(batch, discriminator_steps)
            keys = jax.random.split(d_key, discriminator_steps)
            d_net, d_metrics = jax.lax.scan(update_discriminator, d_net, (parts, keys))
            d_metrics = merge_over_first_axis(d_metrics)
            last = jax.tree.map(lambda leaf: leaf[-1], parts)

        def path_penalty(variables: PyTree, labels: Array | None, count: int, key: PRNGKey):
            assert path_length is not None
            latent_key, y_key, noise_key = jax.random.split(key, 3)
            apply = partial(generator.apply, variables)
            latents = sample_latents(latent_key, count, latent_size)
            w: Any = apply(latents, labels, method="map")

            def synthesise(w: Array) -> Array:
                images = apply(w, train=True, method="synthesise", rngs={"dropout": noise_key})
                return images[0]  # type: ignore[no-any-return]

            return path_length.of(synthesise, y_key, w, state.extra[PATH_LENGTH_MEAN])

        def g_objective(params: PyTree, model_state: PyTree, part: Batch, key: PRNGKey):
            fake_key, judge_key = jax.random.split(key)
            variables = {"params": params, **model_state}
            real, labels = part["inputs"], labels_of(part)
            fake, model_state = generate(params, model_state, labels, real.shape[0], fake_key)
            _, single = judge(d_net.params, d_net.model_state, labels, judge_key, seen_as)
            # Few losses use the reals; XLA drops this pass where nothing does.
            real_logits, of_real, _ = single(real, 0)
            fake_logits, of_fake, _ = single(fake, 1)
            values = loss.g_loss(real_logits, fake_logits)
            metrics = {"g_loss": Mean.of(values, part["mask"])}
            if matching is not None:
                pairs = of_real["penultimate"], of_fake["penultimate"]
                if matching.features is not None:
                    pairs = matching.features(real), matching.features(fake)
                size = feature_distance(*pairs, part["mask"])
                values = values + matching.weight * size
                metrics["matching"] = Mean.of(size, part["mask"])
            if path_length is not None:
                # A key of its own, so that the other draws are those of a step without it.
                path_key = jax.random.fold_in(key, 1)
                size, mean = path_penalty(variables, labels, real.shape[0], path_key)
                values = values + path_length.weight * size
                metrics["path_length"] = Mean.of(size, part["mask"])
                metrics[PATH_LENGTH_MEAN] = Mean.of(mean, part["mask"])
            if classifies:
                named = cross_entropy(_class_logits(of_fake), _classes(part))
                values = values + auxiliary_weight * named
            return values, (model_state, metrics)

        g_net, g_metrics = update(g_net, g_objective, last, g_key, optimizer=generator_optimizer)
        metrics = {
            **of_net(d_metrics, "discriminator", "d_"),
            **of_net(g_metrics, "generator", "g_"),
        }
        if path_length is not None:
            moved = {PATH_LENGTH_MEAN: _value(g_metrics[PATH_LENGTH_MEAN])}
            state = dataclasses.replace(state, extra={**state.extra, **moved})
        if share is not None:
            metrics[AUGMENT_PROBABILITY] = Mean.of(jnp.asarray(share)[None])
        if isinstance(augment_probability, Adaptive):
            signs = d_metrics["d_sign_real"]
            moved = augment_probability.after(
                state.extra[AUGMENT_PROBABILITY], _value(signs), signs.count
            )
            state = dataclasses.replace(state, extra={**state.extra, AUGMENT_PROBABILITY: moved})
        if lecam is not None:
            moved = {
                name: lecam.after(state.extra[name], _value(mean))
                for name, mean in zip(
                    lecam_names, (d_metrics["d_real"], d_metrics["d_fake"]), strict=True
                )
            }
            state = dataclasses.replace(state, extra={**state.extra, **moved})
        return advance(state, generator=g_net, discriminator=d_net), metrics

    return step


def sample_latents(key: PRNGKey, count: int, size: int) -> Array:
    """Latents [count, size] from N(0, I), each from its own global example's key."""
    keys = axis.example_keys(key, count)
    return jax.vmap(lambda k: jax.random.normal(k, (size,), jnp.float32))(keys)


def _share_to_augment(
    probability: Array | float | optax.Schedule | Adaptive | None, state: TrainState
) -> Array | float | None:
    if not isinstance(probability, Adaptive):
        return value_at(probability, state.step)
    _need(state, AUGMENT_PROBABILITY)
    return state.extra[AUGMENT_PROBABILITY]


def _need(state: TrainState, *names: str) -> None:
    """Fails, in one sentence, for a state that lacks what a step keeps in it."""
    for name in names:
        if name not in state.extra:
            raise UserError(
                f"this step keeps {name!r} in the state: make it with "
                f"TrainState.create(..., extra={{{name!r}: 0.0}})"
            )


def _value(mean: Mean) -> Array:
    """Of a step's metric, which is that of all devices."""
    return mean.total / jnp.maximum(mean.count, 1.0)


def _classes(part: Batch) -> Array:
    """The labels; 0 on padding, whose label of -1 has no loss, and 0 times that is a NaN still."""
    return jnp.where(part["mask"] > 0, part["target"], 0)


def _class_logits(features: Mapping[str, Array]) -> Array:
    if "class_logits" not in features:
        raise UserError(
            "this discriminator names no classes; wrap it in "
            "jaxnets.models.conditioning.AuxiliaryClassifier"
        )
    return features["class_logits"]
