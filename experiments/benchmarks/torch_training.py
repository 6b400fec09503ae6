"""The speed net's training in PyTorch: the recipe of `classify`, step for step."""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.benchmarks import torch_steps
from experiments.benchmarks.torch_networks import make_twin
from jaxnets.commands.configs.options import given
from jaxnets.judge import evaluate
from jaxnets.train import optimizers

if TYPE_CHECKING:
    from jaxnets.commands.classify import Built
    from jaxnets.commands.configs.classify import Classify
    from jaxnets.data import Split

__all__ = ["Recipe", "TorchTraining", "augmented"]


class TorchTraining:
    """A training run that can be advanced step by step.

    It begins with our weights and sees our batches in our order; shifts and flips are drawn by
    torch. Images stay on the device as bytes, padded once.
    """

    def __init__(
        self,
        config: Classify,
        built: Built,
        test: Split,
        form: torch_steps.Form,
        device: torch.device,
    ):
        """Puts weights and images on the device; `built` is of the resolved config."""
        torch.manual_seed(config.seed)
        train, task = built.train, built.task
        pipeline: Any = task.pipeline
        self.config, self.form, self.device, self.order = config, form, device, pipeline.order
        model = make_twin(
            built.model, task.init().nets["classifier"].variables, train.inputs.shape[1:]
        )
        self.model = torch_steps.place(model, form, device)
        total_steps = task.total_steps
        schedule = optimizers.make_schedule(
            config.schedule, config.learning_rate or 0.0, total_steps, config.warmup
        )
        rates = [float(np.asarray(schedule(step))) for step in range(total_steps)]
        self.recipe = Recipe(
            self.model, rates, config.momentum, config.weight_decay, config.ema_decay
        )
        self.step = torch_steps.classifier_step(
            self.model,
            self.recipe,  # type: ignore[arg-type]
            form,
            device,
            dtype=config.dtype,
            label_smoothing=given(config.label_smoothing),
        )
        reach = config.crop_padding or 0
        padded = np.pad(train.inputs, [(0, 0), (reach, reach), (reach, reach), (0, 0)], "reflect")
        self.images = torch.from_numpy(padded).to(device)
        self.labels = torch_steps.place_labels(train.target, device)
        self.test, self.views = test, evaluate.VIEWS[config.test_views]

    def warm_up(self) -> float:
        """Makes the first step twice and takes both back.

        Returns:
          Seconds by which the first took longer than the second: compiling, choosing algorithms.
        """
        seconds = []
        before = copy.deepcopy(self.model.state_dict())
        for _ in range(2):
            begin = time.perf_counter()
            self.advance(0, 1)
            seconds.append(time.perf_counter() - begin)
            self.model.load_state_dict(before)
            self.recipe.restart()
        return max(seconds[0] - seconds[1], 0.0)

    def advance(self, first: int, last: int) -> None:
        """Makes the steps `first` to `last` - 1, and waits for them."""
        for step in range(first, last):
            rows = torch.from_numpy(self.order.indices(step, 1)[0].astype(np.int64))
            rows = rows.to(self.device, non_blocking=True)
            images = augmented(
                self.images, rows, self.config.crop_padding or 0, flip=bool(self.config.flip)
            )
            self.step(images.contiguous(memory_format=self.form.memory_format), self.labels[rows])
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    @torch.no_grad()
    def accuracy(self) -> float:
        """Share of the test images that the averaged network gets right."""
        model, right = self.recipe.average.eval(), 0
        for start in range(0, len(self.test), 512):
            part = slice(start, start + 512)
            logits: Any = 0.0
            for weight, view in self.views(np.array(self.test.inputs[part])):
                images = _normalised(torch.from_numpy(view)).permute(0, 3, 1, 2).to(self.device)
                images = images.contiguous(memory_format=self.form.memory_format)
                logits = logits + weight * model(images)
            found = logits.argmax(1).cpu().numpy()
            right += int((found == self.test.target[part]).sum())
        return right / len(self.test)


class Recipe:
    """Nesterov momentum, decoupled weight decay, a schedule, and the moving average of it all.

    Each update is `-rate * (Nesterov's direction + weight_decay * weight)`, the decay on kernels
    only, as optax has it after `jaxnets.train.optimizers.make_optimizer`. torch's own
    `weight_decay` would go through the momentum.

    Attributes:
      average: the network with averaged weights and statistics; the network itself where there is
        no average.
    """

    def __init__(
        self,
        model: nn.Module,
        rates: list[float],
        momentum: float,
        weight_decay: float,
        ema_decay: float | None,
    ):
        self.rates, self.weight_decay, self.ema_decay = rates, weight_decay, ema_decay
        self.made = 0
        self.optimizer = torch_steps.nesterov(model, rates[0], momentum)
        self.decayed: list[Tensor] = [
            p for p in model.parameters() if p.requires_grad and p.ndim > 1
        ]
        self.average = model if ema_decay is None else copy.deepcopy(model)
        self.live, self.averages = _floats(model), _floats(self.average)

    def restart(self) -> None:
        """Forgets every step; the network's weights must be back where they began."""
        self.made = 0
        self.optimizer.state.clear()
        for average, value in zip(self.averages, self.live, strict=True):
            average.copy_(value)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """See torch.optim.Optimizer."""
        self.optimizer.zero_grad(set_to_none=set_to_none)

    @torch.no_grad()
    def step(self) -> None:
        """Updates the weights and their average."""
        rate = self.rates[self.made]
        self.optimizer.param_groups[0]["lr"] = rate
        if self.weight_decay:
            torch._foreach_mul_(self.decayed, 1 - rate * self.weight_decay)
        self.optimizer.step()
        if self.ema_decay is not None:
            torch._foreach_lerp_(self.averages, self.live, 1 - self.ema_decay)
        self.made += 1


def _floats(model: nn.Module) -> list[Tensor]:
    """Parameters and running statistics, without their counters."""
    tensors = [*model.parameters(), *model.buffers()]
    return [tensor.detach() for tensor in tensors if tensor.is_floating_point()]


def augmented(padded: Tensor, rows: Tensor, reach: int, *, flip: bool) -> Tensor:
    """Some of the images, each shifted and mirrored at random, in one gather.

    Args:
      padded: [N, H + 2 reach, W + 2 reach, C] bytes.
      rows: [B] which of them.
      reach: pixels by which an image may be shifted.
      flip: whether one in two is mirrored.

    Returns:
      [B, C, H, W] float32 in [-1, 1], in memory as channels last.
    """
    count, device = len(rows), padded.device
    height, width = (size - 2 * reach for size in padded.shape[1:3])
    offsets = torch.randint(0, 2 * reach + 1, (2, count, 1), device=device)
    down = offsets[0] + torch.arange(height, device=device)
    across = offsets[1] + torch.arange(width, device=device)
    if flip:
        mirrored = torch.rand(count, 1, device=device) < 0.5
        across = torch.where(mirrored, across.flip(1), across)
    images = padded[rows[:, None, None], down[:, :, None], across[:, None, :]]
    return _normalised(images).permute(0, 3, 1, 2)


def _normalised(images: Tensor) -> Tensor:
    return images.float().mul_(2 / 255).sub_(1)
