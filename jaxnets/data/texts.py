"""Your own texts: CSV or JSON lines with a text and a label, or a folder of .txt files a class."""

import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxnets.errors import UserError

__all__ = ["TABLES", "Example", "read_table", "read_text"]

#: (text, name of its class)
Example = tuple[str, str]

#: What a file with texts and labels is called; .tsv has tabs between its columns.
TABLES = (".csv", ".tsv", ".jsonl")
#: Columns that are taken for the text and for the label, the first that is there.
TEXT_NAMES = ("text", "sentence", "review", "content", "document", "message")
LABEL_NAMES = ("label", "class", "category", "target", "sentiment")

#: Characters of a text: a long book. What is longer is hardly one text.
MOST = 2_000_000


def read_table(path: Path) -> list[Example]:
    """The examples of a CSV, TSV or JSON lines file, in UTF-8, in their order.

    Raises:
      UserError: if the file is damaged, lacks a column, or has a text that can't be used.
    """
    examples, key_of = [], None
    for line, row in _json_rows(path) if path.suffix == ".jsonl" else _csv_rows(path):
        key_of = key_of or {
            what: _column(path, row, what, names)
            for what, names in (("text", TEXT_NAMES), ("label", LABEL_NAMES))
        }
        text, label = (row.get(key_of[what]) for what in ("text", "label"))
        where = f"{path}, line {line},"
        if not isinstance(text, str) or isinstance(label, dict | list | float) or label is None:
            raise UserError(f"{where} has no text, or no label that names a class")
        examples.append((_checked(text, where), str(label).strip()))
        if not examples[-1][1]:
            raise UserError(f"{where} has an empty label; name a class there")
    if not examples:
        raise UserError(f"{path} holds no examples")
    return examples


def read_text(path: Path) -> str:
    """The text of a .txt file in UTF-8.

    Raises:
      UserError: if it is empty, too long or no text.
    """
    return _checked(_decoded(path), str(path))


def _decoded(path: Path) -> str:
    try:
        if path.stat().st_size > 1 << 31:
            raise UserError(f"{path} has over 2 GB; divide it")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is no text in UTF-8 (byte {error.start}); save it as UTF-8"
        ) from error


def _checked(text: str, where: str) -> str:
    if not text.strip():
        raise UserError(f"{where} has an empty text; fill it in or leave it out")
    if len(text) > MOST:
        raise UserError(
            f"{where} has a text of {len(text):,} characters; at most {MOST:,} are taken: divide "
            "it or leave it out"
        )
    return text


def _column(path: Path, row: Mapping[str, Any], what: str, names: Sequence[str]) -> str:
    known = {str(key).strip().lower(): key for key in row if key is not None}
    for name in names:
        if name in known:
            return known[name]
    there = ", ".join(known) or "nothing"
    raise UserError(
        f"{path} has no column of the {what}: it has {there}; call it {' or '.join(names)}"
    )


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(sys.maxsize)  # a text may be long; `_checked` says how long
    separator = "\t" if path.suffix == ".tsv" else ","
    reader = csv.DictReader(_decoded(path).splitlines(keepends=True), delimiter=separator)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}") from error


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_decoded(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}, is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}, is no JSON object with a text and a label")
        yield number, row
