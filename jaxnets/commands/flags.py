"""How a config's fields become flags: groups with titles, and help out of the texts below them.

A config may say FIRST, the fields that stand before all groups, and USUAL, the values that fields
without a default have in the usual case.
"""

from __future__ import annotations

import ast
import collections
import dataclasses
import difflib
import functools
import inspect
import itertools
import json
import textwrap
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from jaxnets.commands.configs.constraints import flag as flag_of
from jaxnets.commands.configs.reading import FINGERPRINTS
from jaxnets.errors import UserError
from jaxnets.files import check_path

#: Title of the fields that have no group, in a config that says which come first.
OTHER = "other"

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
    """A config as its first fields, and a part for each group; a group as a dict of its own."""
    kind: Any = info.type
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return None
    if kind.__module__.startswith("tyro."):  # which wraps a union of commands
        return None
    if "PART" in vars(kind):
        whole, names = vars(kind)["PART"]
        return StructConstructorSpec(dict, tuple(_fields(whole, names, info.default)))
    home = homes(kind)
    order = sorted(home, key=lambda name: kind.__mro__.index(home[name]))
    titles = {name: vars(home[name]).get("GROUP", "") for name in order}
    if first := getattr(kind, "FIRST", ()):
        titles = {name: title or OTHER for name, title in titles.items()} | dict.fromkeys(first, "")
    names = {title: [n for n in titles if titles[n] == title] for title in titles.values()}
    front = list(first or names.pop("", ()))
    names.pop("", None)

    def make(**values: Any) -> Any:
        for title in names:
            values |= values.pop(title)
        return kind(**values)

    parts = [
        StructFieldSpec(title, _part(kind, title, of), info.default)
        for title, of in sorted(names.items(), key=lambda item: item[0] == OTHER)
    ]
    return StructConstructorSpec(make, (*_fields(kind, front, info.default), *parts))


def _part(kind: type, title: str, names: list[str]) -> type:
    """A class that stands for the fields of a group of a config."""
    return dataclasses.make_dataclass(title, (), namespace={"PART": (kind, names)})


def _fields(kind: Any, names: list[str], default: Any) -> Iterator[StructFieldSpec]:
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    usual = getattr(kind, "USUAL", {})
    for name in names:
        value = getattr(default, name, fields[name].default)
        hint: Any = hints[name]
        if value is None:
            told = str(usual[name]) if usual.get(name) is not None else ""
            said = f"(default: {told})" if told else ""
            hint = Annotated[hint, tyro.conf.arg(help_behavior_hint=said)]
        yield StructFieldSpec(
            name,
            hint,
            tyro.MISSING if value is dataclasses.MISSING else value,
            functools.partial(help_text, kind, name),
        )


#: Kind of a value -> (what help calls it, what errors call it).
_WORDS = {
    int: ("INT", "a whole number"),
    float: ("NUMBER", "a number"),
    str: ("TEXT", "a text"),
    Path: ("PATH", "a path"),
    bool: ("True|False", "True or False"),
}


