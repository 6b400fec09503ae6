"""The two training steps.

A step is `(state, batch) -> (state, metrics)`: pure, never jitted here, never logging. All of its
randomness is `fold_in(state.key, state.step)` and, below that, one key per global example.
"""

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
from jaxnets.augment import Adaptive, mixup, sometimes
from jaxnets.augment import apply as augment_batch
from jaxnets.descent import descend, merge_over_first_axis, of_net, split_batch
from jaxnets.errors import UserError
from jaxnets.losses.adversarial import AdversarialLoss
from jaxnets.metrics.mean import Mean
from jaxnets.state import Net, TrainState
from jaxnets.typing import Array, Batch, Metrics, PRNGKey, PyTree

__all__ = [
    "AUGMENT_PROBABILITY",
    "adversarial_step",
    "classifier_step",
    "sample_latents",
]

Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
Augmentation = Callable[[PRNGKey, Array], Array]
Penalty = Callable[[Callable[[Array], Array], PRNGKey, Array, Array], Array]

#: Name of ADA's probability in the state's `extra` and among the metrics.
AUGMENT_PROBABILITY = "augment_probability"


def classifier_step(
    model: nn.Module,
    loss: Callable[[Array, Array], Array],
    optimizer: optax.GradientTransformation,
    *,
    augment: Augmentation | None = None,
    mixup_alpha: float = 0.0,
    ema_decay: Array | float | optax.Schedule | None = None,
    micro_batches: int = 1,
) -> Step:
    """The step that trains a classifier, kept in `state.nets["classifier"]`.

    Args:
      model: `(images, train) -> (logits [B, K], features)`.
      loss: `(logits [B, K], labels [B] or [B, K]) -> [B]`.
      optimizer: the one that the network was initialised with.
      augment: `(key, image) -> image`, applied to each example with its own key.
      mixup_alpha: parameter of mixup's Beta distribution; 0 is off.
      ema_decay: of the moving average of the network, a number or a function of the step.
      micro_batches: see `descend`.

    Returns:
      A step with the metrics `loss`, `accuracy` (on the augmented images; against the greater
      share under mixup), `grad_norm` and `finite/...` (see `descend`).
    """

    def objective(params: PyTree, model_state: PyTree, batch: Batch, key: PRNGKey):
        augment_key, mixup_key, dropout_key = jax.random.split(key, 3)
        images, labels = batch["image"], batch["label"]
        chex.assert_rank(images, {3, 4, 5})
        chex.assert_rank(labels, {1, 2})
        # A label of -1 on padding has no loss, and 0 times its NaN would still be a gradient.
        kept = (batch["mask"] > 0).reshape(-1, *(1,) * (labels.ndim - 1))
        labels = jnp.where(kept, labels, 0)
        count = images.shape[0]
        if augment is not None:
            images = augment_batch(augment, axis.example_keys(augment_key, count), images)
        logits_of = _forward(model, model_state, dropout_key)
        if mixup_alpha > 0:
            keys = axis.example_keys(mixup_key, count)
            num_classes = jax.eval_shape(lambda x: logits_of(params, x)[0], images).shape[-1]
            one_hot = jax.nn.one_hot(labels, num_classes)
            images, labels = mixup(keys, images, one_hot, alpha=mixup_alpha)
        logits, _, model_state = logits_of(params, images)
        values = loss(logits, labels)
        hard = labels if labels.ndim == 1 else labels.argmax(axis=-1)
        metrics = {
            "loss": Mean.of(values, batch["mask"]),
            "accuracy": Mean.of(logits.argmax(axis=-1) == hard, batch["mask"]),
        }
        return values, (model_state, metrics)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        net, metrics = descend(
            state.nets["classifier"],
            objective,
            batch,
            jax.random.fold_in(state.key, state.step),
            optimizer=optimizer,
            ema_decay=_at(ema_decay, state.step),
            micro_batches=micro_batches,
        )
        return _advance(state, classifier=net), of_net(metrics, "classifier")

    return step


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
    penalty_weight: Array | float = 0.0,
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
      penalty_weight: factor of the penalty in the discriminator's loss.
      augment: differentiable `(key, image) -> image`, applied to reals and fakes alike.
      augment_probability: the share of images that it is applied to, in [0, 1], or a function of
        the step; by default all. `Adaptive` keeps it in `state.extra["augment_probability"]`,
        which must be there, and moves it after each step's updates of the discriminator.
      ema_decay: of the moving average of each network that was initialised with one (the
        generator, as a rule), a number or a function of the step.
      micro_batches: see `descend`; applies to every update.

    Returns:
      A step with the metrics `d_loss`, `g_loss`, `d_real` and `d_fake` (mean logits), `d_accuracy`
      (share of reals above and fakes below zero), `d_sign_real` and `d_sign_fake` (mean signs of
      the logits, in [-1, 1]; Karras et al. 2020, arXiv:2006.06676, take the first for a measure of
      overfitting), `penalty` and `augment_probability` where there is one, and the two networks'
      `grad_norm` and `finite/...` (see `descend`).
    """

    def generate(params: PyTree, state: PyTree, labels: Array | None, count: int, key: PRNGKey):
        latent_key, dropout_key = jax.random.split(key)
        latents = sample_latents(latent_key, count, latent_size)
        images, _, state = _forward(generator, state, dropout_key)(params, latents, labels)
        return images, state

    def judge(
        params: PyTree,
        state: PyTree,
        labels: Array | None,
        key: PRNGKey,
        augment: Augmentation | None,
    ):
        """A function of pairs of images that gives pairs of logits, and one of single images."""
        augment_key, dropout_key = jax.random.split(key)

        def seen(images: Array, which: int) -> Array:
            if augment is None:
                return images
            keys = axis.example_keys(jax.random.fold_in(augment_key, which), images.shape[0])
            return augment_batch(augment, keys, images)

        def single(images: Array, which: int = 0, state: PyTree = state):
            key = jax.random.fold_in(dropout_key, which)
            logits, _, state = _forward(discriminator, state, key)(
                params, seen(images, which), labels
            )
            return logits, state

        def pair(real: Array, fake: Array):
            if "batch_stats" in state:  # which must not mix reals and fakes
                real_logits, after = single(real, 0)
                fake_logits, after = single(fake, 1, after)
                return real_logits, fake_logits, after
            # One pass over twice the images. Interleaved, so that each stays on its device.
            both = jnp.stack([seen(real, 0), seen(fake, 1)], axis=1)
            twice = None if labels is None else jnp.repeat(labels, 2, axis=0)
            logits, _, after = _forward(discriminator, state, dropout_key)(
                params, both.reshape(-1, *real.shape[1:]), twice
            )
            return logits[0::2], logits[1::2], after

        return pair, single

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        g_net = state.nets["generator"]
        decay = _at(ema_decay, state.step)
        update = partial(descend, ema_decay=decay, micro_batches=micro_batches)
        share = _share_to_augment(augment_probability, state)
        seen_as = augment if augment is None or share is None else sometimes(augment, share)

        def labels_of(part: Batch) -> Array | None:
            return part["label"] if conditional else None

        def d_objective(params: PyTree, model_state: PyTree, part: Batch, key: PRNGKey):
            fake_key, judge_key, penalty_key = jax.random.split(key, 3)
            real, mask, labels = part["image"], part["mask"], labels_of(part)
            chex.assert_rank(real, {3, 4, 5})
            fake, _ = generate(g_net.params, g_net.model_state, labels, real.shape[0], fake_key)
            chex.assert_equal_shape([real, fake])
            fake = jax.lax.stop_gradient(fake)
            pair, single = judge(params, model_state, labels, judge_key, seen_as)
            inputs = (lambda images: single(images, which)[0], penalty_key, real, fake)
            size, at = None, getattr(penalty, "at", "between")
            which = int(at == "fake")
            if at == "between" or "batch_stats" in model_state:
                real_logits, fake_logits, model_state = pair(real, fake)
            else:  # the penalty's pass over these images gives their logits too
                logits, size = penalty.with_logits(*inputs)  # type: ignore[union-attr]
                # Any other state follows the parameters: it is the same after either pass.
                others, model_state = single((fake, real)[which], 1 - which)
                real_logits, fake_logits = (others, logits) if which else (logits, others)
            values = loss.d_loss(real_logits, fake_logits)
            metrics = {
                "d_loss": Mean.of(values, mask),
                "d_real": Mean.of(real_logits, mask),
                "d_fake": Mean.of(fake_logits, mask),
                "d_accuracy": Mean.of(real_logits > 0, mask) + Mean.of(fake_logits < 0, mask),
                "d_sign_real": Mean.of(jnp.sign(real_logits), mask),
                "d_sign_fake": Mean.of(jnp.sign(fake_logits), mask),
            }
            if penalty is not None:
                size = penalty(*inputs) if size is None else size
                values = values + penalty_weight * size
                metrics["penalty"] = Mean.of(size, mask)
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

        def g_objective(params: PyTree, model_state: PyTree, part: Batch, key: PRNGKey):
            fake_key, judge_key = jax.random.split(key)
            real, labels = part["image"], labels_of(part)
            fake, model_state = generate(params, model_state, labels, real.shape[0], fake_key)
            _, single = judge(d_net.params, d_net.model_state, labels, judge_key, seen_as)
            # Only relativistic losses use the reals; XLA drops this pass where nothing does.
            real_logits, _ = single(real, 0)
            fake_logits, _ = single(fake, 1)
            values = loss.g_loss(real_logits, fake_logits)
            return values, (model_state, {"g_loss": Mean.of(values, part["mask"])})

        g_net, g_metrics = update(g_net, g_objective, last, g_key, optimizer=generator_optimizer)
        metrics = {
            **of_net(d_metrics, "discriminator", "d_"),
            **of_net(g_metrics, "generator", "g_"),
        }
        if share is not None:
            metrics[AUGMENT_PROBABILITY] = Mean.of(jnp.asarray(share)[None])
        if isinstance(augment_probability, Adaptive):
            signs = d_metrics["d_sign_real"]
            mean = signs.total / jnp.maximum(signs.count, 1.0)
            moved = augment_probability.after(state.extra[AUGMENT_PROBABILITY], mean, signs.count)
            state = dataclasses.replace(state, extra={**state.extra, AUGMENT_PROBABILITY: moved})
        return _advance(state, generator=g_net, discriminator=d_net), metrics

    return step


def sample_latents(key: PRNGKey, count: int, size: int) -> Array:
    """Latents [count, size] from N(0, I), each from its own global example's key."""
    keys = axis.example_keys(key, count)
    return jax.vmap(lambda k: jax.random.normal(k, (size,), jnp.float32))(keys)


