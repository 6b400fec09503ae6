"""How a config's fields become flags: groups with titles, and help out of the texts below them."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import textwrap
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

#: Of `tyro.cli`: the rule below, for every dataclass.
REGISTRY = ConstructorRegistry()


@functools.cache
def texts(kind: type) -> Mapping[str, str]:
    """Field -> the text below it, of a class's own fields, each on one line."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    return {
        field.target.id: " ".join(after.value.value.split())
        for field, after in itertools.pairwise(tree.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if isinstance(after.value.value, str)
    }


def homes(kind: type) -> dict[str, type]:
    """Field -> the class that says what it is: the config's, or one that it inherits from."""
    return {
        field.name: next(
            c for c in kind.__mro__ if field.name in vars(c).get("__annotations__", {})
        )
        for field in dataclasses.fields(kind)
    }


def help_text(kind: type, name: str) -> str:
    """The help of a field."""
    return texts(homes(kind)[name]).get(name, "")


@REGISTRY.struct_rule
def _rule(info: StructTypeInfo) -> StructConstructorSpec | None:
    """A config as its ungrouped fields, and a part for each group; a group as a dict of its own."""
    kind: Any = info.type
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return None
    if kind.__module__.startswith("tyro."):  # which wraps a union of commands
        return None
    home = homes(kind)
    if "GROUP" in vars(kind):
        own = [name for name, where in home.items() if where is kind]
        return StructConstructorSpec(dict, tuple(_fields(kind, own, info.default)))
    plain = [name for name, where in home.items() if "GROUP" not in vars(where)]
    groups = {c.GROUP: c for c in kind.__mro__ if "GROUP" in vars(c) and c in home.values()}

    def make(**values: Any) -> Any:
        for group in groups:
            values |= values.pop(group)
        return kind(**values)

    parts = [StructFieldSpec(title, group, info.default) for title, group in groups.items()]
    return StructConstructorSpec(make, (*_fields(kind, plain, info.default), *parts))


def _fields(kind: type, names: list[str], default: Any) -> Iterator[StructFieldSpec]:
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in names:
        value = getattr(default, name, fields[name].default)
        yield StructFieldSpec(
            name,
            hints[name],
            tyro.MISSING if value is dataclasses.MISSING else value,
            functools.partial(help_text, kind, name),
        )
