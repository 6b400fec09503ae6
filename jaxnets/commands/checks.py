"""What commands ask of sizes and files before they do any work."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jaxnets.commands import memory
from jaxnets.commands.configs.constraints import MAX_STEPS, flag
from jaxnets.errors import UserError
from jaxnets.files import check_writable

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from jaxnets.data import DataSet
    from jaxnets.train.state import TrainState

#: Bytes of memory for a sample that is scored: its features, several times over.
SCORED = 1 << 14

#: Above these a network is traced, to see how large it is, before its run begins; below them that
#: would only make every start slower.
_WIDE, _CHANNELS, _LONG = 4.0, 1024, 1 << 14


def total_steps(epochs: float, steps_per_epoch: float, name: str = "epochs") -> int:
    """The steps of so many epochs, at least 1.

    Raises:
      UserError: for more than a run can count.
    """
    steps = epochs * steps_per_epoch
    if not steps <= MAX_STEPS:
        raise UserError(
            f"{flag(name)} {epochs:g} makes {steps:.3g} steps, and a run has at most {MAX_STEPS}"
        )
    return max(1, round(steps))


def check_batch(batch_size: int, mesh: Mesh, *parts: int) -> None:
    """Fails early, in one sentence, for a batch that devices or parts do not divide."""
    share = mesh.size * math.prod(parts)
    if batch_size < 1 or batch_size % share:
        what = f"the {mesh.size} devices" if mesh.size > 1 or share == 1 else "the parts"
        if share != mesh.size:
            what = f"{mesh.size} device(s) times {share // mesh.size} part(s)"
        raise UserError(
            f"batch size {batch_size} is not divisible by {what}; choose a multiple of {share}"
        )


def one_class(dataset: DataSet) -> str:
    """What data have where there are not two classes to be told apart."""
    return f"one class, {dataset.class_names[0]}" if dataset.class_names else "no classes"


def json_file(config: Any) -> None:
    """Fails, before anything is measured, where `--json` cannot be written."""
    if config.json is not None:
        check_writable(config.json, "--json")


def network_fits(config: Any, init: Callable[[], TrainState], mesh: Mesh) -> None:
    """Fails, before there is a run's folder, for networks that no memory holds.

    Args:
      config: with `width`, and perhaps other sizes.
      init: makes the first state; is only traced.
      mesh: the devices that are each to hold the state.
    """
    if not _large(config):
        return
    import jax

    # The state and as many gradients; CPU devices share one memory.
    size = 2 * sum(memory.size_of(leaf) for leaf in jax.tree.leaves(jax.eval_shape(init)))
    device = mesh.devices.flat[0]
    copies = mesh.size if device.platform == "cpu" else 1
    memory.check_fits(size * copies, memory.available(device), f"training with {_large(config)}")


def images_fit(
    count: int, shape: tuple[int, ...], *, per_value: int = 16, per_image: int = 1 << 15
) -> None:
    """Fails, before they are made, for more images than the memory holds.

    Args:
      count: of the images.
      shape: of one.
      per_value: bytes of memory for each channel of a pixel; by default those of float32 samples
        and of bytes of them.
      per_image: bytes besides; by default those of a cell of 64x64 pixels in their grid.
    """
    needed = count * (per_value * math.prod(shape) + per_image)
    free = memory.host_available()
    if free is not None and needed > free:
        raise UserError(
            f"{count} images need {memory.amount(needed)} of memory and {memory.amount(free)} are "
            "free; make fewer at a time"
        )


def _large(config: Any) -> str:
    """The flags by which a network may be too large for a memory; "" if none is."""
    parts = [f"--width {config.width:g}"] if config.width > _WIDE else []
    for name in ("generator_widths", "discriminator_widths"):
        widths = getattr(config, name, None) or ()
        if max(widths, default=0) > _CHANNELS:
            parts.append(f"{flag(name)} {' '.join(map(str, widths))}")
    for name in ("generator_fields", "discriminator_fields"):
        if getattr(config, name, None):
            parts.append(f"{flag(name)} {' '.join(getattr(config, name))}")
    if getattr(config, "latent_size", 0) > _LONG:
        parts.append(f"--latent-size {config.latent_size}")
    return " and ".join(parts)