@REGISTRY.primitive_rule
def _value(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Values in the user's words: "--epochs takes a number, not ten"; None stays unsaid."""
    kind: Any = info.type
    kinds = [k for k in typing.get_args(kind) if k is not types.NoneType]
    optional = typing.get_origin(kind) in (typing.Union, types.UnionType) and len(kinds) < len(
        typing.get_args(kind)
    )
    if optional:
        kind = kinds[0] if len(kinds) == 1 else tuple(kinds)
    elif kind not in (int, float):
        return None
    many = typing.get_origin(kind) is tuple and typing.get_args(kind)[1:] == (...,)
    choices: dict[str, Any] | None = None
    if many:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is Literal:
        choices = {str(choice): choice for choice in typing.get_args(kind)}
        shown, word = "{" + ",".join(choices) + "}", f"one of {', '.join(choices)}"
    elif kind == (float, str):  # a ramp
        shown, word = "NUMBER[:NUMBER]", "a number, or START:END"
    elif isinstance(kind, type) and kind in _WORDS:
        shown, word = _WORDS[kind]
    else:
        return None

    def read(text: str) -> Any:
        if text == "None" and optional:
            return None
        try:
            if choices is not None:
                return choices[text]
            if kind is bool:
                return {"true": True, "false": False}[text.lower()]
            if kind == (float, str):
                return text if ":" in text else float(text)
            return kind(text)
        except (ValueError, KeyError):
            raise ValueError(f"{text!r} is not {word}") from None

    def made(arguments: list[str]) -> Any:
        if not many:
            return read(arguments[0])
        return None if arguments == ["None"] else tuple(map(read, arguments))

    def told(value: Any) -> list[str]:
        return [str(v) for v in value] if isinstance(value, tuple) else [str(value)]

    return PrimitiveConstructorSpec(
        nargs="*" if many else 1,
        metavar=f"{shown} [{shown} ...]" if many else shown,
        instance_from_str=made,
        is_instance=lambda value: True,
        str_from_instance=told,
    )


def put_right(kinds: Sequence[type], arguments: Sequence[str]) -> list[str]:
    """The arguments of a command as the parser takes them.

    `--config FILE` becomes the flags that the file says, before all others; --flip and --no-flip
    of a field that may be unset get the value that they mean.

    Args:
      kinds: configs of the command and its subcommands.
      arguments: what follows the command's name.

    Raises:
      UserError: for a flag that the command does not have, with those that may be meant.
    """
    hints = _hints(kinds)
    from_file: list[str] = []
    found: list[str] = []
    rest = collections.deque(arguments)
    while rest:
        word = rest.popleft()
        flag, equals, value = word.partition("=")
        if not word.startswith("--") or word == "--":
            found.append(word)
        elif flag == "--config" and flag not in hints:
            from_file += _flags_of_file(Path(value or (rest.popleft() if rest else "")), hints)
        elif flag == "--help" or (flag in hints and hints[flag] != (bool | None)):
            found.append(word)
        elif hints.get(flag) == (bool | None):
            found.append(flag)
            if not equals and (not rest or rest[0].startswith("-")):
                value = "True"
            elif not equals:
                value = rest.popleft()
            if value not in ("True", "False", "None"):
                raise UserError(f"write {flag} or --no-{flag[2:]}, not {flag} {value}")
            found.append(value)
        elif (on := f"--{flag.removeprefix('--no-')}") != flag and on in hints:
            found += [on, "False"] if hints[on] == (bool | None) else [word]
        else:
            raise UserError(f"there is no flag {flag}; {_meant(flag, list(hints))}")
    first = next((i for i, word in enumerate(found) if word.startswith("-")), len(found))
    return [*found[:first], *from_file, *found[first:]]


def _hints(kinds: Sequence[type]) -> dict[str, Any]:
    """Flag -> type, of some configs and of those that are their subcommands."""
    hints: dict[str, Any] = {}
    for kind in kinds:
        own = {flag_of(name): hint for name, hint in typing.get_type_hints(kind).items()}
        inner = [k for hint in own.values() for k in (hint, *typing.get_args(hint))]
        hints |= {**own, **_hints([k for k in inner if dataclasses.is_dataclass(k)])}  # type: ignore[misc]
    return hints


def _meant(flag: str, known: list[str]) -> str:
    """Which flags may be meant: by likeness, by their first letters, or by one of their words."""
    asked = flag.strip("-").replace("_", "-")
    asked = asked.removeprefix("no-") or asked
    names = [name.removeprefix("--") for name in known]
    initials = [n for n in names if "".join(word[0] for word in n.split("-") if word) == asked]
    parts = [n for n in names if set(asked.split("-")) & set(n.split("-"))]
    likely = dict.fromkeys([*initials, *difflib.get_close_matches(asked, names, 3, 0.7), *parts])
    if not likely:
        return "--help shows those there are"
    return f"is it {' or '.join('--' + name for name in list(likely)[:3])}?"


def _flags_of_file(path: Path, hints: Mapping[str, Any]) -> list[str]:
    """The flags that a TOML or JSON file of values says, such as a run's config.json."""
    check_path(path, "--config")
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        values = values.get("config", values)
        # A run's own file also says which data and weights it began with.
        values = {k: v for k, v in dict(values).items() if k not in FINGERPRINTS}
        pairs = [(flag_of(str(name)), value) for name, value in values.items()]
    except OSError as error:
        raise UserError(f"--config {path} can't be read: {error.strerror}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"--config {path} is neither TOML nor JSON with values: {error}") from error
    arguments: list[str] = []
    for flag, value in pairs:
        if flag not in hints:
            raise UserError(
                f"--config {path} has {flag[2:]}, but there is no flag {flag}; "
                f"{_meant(flag, list(hints))}"
            )
        if value is None:
            continue
        if isinstance(value, bool) and hints[flag] is bool:
            arguments.append(flag if value else "--no-" + flag[2:])
        elif isinstance(value, list):
            arguments += [flag, *map(str, value)] if value else []
        else:
            arguments += [flag, str(value)]
    return arguments
