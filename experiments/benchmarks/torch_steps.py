"""The library's two training steps in PyTorch, as a PyTorch user would write them for speed."""

# pyright: reportMissingImports=false

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812, the name that everyone knows it by
from torch import Tensor, nn

from experiments.benchmarks.configs import GanCase
from experiments.benchmarks.torch_layers import keep_vectors

__all__ = [
    "FORMS",
    "LOSSES",
    "PENALTIES",
    "Form",
    "adam",
    "adversarial_step",
    "classifier_step",
    "compiled",
    "nesterov",
    "place",
    "place_images",
    "place_labels",
    "precision",
]

#: (B) -> latents [B, Z] of the discriminator's fakes, and of the generator's
Draw = Callable[[int], tuple[Tensor, Tensor]]


@dataclasses.dataclass(frozen=True)
class Form:
    """One of the ways in which PyTorch can run the same step.

    Attributes:
      channels_last: images and kernels in memory as [B, H, W, C].
      compiled: networks and losses through torch.compile.
    """

    channels_last: bool
    compiled: bool

    @property
    def memory_format(self) -> torch.memory_format:
        """What tensors of four axes are laid out as."""
        return torch.channels_last if self.channels_last else torch.contiguous_format


#: What `adversarial_step` can penalise.
PENALTIES = ("none", "r1", "r2", "r1_r2")

#: As in `cases`.
PENALTY_WEIGHT = 0.1


@dataclasses.dataclass(frozen=True)
class Loss:
    """What the two networks minimise, of logits [B] of reals and of fakes.

    Attributes:
      d_loss: (real, fake) -> [B], for the discriminator.
      g_loss: the same for the generator.
      paired: whether the generator's looks at the reals.
    """

    d_loss: Callable[[Tensor, Tensor], Tensor]
    g_loss: Callable[[Tensor | None, Tensor], Tensor]
    paired: bool = False


def _logistic(real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(-real) + F.softplus(fake)


#: Those of `jaxnets.losses.ADVERSARIAL_LOSSES`.
LOSSES = {
    "minimax": Loss(_logistic, lambda real, fake: -F.softplus(fake)),
    "non_saturating": Loss(_logistic, lambda real, fake: F.softplus(-fake)),
    "least_squares": Loss(
        lambda real, fake: 0.5 * ((real - 1).square() + fake.square()),
        lambda real, fake: 0.5 * (fake - 1).square(),
    ),
    "hinge": Loss(lambda real, fake: F.relu(1 - real) + F.relu(1 + fake), lambda real, fake: -fake),
    "wasserstein": Loss(lambda real, fake: fake - real, lambda real, fake: -fake),
    "relativistic": Loss(
        lambda real, fake: F.softplus(fake - real),
        lambda real, fake: F.softplus(real - fake),  # type: ignore[operator]
        paired=True,
    ),
}

FORMS = {
    "eager": Form(channels_last=False, compiled=False),
    "channels_last": Form(channels_last=True, compiled=False),
    "compile": Form(channels_last=True, compiled=True),
}


def compiled(function: Any, device: torch.device) -> Any:
    """A module or function through torch.compile, tuned as far as the device's users do."""
    mode = "max-autotune" if device.type == "cuda" else "default"
    return torch.compile(function, mode=mode)


def place(module: nn.Module, form: Form, device: torch.device) -> nn.Module:
    """The module on the device, its kernels laid out as the form says."""
    return module.to(device=device, memory_format=form.memory_format)  # type: ignore[call-overload]


def place_images(images: np.ndarray, form: Form, device: torch.device) -> Tensor:
    """[B, H, W, C] of numpy to [B, C, H, W] on the device, laid out as the form says."""
    turned = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return turned.to(device=device, memory_format=form.memory_format)


def place_labels(labels: np.ndarray, device: torch.device) -> Tensor:
    """[B] integers of numpy to the int64 that torch's losses take."""
    return torch.from_numpy(labels.astype(np.int64)).to(device)


def precision(dtype: str, device: torch.device) -> Callable[[], Any]:
    """Context in which forward passes run: autocast for bfloat16, none for float32."""
    if dtype == "float32":
        return contextlib.nullcontext
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16)


def nesterov(module: nn.Module, rate: float = 0.01, momentum: float = 0.9) -> torch.optim.SGD:
    """SGD with Nesterov momentum over what trains, as one kernel."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return torch.optim.SGD(trained, rate, momentum=momentum, nesterov=True, fused=True)


def adam(module: nn.Module, rate: float = 2e-4, b1: float = 0.5, b2: float = 0.99) -> Any:
    """Adam over what trains, as one kernel."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return torch.optim.Adam(trained, rate, betas=(b1, b2), fused=True)


def classifier_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    form: Form,
    device: torch.device,
    *,
    dtype: str = "float32",
    label_smoothing: float = 0.0,
) -> Callable[[Tensor, Tensor], None]:
    """One update on the mean cross-entropy, as `(images, labels) -> None`."""
    context = precision(dtype, device)
    forward = compiled(model, device) if form.compiled else model

    def step(images: Tensor, labels: Tensor) -> None:
        _mark_step(form, device)
        optimizer.zero_grad(set_to_none=True)
        with context():
            logits = forward(images)
            loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        loss.backward()
        optimizer.step()

    return step


