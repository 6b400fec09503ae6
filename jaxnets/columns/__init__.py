"""What the rows of arrays are: a kind of data is a column, and all else knows columns alone."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnets.columns.boxes import Boxes
from jaxnets.columns.classes import Classes, class_of
from jaxnets.columns.column import Column
from jaxnets.columns.image import Image, normalise, to_uint8
from jaxnets.columns.sound import Sound
from jaxnets.columns.tokens import Tokens
from jaxnets.errors import UserError

__all__ = [
    "KINDS",
    "Boxes",
    "Classes",
    "Column",
    "Image",
    "Sound",
    "Tokens",
    "class_of",
    "from_json",
    "infer",
    "normalise",
    "to_json",
    "to_uint8",
]

#: Name -> the class of a kind of column.
KINDS: dict[str, type] = {kind.kind: kind for kind in (Image, Sound, Tokens, Classes, Boxes)}


def to_json(column: Column) -> dict[str, Any]:
    """A column as values that JSON can hold."""
    return {"kind": column.kind, **dataclasses.asdict(column)}  # type: ignore[call-overload]


def from_json(values: Mapping[str, Any]) -> Column:
    """The column that `to_json` described.

    Raises:
      KeyError, TypeError: if the values describe none.
    """
    fields = {name: value for name, value in values.items() if name != "kind"}
    kept = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
    return KINDS[values["kind"]](**kept)


def infer(name: str, rows: np.ndarray) -> Column:
    """The column of an array that nobody has described: images as inputs, classes as a target.

    Args:
      name: of the array.
      rows: [N, H, W, C] uint8 for "inputs", [N] int32 for "target".

    Raises:
      UserError: for any other array.
    """
    if name == "inputs":
        if rows.ndim == 4 and rows.dtype == np.uint8:
            return Image(rows.shape[1:])
        raise UserError(
            f"images must be [N, H, W, C] uint8, not {rows.shape} {rows.dtype}; for another kind "
            "of data give its column: Split(..., columns={'inputs': ...})"
        )
    if name == "target":
        if rows.ndim == 1 and rows.dtype == np.int32:
            return Classes()
        raise UserError(f"labels must be [N] int32, not {rows.shape} {rows.dtype}")
    raise UserError(f"the array {name!r} needs its column: Split(..., columns={{{name!r}: ...}})")