def _forward(module: nn.Module, model_state: PyTree, key: PRNGKey) -> Callable[..., Any]:
    """The module in training mode as `(params, *inputs) -> (output, features, model_state)`."""

    def forward(params: PyTree, *inputs: Any) -> tuple[Array, Mapping[str, Array], PyTree]:
        (output, features), after = module.apply(
            {"params": params, **model_state},
            *inputs,
            train=True,
            mutable=list(model_state),
            rngs={"dropout": key},
        )
        return output, features, dict(after)

    return forward


def _share_to_augment(
    probability: Array | float | optax.Schedule | Adaptive | None, state: TrainState
) -> Array | float | None:
    if not isinstance(probability, Adaptive):
        return _at(probability, state.step)
    if AUGMENT_PROBABILITY not in state.extra:
        raise UserError(
            f"an adaptive augmentation keeps its probability in the state: make it with "
            f"TrainState.create(..., extra={{{AUGMENT_PROBABILITY!r}: 0.0}})"
        )
    return state.extra[AUGMENT_PROBABILITY]


def _at(value: Array | float | optax.Schedule | None, step: Array) -> Array | float | None:
    return value(step) if callable(value) else value  # type: ignore[return-value]


def _advance(state: TrainState, **nets: Net) -> TrainState:
    return dataclasses.replace(state, step=state.step + 1, nets={**state.nets, **nets})
