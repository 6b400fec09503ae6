"""What a benchmark times: a step of the library, a state and a batch, from a few flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from jaxnets.commands.configs import constraints
from jaxnets.commands.configs.constraints import COUNT, SEED

if TYPE_CHECKING:
    import flax.linen as nn

    from jaxnets.state import TrainState
    from jaxnets.steps import Step
    from jaxnets.typing import Batch

NUM_CLASSES = 10


@dataclasses.dataclass(frozen=True)
class _Shape:
    """Size and type of the work."""

    batch_size: Annotated[int, COUNT] = 128
    """Images a step, over all devices."""
    image_size: Annotated[int, COUNT] = 28
    """Height and width of the images."""
    channels: Annotated[int, COUNT] = 1
    """Channels of the images."""
    width: float = 1.0
    """Factor on every number of channels; 1 is the published size."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation; parameters are float32 in any case."""
    seed: Annotated[int, SEED] = 0
    """Of the weights and the images."""


@dataclasses.dataclass(frozen=True)
class ClassifierCase(_Shape):
    """The classifier step: SGD with Nesterov momentum on the cross-entropy."""

    network: str = "resnet_3x2"
    """Any network of `classify`."""

    @property
    def name(self) -> str:
        """Short and unique among the cases of one table."""
        width = "" if self.width == 1 else f" width {self.width:g}"
        return f"{self.network}{width} {_size(self)}"


@dataclasses.dataclass(frozen=True)
class GanCase(_Shape):
    """The adversarial step: one update of the discriminator, one of the generator, by Adam."""

    family: str = "dcgan"
    """Any generator of `generate`."""
    discriminator: str | None = None
    """Any discriminator of `generate`; by default the family's own."""
    loss: str = "non_saturating"
    """minimax, non_saturating, least_squares, hinge, wasserstein or relativistic."""
    penalty: str = "none"
    """none, r1, r2, r1_r2, wgan_gp, dragan or consistency, at every step."""
    conditional: bool = False
    """Give both networks the class of each image."""
    latent_size: int = 64
    """Length of the latent vectors."""

    @property
    def name(self) -> str:
        """Short and unique among the cases of one table."""
        width = "" if self.width == 1 else f" width {self.width:g}"
        opponent = f" against {self.discriminator}" if self.discriminator else ""
        extra = "" if self.loss == "non_saturating" else f" {self.loss}"
        extra += "" if self.penalty == "none" else f" + {self.penalty}"
        return f"{self.family}{opponent}{extra}{width} {_size(self)}"


Case = ClassifierCase | GanCase


def _size(case: _Shape) -> str:
    side = case.image_size
    dtype = "" if case.dtype == "float32" else f" {case.dtype}"
    return f"{side}x{side}x{case.channels} batch {case.batch_size}{dtype}"


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
        import numpy as np

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
    import numpy as np

    constraints.check(case)
    rng = np.random.default_rng(case.seed)
    shape = (case.batch_size, case.image_size, case.image_size, case.channels)
    batch = {
        "inputs": rng.uniform(-1, 1, shape).astype(np.float32),
        "target": rng.integers(0, NUM_CLASSES, case.batch_size).astype(np.int32),
    }
    make = _classifier if isinstance(case, ClassifierCase) else _gan
    return make(case, batch)  # type: ignore[arg-type]


def networks(case: Case) -> tuple[nn.Module, ...]:
    """The modules of a case: its classifier, or its generator and discriminator.

    Raises:
      UserError: if a name is unknown or a size out of range.
    """
    import jax.numpy as jnp

    from jaxnets import models

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
    from jaxnets import losses

    penalty = None if case.penalty == "none" else losses.penalty(case.penalty, 0.1)
    return losses.adversarial_loss(case.loss), penalty


def _classifier(case: ClassifierCase, batch: Any) -> Work:
    import jax

    from jaxnets import losses, models, optimizers, state, steps

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
    import jax
    import jax.numpy as jnp

    from jaxnets import optimizers, state, steps

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