def adversarial_step(
    case: GanCase,
    generator: nn.Module,
    discriminator: nn.Module,
    form: Form,
    device: torch.device,
    *,
    draw: Draw | None = None,
    joined: bool = True,
) -> Callable[[Tensor, Tensor], None]:
    """One update of the discriminator, then one of the generator, as `(images, labels) -> None`.

    Args:
      case: loss, penalty, classes and type of the computation.
      generator: (latents, labels) -> images.
      discriminator: (images, labels) -> logits [B].
      form: how it runs.
      device: where the networks are.
      draw: gives each step's latents, which torch draws by default.
      joined: whether the discriminator sees reals and fakes in one pass of twice the batch (not
        with BatchNorm, whose statistics must not mix them) or in two, of which a penalty then
        uses the one it needs again.
    """

    def drawn(count: int) -> tuple[Tensor, Tensor]:
        latents = torch.randn(2, count, case.latent_size, device=device)
        return latents[0], latents[1]

    draw = draw or drawn
    g_optimizer, d_optimizer = adam(generator), adam(discriminator)
    context, game = precision(case.dtype, device), LOSSES[case.loss]
    make: Any = generator
    judge: Any = discriminator
    d_loss: Any = _DiscriminatorLoss(discriminator, game, case.penalty, joined, form.compiled)
    if form.compiled:
        make, judge, d_loss = (compiled(f, device) for f in (generator, discriminator, d_loss))
    trained = [parameter for parameter in discriminator.parameters() if parameter.requires_grad]

    def step(real: Tensor, labels: Tensor) -> None:
        _mark_step(form, device)
        label = labels if case.conditional else None
        d_latents, g_latents = draw(len(real))
        with torch.no_grad(), context():
            fake = make(d_latents, label)
        d_optimizer.zero_grad(set_to_none=True)
        with context():
            value = d_loss(real, fake.to(real.dtype), label)
        value.backward()
        keep_vectors(discriminator)
        d_optimizer.step()

        g_optimizer.zero_grad(set_to_none=True)
        with _frozen(trained):  # its weights' gradients would cost a third of the backward pass
            with context():
                real_logits = None
                if game.paired:
                    with torch.no_grad():
                        real_logits = judge(real, label).float()
                logits = judge(make(g_latents, label), label)
            game.g_loss(real_logits, logits.float()).mean().backward()
        g_optimizer.step()

    return step


class _DiscriminatorLoss(nn.Module):
    """The loss of logits of reals and fakes, and the penalty, averaged over the batch."""

    def __init__(
        self,
        discriminator: nn.Module,
        game: Loss,
        penalty: str,
        joined: bool,
        functional: bool,
    ):
        super().__init__()
        self.discriminator, self.game = discriminator, game
        self.penalty, self.joined = penalty, joined
        self.slopes = _functional_slopes if functional else _recorded_slopes

    def forward(self, real: Tensor, fake: Tensor, label: Tensor | None) -> Tensor:
        """Reals and fakes [B, C, H, W], and their labels, to the loss []."""

        def critic(images: Tensor) -> Tensor:
            return self.discriminator(images, label).float()

        def critic_of_both(images: Tensor) -> Tensor:
            twice = None if label is None else torch.cat([label, label])
            return self.discriminator(images, twice).float()

        at_real, at_fake = (self.penalty in (name, "r1_r2") for name in ("r1", "r2"))
        slopes = []
        if self.joined:
            both = torch.cat([real, fake])
            if at_real and at_fake:
                logits, slope = self.slopes(critic_of_both, both)
                slopes += slope.chunk(2)
            else:
                logits = critic_of_both(both)
                slopes += [self.slopes(critic, real)[1]] if at_real else []
                slopes += [self.slopes(critic, fake)[1]] if at_fake else []
            real_logits, fake_logits = logits.chunk(2)
        else:
            (real_logits, real_slope), (fake_logits, fake_slope) = (
                self.slopes(critic, images) if at else (critic(images), None)
                for images, at in ((real, at_real), (fake, at_fake))
            )
            slopes += [slope for slope in (real_slope, fake_slope) if slope is not None]
        loss = self.game.d_loss(real_logits, fake_logits)
        for slope in slopes:
            loss = loss + PENALTY_WEIGHT * 0.5 * slope.square().sum((1, 2, 3))
        return loss.mean()


def _recorded_slopes(critic: Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    """The critic's logits, and its gradient in the images, itself to be differentiated."""
    images = images.detach().requires_grad_()
    logits = critic(images)
    (slope,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return logits, slope.float()


def _functional_slopes(critic: Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    """The same in the form that torch.compile can take in: it has no double backward."""

    def total(x: Tensor) -> tuple[Tensor, Tensor]:
        logits = critic(x)
        return logits.sum(), logits

    slope, logits = torch.func.grad(total, has_aux=True)(images)
    return logits, slope.float()


@contextlib.contextmanager
def _frozen(parameters: list[nn.Parameter]) -> Iterator[None]:
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _mark_step(form: Form, device: torch.device) -> None:
    """Tells CUDA graphs that what earlier steps put out is no longer needed."""
    if form.compiled and device.type == "cuda":
        torch.compiler.cudagraph_mark_step_begin()
