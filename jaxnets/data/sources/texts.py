"""Your own texts: CSV or JSON lines with a text and a label, or a folder of .txt files a class."""

import csv
import io
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import jaxnets
from jaxnets.columns import Classes
from jaxnets.columns.tokens import Unit, fit_tokens
from jaxnets.data.cache import Staging
from jaxnets.data.dataset import DataSet
from jaxnets.data.dividing import set_apart
from jaxnets.data.listing import some_of
from jaxnets.data.sources.folder import from_files, root_of
from jaxnets.data.sources.layout import find_layout
from jaxnets.errors import UserError

__all__ = ["load_texts", "read_table", "read_texts"]


class Example(NamedTuple):
    """A text, the name of its class, where it stands, and why it can't be used, or ""."""

    text: str
    label: str
    where: str
    fault: str


#: What a file with texts and labels is called; .tsv has tabs between its columns.
TABLES = (".csv", ".tsv", ".jsonl")
#: Columns that are taken for the text and for the label, the first that is there.
TEXTS = ("text", "sentence", "review", "content", "document", "message")
LABELS = ("label", "class", "category", "target", "sentiment")

#: Characters of a text: a long book. What is longer is hardly one text.
MOST = 2_000_000


def load_texts(name: str, *, unit: Unit | None = None, skip_bad: bool = False) -> DataSet:
    """Reads texts, and fits the vocabulary to those for training.

    Args:
      name: "texts:PATH", PATH being a CSV, TSV or JSON lines file; a folder with such files named
        train and, perhaps, test and validation; or a folder with a sub-folder of .txt files for
        each class, or train/ and test/ that have them. Without test, a fifth of each class is set
        apart for it.
      unit: what a token is; words by default.
      skip_bad: leave unusable texts out and count them, instead of an error.

    Raises:
      UserError: there are no such files, or they hold what can't be used.
    """
    root = root_of(name)
    files = _files(root)
    paths = {split: [path for path, _ in part] for split, part in files.items()}

    def build(staging: Staging) -> int:
        examples = {s: [e for file in part for e in _read(*file)] for s, part in files.items()}
        bad = [e for part in examples.values() for e in part if e.fault]
        if bad and not skip_bad:
            told = some_of(f"{example.where} ({example.fault})" for example in bad)
            raise UserError(
                f"{root} has {len(bad):,} example{'s' * (len(bad) != 1)} that can't be used: "
                f"{told}; put them right or leave them out with --skip-bad"
            )
        _stage(staging, root, examples, unit or "words")
        return len(bad)

    folder = root.parent if root.is_file() else root
    decoder = f"jaxnets {jaxnets.__version__}"
    return from_files(name, folder, paths, [unit, skip_bad], decoder, build)


def _stage(
    staging: Staging, root: Path, examples: Mapping[str, Sequence[Example]], unit: Unit
) -> None:
    """Divides the examples where there is no "test", fits the vocabulary, writes tokens."""
    parts = {split: [e for e in part if not e.fault] for split, part in examples.items()}
    names = sorted({example.label for example in parts["train"]}, key=_by_number)
    if len(names) < 2:
        raise UserError(
            f"{root} has texts of {len(names)} class{'es' * (not names)}; it needs two or more"
        )
    for split, part in parts.items():
        if strange := {example.label for example in part} - set(names):
            raise UserError(f'{root} has no text of "{min(strange)}" in train, but in {split}')
    number = {label: i for i, label in enumerate(names)}
    if "test" not in parts:  # here and not later, because the vocabulary must not know its words
        train = parts["train"]
        labels = np.array([number[example.label] for example in train])
        first: dict[str, int] = {}
        originals = np.array([first.setdefault(e.text, i) for i, e in enumerate(train)])
        *halves, notes = set_apart(labels, names, originals)
        staging.notes += notes
        parts |= {s: [train[i] for i in h] for s, h in zip(("train", "test"), halves, strict=True)}
    column = fit_tokens([example.text for example in parts["train"]], unit)
    columns = {"inputs": column, "target": Classes(tuple(names))}
    for split, part in parts.items():
        out = staging.split(split, len(part), columns)
        out.inputs[:] = column.rows(example.text for example in part)
        out.target[:] = [number[example.label] for example in part]


