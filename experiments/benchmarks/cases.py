"""What a benchmark times: a step of the library, a state and a batch, from a few flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.benchmarks.configs import Case, ClassifierCase, GanCase
from jaxnets import losses, models
from jaxnets.commands.configs import constraints
from jaxnets.devices import parallel
from jaxnets.train import optimizers, state, steps
from jaxnets.train.state import TrainState
from jaxnets.train.steps import Step
from jaxnets.typing import DATA_AXIS, Batch

NUM_CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Work:
    """A case, built.

    Attributes:
      case: the flags that it was built from.
      networks: name -> module, as in `state.nets`.
      step: what is timed.
      state: before the first step.
      batch: one batch, numpy: `inputs` [B, H, W, C] float32 in [-1, 1], `target` [B] int32.
    """

    case: Case
    networks: Mapping[str, nn.Module]
    step: Step
    state: TrainState
    batch: Batch

    def feed(self, steps: int) -> Any:
        """The batch, once for each step of a call; the repetitions take no memory."""
        if steps == 1:
            return dict(self.batch)
        return {
            name: np.broadcast_to(leaf, (steps, *leaf.shape)) for name, leaf in self.batch.items()
        }


def build(case: Case) -> Work:
    """Networks, step, state and batch of a case.

    Raises:
      UserError: if a name is unknown or a size out of range.
    """
    constraints.check(case)
    rng = np.random.default_rng(case.seed)
    shape = (case.batch_size, case.image_size, case.image_size, case.channels)
    batch = {
        "inputs": rng.uniform(-1, 1, shape).astype(np.float32),
        "target": rng.integers(0, NUM_CLASSES, case.batch_size).astype(np.int32),
    }
    make = _classifier if isinstance(case, ClassifierCase) else _gan
    return make(case, batch)  # type: ignore[arg-type]


def abstract(case: Case) -> tuple[Work, Any]:
    """The case's work and the shapes of its state, without computing the state."""
    made: list[Work] = []
    shapes = jax.eval_shape(lambda: made.append(build(case)) or made[0].state)
    return made[0], shapes


def of_flags(kind: str, config: Any) -> Case:
    """The case of a benchmark that trains either kind in a few sizes."""
    sizes = {name: getattr(config, name) for name in ("width", "batch_size", "image_size")}
    if kind == "classifier":
        return ClassifierCase(network=config.network, **sizes)
    return GanCase(**sizes)


class Running:
    """A case's compiled step with its state and its feed, on the devices.

    Attributes:
      state: after the last call.
    """

    def __init__(
        self, work: Work, mesh: Mesh, mode: Literal["jit", "pmap"] = "jit", steps: int = 1
    ):
        """Puts a copy of the state there, for a call donates it; each call makes `steps` steps."""
        self._step = parallel.compile_step(work.step, mesh, mode, steps_per_call=steps)
        self._feed = work.feed(steps)
        if mode == "jit":
            axes = (DATA_AXIS,) if steps == 1 else (None, DATA_AXIS)
            sharding = NamedSharding(mesh, PartitionSpec(*axes))
            self._feed = jax.device_put(self._feed, sharding)
        self.state = parallel.replicate(jax.tree.map(jnp.copy, work.state), mesh)

    def __call__(self) -> Any:
        """Goes on by one call; returns its metrics."""
        self.state, metrics = self._step(self.state, self._feed)
        return metrics


def networks(case: Case) -> tuple[nn.Module, ...]:
    """The modules of a case: its classifier, or its generator and discriminator.

    Raises:
      UserError: if a name is unknown or a size out of range.
    """
    image_shape = (case.image_size, case.image_size, case.channels)
    shared: dict[str, Any] = {"width": case.width, "dtype": jnp.dtype(case.dtype)}
    if isinstance(case, ClassifierCase):
        model = models.make_classifier(
            case.network, num_classes=NUM_CLASSES, image_shape=image_shape, **shared
        )
        return (model,)
    return models.make_gan(
        case.family,
        image_shape=image_shape,
        num_classes=NUM_CLASSES if case.conditional else None,
        latent_size=case.latent_size,
        discriminator=case.discriminator,
        **shared,
    )


def objectives(case: GanCase) -> tuple[Any, Any]:
    """The adversarial loss and the penalty, or None, of a case.

    Raises:
      UserError: if a name is unknown.
    """
    penalty = None if case.penalty == "none" else losses.penalty(case.penalty, 0.1)
    return losses.adversarial_loss(case.loss), penalty


def _classifier(case: ClassifierCase, batch: Any) -> Work:
    (model,) = networks(case)
    optimizer = optimizers.make_optimizer("nesterov", 0.01, momentum=0.9)
    init_key, run_key = jax.random.split(jax.random.key(case.seed))
    net = state.init_net(model, init_key, batch["inputs"][:1], train=False, optimizer=optimizer)
    prepare = models.CLASSIFIERS[case.network].prepare
    if prepare is not None:
        variables = prepare(net.variables, batch["inputs"])
        params = variables.pop("params")
        net = state.Net(params, variables, optimizer.init(params))
    step = steps.classifier_step(model, losses.cross_entropy, optimizer)
    first = state.TrainState.create(run_key, {"classifier": net})
    return Work(case, {"classifier": model}, step, first, batch)


def _gan(case: GanCase, batch: Any) -> Work:
    generator, discriminator = networks(case)
    loss, penalty = objectives(case)
    adam = optimizers.make_optimizer("adam", 2e-4, b1=0.5, b2=0.99)
    g_key, d_key, run_key = jax.random.split(jax.random.key(case.seed), 3)
    labels = batch["target"][:1] if case.conditional else None
    latents = jnp.zeros((1, case.latent_size))
    g_net = state.init_net(generator, g_key, latents, labels, train=False, optimizer=adam)
    d_net = state.init_net(
        discriminator, d_key, batch["inputs"][:1], labels, train=False, optimizer=adam
    )
    step = steps.adversarial_step(
        generator,
        discriminator,
        loss,
        adam,
        adam,
        latent_size=case.latent_size,
        conditional=case.conditional,
        terms=[] if penalty is None else [penalty],
    )
    first = state.TrainState.create(run_key, {"generator": g_net, "discriminator": d_net})
    return Work(case, {"generator": generator, "discriminator": discriminator}, step, first, batch)
