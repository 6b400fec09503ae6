"""Configs out of the `config.json` of earlier runs, which anyone may have edited."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from jaxnets.commands.configs.constraints import MAX_FLOAT
from jaxnets.errors import UserError

T = TypeVar("T")

#: Field of a run's `config.json` that stands for its images.
FINGERPRINT = "data_fingerprint"
#: That which stands for the weights that the run began with.
WEIGHTS = "init_fingerprint"
#: That which stands for the generated images among its training images.
SAMPLES = "samples_fingerprint"
#: That which stands for the weights of the CNN that teaches.
TEACHER = "teacher_fingerprint"
#: All that `config.json` has besides the fields of a config.
FINGERPRINTS = (FINGERPRINT, WEIGHTS, SAMPLES, TEACHER)


def need_kind(
    folder: Path,
    record: Mapping[str, Any],
    command: str,
    kinds: Sequence[str] = ("classify", "generate"),
) -> None:
    """Fails for a run that a command does not take; arguments as for `config_of_run`."""
    if record["experiment"] not in kinds:
        *others, last = (f"`{kind}`" for kind in kinds)
        raise UserError(
            f"{folder} is a run of `{record['experiment']}`; `{command}` takes those of "
            f"{', '.join(others)} and {last}"
        )


def config_of_run(
    folder: Path, record: Mapping[str, Any], kind: type[T], resolve: Callable[[T], T]
) -> T:
    """The config of an earlier run.

    Args:
      folder: of the run.
      record: what `jaxnets.run.runs.read_run` gave.
      kind: the config's class.
      resolve: fills in what is missing, and refuses numbers that no run can be made with.
    """
    try:
        return resolve(config_from(kind, record["config"]))
    except UserError as error:
        raise UserError(f"{folder / 'config.json'} cannot be used: {error}") from error


def config_from(kind: type[T], values: Mapping[str, Any]) -> T:
    """A config out of the values of a run's `config.json`.

    JSON's texts become paths, its lists tuples, its whole numbers floats, where the field is one.

    Raises:
      UserError: for an unknown field, or a value of another type; it names the field and the value.
    """
    values = {name: value for name, value in values.items() if name not in FINGERPRINTS}
    hints = typing.get_type_hints(kind)
    fields = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - fields)
    if unknown:
        raise UserError(
            f"the run was made by another version of jaxnets: its config.json has "
            f"{', '.join(unknown)}, which `{kind.__name__.lower()}` does not know"
        )
    typed = {}
    for name, value in values.items():
        try:
            typed[name] = _as(hints[name], value)
        except _Misfit as error:
            shown = repr(value)
            shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
            raise UserError(f"`{name}` is {shown}, and must be {_told(hints[name])}") from error
    return kind(**typed)


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