def _files(root: Path) -> dict[str, list[tuple[Path, str]]]:
    """The files of each split, and the label of their texts where that is the folder's name."""
    if root.is_file():
        if root.suffix not in TABLES:
            raise UserError(f"{root} is none of {', '.join(TABLES)}; name such a file, or a folder")
        return {"train": [(root, "")]}
    tables = {
        split: [(path, "")]
        for split in ("train", "test", "validation")
        for path in (root / f"{split}{suffix}" for suffix in TABLES)
        if path.is_file()
    }
    if "train" in tables:
        return tables
    layout = find_layout(root, "text")
    names = layout.class_names
    return {s: [(f.path, names[f.label]) for f in part] for s, part in layout.splits.items()}


def _by_number(label: str) -> tuple[float, str]:
    """Labels that are whole numbers in their order, before the others in theirs."""
    return (float(label) if label.isdecimal() else math.inf, label)


def _read(path: Path, label: str) -> list[Example]:
    """The examples of a table, or the one text of another file, whose label is its folder's."""
    return read_table(path) if path.suffix in TABLES else [_example(path.name, _text(path), label)]


def read_texts(path: Path) -> list[tuple[str, str, str]]:
    """(where it stands, text, why it can't be used or "") of each text in a file.

    Labels are not needed; a file that can't be read is one text that can't be used.
    """
    try:
        if path.suffix in TABLES:
            examples = read_table(path, labelled=False)
        else:
            examples = [_example(path.name, _text(path), "any")]
    except UserError as error:
        return [(str(path), "", str(error))]
    return [(str(path.parent / e.where), e.text, e.fault) for e in examples]


def read_table(path: Path, *, labelled: bool = True) -> list[Example]:
    """The examples of a CSV, TSV or JSON lines file in UTF-8, whose labels may not be needed.

    Raises:
      UserError: if the file is damaged, lacks a column, or holds no example.
    """
    examples, keys = [], ("", "")
    for line, row in _rows(path):
        if not examples:
            label = _column(path, row, "label", LABELS) if labelled else ""
            keys = (_column(path, row, "text", TEXTS), label)
        text, label = row.get(keys[0]), row.get(keys[1]) if labelled else "any"
        named = "" if label is None or isinstance(label, float | dict | list) else str(label)
        text = text if isinstance(text, str) else ""
        examples.append(_example(f"{path.name} line {line}", text, named.strip()))
    if not examples:
        raise UserError(f"{path} holds no examples")
    return examples


def _example(where: str, text: str, label: str) -> Example:
    fault = "" if label else "no label that names a class"
    if not text.strip():
        fault = "no text"
    elif len(text) > MOST:
        fault = f"a text of {len(text):,} characters, more than {MOST:,}"
    return Example(text, label, where, fault)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is no text in UTF-8 (byte {error.start}); save it as UTF-8"
        ) from error


def _column(path: Path, row: Mapping[str, Any], what: str, names: Sequence[str]) -> str:
    """The name of a table's column of texts or labels."""
    known = {str(key).strip().lower(): key for key in row if key is not None}
    for name in names:
        if name in known:
            return known[name]
    there = ", ".join(known) or "nothing"
    raise UserError(
        f"{path} has no column of the {what}: it has {there}; call it {' or '.join(names)}"
    )


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number of the line, row by column) of a table."""
    lines, line = io.StringIO(_text(path), newline=""), 0
    try:
        if path.suffix == ".jsonl":
            for line, text in enumerate(lines, start=1):
                if text.strip():
                    row = json.loads(text)
                    if not isinstance(row, dict):
                        raise ValueError("no JSON object with a text and a label")
                    yield line, row
            return
        csv.field_size_limit(sys.maxsize)  # a text may be long; `_example` says how long
        reader = csv.DictReader(lines, delimiter="\t" if path.suffix == ".tsv" else ",")
        for row in reader:
            line = reader.line_num
            yield line, row
    except (ValueError, RecursionError, csv.Error) as error:
        raise UserError(f"{path}, line {max(1, line)}: {error}") from error
