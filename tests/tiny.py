"""Networks and batches small enough to compile in a second, and steps made of them."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxnets import losses, models
from jaxnets.data import augment
from jaxnets.nn import layers
from jaxnets.train import optimizers, state, steps
from jaxnets.train.game import Game

SIZE, CLASSES, LATENT = 8, 3, 4


class TinyClassifier(nn.Module):
    """A convolution, BatchNorm, dropout and a linear layer: all that must agree over devices."""

    num_classes: int = CLASSES
    rate: float = 0.3
    norm: bool = True

    @nn.compact
    def __call__(self, x: Any, *, train: bool) -> Any:
        x = layers.Conv(4, (3, 3))(x)
        if self.norm:
            x = layers.BatchNorm()(x, train=train)
        x = nn.relu(x).mean(axis=(1, 2))
        features = {"penultimate": x}
        x = layers.Dropout(self.rate)(x, train=train)
        return nn.Dense(self.num_classes)(x), features


class TinyGenerator(nn.Module):
    """Conditional, with BatchNorm and a transposed convolution."""

    @nn.compact
    def __call__(self, z: Any, label: Any = None, *, train: bool) -> Any:
        if label is not None:
            z = jnp.concatenate([z, jax.nn.one_hot(label, CLASSES)], axis=-1)
        x = nn.Dense(4 * 4 * 4)(z).reshape(-1, 4, 4, 4)
        x = nn.relu(layers.BatchNorm()(x, train=train))
        return jnp.tanh(layers.ConvTranspose(1, (4, 4), (2, 2))(x)), {}


class TinyDiscriminator(nn.Module):
    """A strided CNN, with BatchNorm on request."""

    norm: bool = False

    @nn.compact
    def __call__(self, x: Any, label: Any = None, *, train: bool) -> Any:
        x = layers.Conv(4, (4, 4), (2, 2))(x)
        if self.norm:
            x = layers.BatchNorm()(x, train=train)
        x = nn.leaky_relu(x, 0.2).mean(axis=(1, 2))
        x = layers.Dropout(0.2)(x, train=train)
        logits = nn.Dense(1)(x)[:, 0]
        if label is not None:
            logits = logits + nn.Dense(CLASSES)(x)[jnp.arange(len(label)), label]
        return logits, {"penultimate": x}


def batch(size: int = 16, seed: int = 0) -> dict[str, np.ndarray]:
    """Random images and labels."""
    rng = np.random.default_rng(seed)
    return {
        "inputs": rng.uniform(-1, 1, (size, SIZE, SIZE, 1)).astype(np.float32),
        "target": rng.integers(0, CLASSES, size).astype(np.int32),
        "mask": np.ones(size, bool),
    }


def classifier(
    model: nn.Module | None = None,
    *,
    optimizer: Any = None,
    ema: float | None = 0.9,
    **options: Any,
) -> tuple[state.TrainState, Game]:
    """A state and its step, with augmentation on."""
    model = TinyClassifier() if model is None else model
    optimizer = optimizer or optimizers.make_optimizer("nesterov", 0.1, weight_decay=0.01)
    net = state.init_net(
        model,
        jax.random.key(0),
        jnp.zeros((1, SIZE, SIZE, 1)),
        train=False,
        optimizer=optimizer,
        ema=ema is not None,
    )
    options.setdefault("augment", augment.augmentation(crop_padding=1, flip=True))
    step = steps.classifier_step(
        model,
        partial(losses.cross_entropy, label_smoothing=0.1),
        optimizer,
        ema_decay=ema,
        **options,
    )
    return state.TrainState.create(jax.random.key(1), {"classifier": net}), step


def gan(
    loss: str = "non_saturating",
    *,
    generator: nn.Module | None = None,
    discriminator: nn.Module | None = None,
    keys: tuple[int, int] = (0, 1),
    norm: bool = False,
    rate: float = 1e-2,
    b2: float = 0.9,
    penalty: str | None = "r1",
    gamma: float = 0.5,
    terms: Sequence[losses.Term] = (),
    **options: Any,
) -> tuple[state.TrainState, Game]:
    """A conditional GAN's state and its step."""
    generator = TinyGenerator() if generator is None else generator
    discriminator = TinyDiscriminator(norm=norm) if discriminator is None else discriminator
    optimizer = optimizers.make_optimizer("adam", rate, b1=0.0, b2=b2)
    label, image = jnp.zeros(1, jnp.int32), jnp.zeros((1, SIZE, SIZE, 1))
    first, second = map(jax.random.key, keys)
    make = partial(state.init_net, train=False, optimizer=optimizer)
    nets = {
        "generator": make(generator, first, jnp.zeros((1, LATENT)), label, ema=True),
        "discriminator": make(discriminator, second, image, label),
    }
    step = steps.adversarial_step(
        generator,
        discriminator,
        losses.adversarial_loss(loss),
        optimizer,
        optimizer,
        latent_size=LATENT,
        conditional=True,
        terms=[*([] if penalty is None else [losses.penalty(penalty, gamma)]), *terms],
        ema_decay=0.9,
        **options,
    )
    return state.TrainState.create(jax.random.key(2), nets, step.extra), step


def family(
    name: str,
    loss: str,
    *,
    width: float,
    penalty: str | None = None,
    conditioning: str = "projection",
    **options: Any,
) -> tuple[state.TrainState, Game, nn.Module]:
    """A conditional GAN of the library for 8x8 pixels: its state, step and discriminator."""
    generator, discriminator = models.make_gan(
        name,
        image_shape=(SIZE, SIZE, 1),
        num_classes=CLASSES,
        latent_size=LATENT,
        width=width,
        discriminator_options={"conditioning": conditioning},
    )
    nets = {"generator": generator, "discriminator": discriminator}
    return *gan(loss, **nets, keys=(0, 0), penalty=penalty, **options), discriminator
