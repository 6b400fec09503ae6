"""How generators and discriminators get from a few pixels to an image's size, and back."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxnets.errors import UserError
from jaxnets.ops import windows
from jaxnets.typing import Array

__all__ = [
    "check_attention",
    "check_latents",
    "check_traces",
    "crop",
    "fill_up",
    "first_size",
    "halvings",
    "with_fields",
]

#: Fields of networks that have an argument of their own where networks are made by name.
_OWN_ARGUMENTS = {"image_shape", "latent_size", "num_classes", "width", "widths", "attention"}
_OWN_ARGUMENTS |= {"spectral_norm", "dtype", "parent", "name"}

_MOST = 1 << 14


def halvings(size: int, least: int = 8) -> int:
    """How often a size is halved, rounding up, while it is at least `least`."""
    count = 0
    while size >= least:
        size, count = -(-size // 2), count + 1
    return count


def first_size(image_size: Sequence[int], doublings: int) -> tuple[int, ...]:
    """The fewest pixels along each axis that, doubled so often, hold the image.

    28 pixels are 7 doubled twice; 30 are 8 doubled twice, of which 2 are cropped.
    """
    return tuple(-(-size // 2**doublings) for size in image_size)


def fill_up(x: Array, halvings: int) -> Array:
    """[B, *spatial, C] with zeros (grey) at the end until every size is divisible by 2^halvings."""
    missing = [(0, -size % 2**halvings) for size in x.shape[1:-1]]
    return windows.pad(x, missing) if any(after for _, after in missing) else x


def crop(x: Array, image_size: Sequence[int]) -> Array:
    """The first pixels along each spatial axis: the inverse of `fill_up`."""
    return jax.lax.slice(x, (0,) * x.ndim, (x.shape[0], *image_size, x.shape[-1]))


def check_attention(asked: Iterable[int], stages: Iterable[int]) -> None:
    """Raises a `UserError` unless every stage that is to have self-attention exists."""
    known = list(stages)
    for stage in asked:
        if stage not in known:
            raise UserError(
                f"there is no stage {stage} to put self-attention after; this network has the "
                f"stages {known[0]} to {known[-1]}"
            )


def check_traces(module: nn.Module, shape: Sequence[int], num_classes: int | None) -> None:
    """Raises the `UserError` of a network that no variables can be made for; it is only traced."""
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    label = None if num_classes is None else jax.ShapeDtypeStruct((1,), jnp.int32)
    key = jax.eval_shape(jax.random.key, 0)
    jax.eval_shape(partial(module.init, train=False), key, x, label)


def with_fields(module: nn.Module, fields: Mapping[str, Any], what: str) -> nn.Module:
    """The network with other values of fields of its own, such as `blocks`.

    Raises:
      UserError: for a field that it has not, or a value that it can't have; `what` is its name.
    """
    names = [f.name for f in dataclasses.fields(module) if f.init and f.name not in _OWN_ARGUMENTS]
    values = {name: getattr(module, name) for name in names}
    kinds = {name: int if value is None else type(value) for name, value in values.items()}
    known = {name: kind for name, kind in kinds.items() if kind in _KINDS}
    for name, value in fields.items():
        if name not in known:
            has = ", ".join(known) or "none to set"
            raise UserError(f"{what} fields: there is no {name!r} here; this one has {has}")
        kind: Any = known[name]
        fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
        if not fits or isinstance(value, bool):
            raise UserError(f"{what} fields: {name} takes {_KINDS[kind]}, got {value!r}")
        least, most, told = _RANGES.get(kind, (value, value, ""))
        if not least <= value <= most:
            raise UserError(f"{what} fields: {name} must be in {told}, got {value}")
    return module.clone(**fields)


_KINDS = {int: "a whole number", float: "a number", str: "a text"}
_RANGES: dict[Any, tuple[Any, Any, str]] = {int: (1, _MOST, f"1..{_MOST}"), float: (0, 1, "[0, 1]")}


def check_latents(z: Array, size: int) -> None:
    """Raises a `UserError` unless latents are [B, size]."""
    if z.ndim != 2 or z.shape[1] != size:
        raise UserError(f"the generator takes latents [B, {size}], got {list(z.shape)}")
