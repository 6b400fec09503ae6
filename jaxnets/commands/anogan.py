"""The training of an f-AnoGAN: a WGAN-GP of faultless patches, then an encoder into its latents."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxnets import losses
from jaxnets.commands.configs.inspect import Inspect
from jaxnets.commands.session import Session
from jaxnets.data import Split, make_pipeline
from jaxnets.data.sources.inspection import parts_of
from jaxnets.devices.parallel import make_mesh
from jaxnets.judge import inspection
from jaxnets.models.inspectors import FAnoGan, Inspector
from jaxnets.run.loop import fit
from jaxnets.run.task import FitOptions, Task
from jaxnets.train.encoding import encoder_step, joined
from jaxnets.train.optimizers import make_optimizer
from jaxnets.train.state import TrainState, init_net
from jaxnets.train.steps import adversarial_step

#: Patches that are learnt from, at most: 100 MB of 32x32 pixels.
_PATCHES = 100_000
#: Share of the old generator that its moving average keeps.
_EMA = 0.999


def learn(
    config: Inspect,
    module: Inspector,
    variables: Any,
    train: Split,
    held_out: Split,
    folder: Path,
    session: Session,
) -> dict[str, Any]:
    """The variables of an inspector with the three networks, trained.

    Both trainings go on where they stopped: their folders are gan/ and encoder/ inside the run's.
    """
    method: Any = module.method
    assert isinstance(method, FAnoGan)
    patches = parts_of(train.inputs, method.patch, method.patch // 2, _PATCHES, config.seed)
    adam = partial(make_optimizer, "adam", config.learning_rate)
    gan_adam, encoder_adam = adam(b1=0.0, b2=0.9), adam()
    shape = patches.columns["inputs"].shape
    images, latents = jnp.zeros((1, *shape)), jnp.zeros((1, config.latent_size))
    keys = jax.random.split(jax.random.key(config.seed), 4)
    networks: Any = (method.generator, method.discriminator, method.encoder)

    def first() -> TrainState:
        generator = init_net(
            networks[0], keys[0], latents, None, train=False, optimizer=gan_adam, ema=True
        )
        discriminator = init_net(
            networks[1], keys[1], images, None, train=False, optimizer=gan_adam
        )
        return TrainState.create(keys[3], {"generator": generator, "discriminator": discriminator})

    step = adversarial_step(
        networks[0],
        networks[1],
        losses.adversarial_loss("wasserstein"),
        gan_adam,
        gan_adam,
        latent_size=config.latent_size,
        discriminator_steps=config.critic_updates,
        terms=[losses.penalty("wgan_gp", 10.0)],
        ema_decay=_EMA,
    )
    fit_to = partial(_fit, config, patches, session)
    size = config.batch_size * config.critic_updates
    gan = fit_to("WGAN-GP of patches", first, step, size, config.gan_steps, folder / "gan")

    def second() -> TrainState:
        encoder = init_net(networks[2], keys[2], images, train=False, optimizer=encoder_adam)
        return TrainState.create(keys[3], {**gan.nets, "encoder": encoder})

    def held_out_score(state: TrainState) -> dict[str, float]:
        now = with_networks(variables, state)
        return {"held_out_score": float(inspection.score(module, now, held_out).scores.mean())}

    state = fit_to(
        "encoder of patches",
        second,
        encoder_step(method, encoder_adam),
        config.batch_size,
        config.encoder_steps,
        folder / "encoder",
        evaluate=held_out_score,
    )
    return with_networks(variables, state)


def with_networks(variables: Any, state: TrainState) -> dict[str, Any]:
    """The variables of an inspector with the networks of a state."""
    return {**variables, **{name: {"method": of} for name, of in joined(state).items()}}


def _fit(
    config: Inspect,
    patches: Split,
    session: Session,
    name: str,
    init: Any,
    step: Any,
    batch_size: int,
    steps: int,
    folder: Path,
    evaluate: Any = lambda state: {},
) -> TrainState:
    """The state at the end of a training."""
    folder.mkdir(exist_ok=True)
    size = min(batch_size, len(patches) // config.critic_updates * config.critic_updates)
    pipeline = make_pipeline(patches, size, config.seed)
    task = Task(name, init, step, pipeline, steps, evaluate)
    options = FitOptions(
        steps_per_call=4, save_every=max(1, steps // 10), resume_hint=session.hint(), keep=1
    )
    return fit(task, folder, make_mesh(1), options).state
