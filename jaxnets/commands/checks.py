"""What commands ask of their flags, and of the files of earlier runs, before they do any work.

No module of `experiments` imports jax at its top: `--help` must not wait for it.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from jaxnets.state import TrainState

from jaxnets.commands.configs.constraints import MAX_FLOAT, MAX_STEPS

T = TypeVar("T")

#: Bytes of memory for a sample that is scored: its features, several times over.
SCORED = 1 << 14

#: Above these a network is traced, to see how large it is, before its run begins; below them that
#: would only make every start slower.
_WIDE, _CHANNELS, _LONG = 4.0, 1024, 1 << 14


def total_steps(epochs: float, steps_per_epoch: float, flag: str = "epochs") -> int:
    """The steps of so many epochs, at least 1.

    Raises:
      UserError: for more than a run can count.
    """
    from jaxnets.errors import UserError

    steps = epochs * steps_per_epoch
    if not steps <= MAX_STEPS:
        raise UserError(
            f"--{flag} {epochs:g} makes {steps:.3g} steps, and a run has at most {MAX_STEPS}"
        )
    return max(1, round(steps))


def json_file(config: Any) -> None:
    """Fails, before anything is measured, where `--json` cannot be written."""
    from jaxnets.files import check_writable

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

    from jaxnets.commands import memory

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
    from jaxnets.commands import memory
    from jaxnets.errors import UserError

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
            parts.append(f"--{name.replace('_', '-')} {' '.join(map(str, widths))}")
    for name in ("generator_fields", "discriminator_fields"):
        if getattr(config, name, None):
            parts.append(f"--{name.replace('_', '-')} {' '.join(getattr(config, name))}")
    if getattr(config, "latent_size", 0) > _LONG:
        parts.append(f"--latent-size {config.latent_size}")
    return " and ".join(parts)


def config_of_run(
    folder: Path, found: Mapping[str, Any], kind: type[T], resolve: Callable[[T], T]
) -> T:
    """The config of an earlier run, whose `config.json` anyone may have edited.

    Args:
      folder: of the run.
      found: what `jaxnets.runs.read_run` gave.
      kind: the config's class.
      resolve: fills in what is missing, and refuses numbers that no run can be made with.
    """
    from jaxnets.commands.common import config_from
    from jaxnets.errors import UserError

    try:
        return resolve(config_from(kind, found["config"]))
    except UserError as error:
        raise UserError(f"{folder / 'config.json'} cannot be used: {error}") from error


def typed(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values as the types of a config's fields.

    Args:
      kind: a dataclass.
      values: field -> value; unknown fields are not looked at.

    Returns:
      The values, paths as `Path`, lists as tuples, whole numbers as floats where the field is one.

    Raises:
      UserError: for a value of another type; it names the field and the value.
    """
    from jaxnets.errors import UserError

    hints = typing.get_type_hints(kind)
    found = {}
    for name, value in values.items():
        try:
            found[name] = _as(hints[name], value)
        except _Misfit as error:
            shown = repr(value)
            shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
            raise UserError(f"`{name}` is {shown}, and must be {_told(hints[name])}") from error
    return found


class _Misfit(Exception):
    """A value is not of the type that it should be."""


def _as(hint: Any, value: Any) -> Any:
    """The value as the type that a field's hint names."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for option in options:
            try:
                return _as(option, value)
            except _Misfit:
                continue
        raise _Misfit
    if origin is Literal:
        # 1 == True == 1.0, and each of them prints differently.
        fits = any(type(value) is type(option) and value == option for option in options)
    elif origin is tuple and isinstance(value, list):
        inner = options[:1] * len(value) if options[1:] == (Ellipsis,) else options
        if len(inner) != len(value):
            raise _Misfit
        return tuple(_as(one, part) for one, part in zip(inner, value, strict=True))
    elif hint is float and isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > MAX_FLOAT:
            raise _Misfit
        return float(value)
    elif hint is Path and isinstance(value, str):
        return Path(value)
    else:
        fits = isinstance(value, origin or hint) and (hint is bool or not isinstance(value, bool))
    if not fits:
        raise _Misfit
    return value


_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _told(hint: Any) -> str:
    """A type in plain words: "a number or null"."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_told(option) for option in options)
    if origin is Literal:
        return " or ".join(repr(option) for option in options)
    if origin is tuple:
        return "a list"
    if hint is Path:
        return "the text of a path"
    return "null" if hint is types.NoneType else _NAMES.get(hint, getattr(hint, "__name__", "?"))
