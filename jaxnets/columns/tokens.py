"""The column of texts: words or characters as numbers of a vocabulary."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxnets.errors import UserError
from jaxnets.files import write_files
from jaxnets.media.provenance import of_each, record
from jaxnets.media.report import Table

__all__ = ["Tokens", "Unit", "fit_tokens", "split_text"]

Unit = Literal["words", "characters"]

PADDING, UNKNOWN = 0, 1
LONGEST = 2048  # tokens of a text
_WORD = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]")


def split_text(text: str, unit: Unit) -> list[str]:
    """A text as words and punctuation marks in lower case, or as characters as they are."""
    return _WORD.findall(text.lower()) if unit == "words" else list(text)


@dataclass(frozen=True)
class Tokens:
    """Texts as tokens, stored as int32 [N, length], which is what networks see.

    0 is padding, 1 whatever the vocabulary lacks, and 2 its first entry.

    Attributes:
      vocabulary: words or characters.
      length: tokens of each text; longer ones are cut.
      unit: which of the two.
    """

    vocabulary: tuple[str, ...]
    length: int
    unit: Unit = "words"

    kind = "tokens"
    stored = np.dtype(np.int32)
    dtype = np.dtype(np.int32)

    @property
    def shape(self) -> tuple[int]:
        """Of one text."""
        return (self.length,)

    @property
    def size(self) -> int:
        """How many different tokens there are."""
        return len(self.vocabulary) + 2

    def check(self, rows: np.ndarray, where: str) -> None:
        """Looks whether all tokens are of the vocabulary.

        Raises:
          UserError: names the first text in which one is not.
        """
        outside = ((rows < 0) | (rows >= self.size)).any(axis=1)
        if outside.any():
            raise UserError(
                f"text {outside.argmax()} in {where} has a token outside 0..{self.size - 1}"
            )

    def decode(self, rows: Any) -> Any:
        """Networks see what is stored."""
        return rows.astype(np.int32)

    encode = decode

    def rows(self, texts: Iterable[str]) -> np.ndarray:
        """Texts as rows [N, length] int32."""
        numbers = {word: number for number, word in enumerate(self.vocabulary, start=2)}
        split = [split_text(text, self.unit)[: self.length] for text in texts]
        rows = np.full((len(split), self.length), PADDING, np.int32)
        for row, tokens in zip(rows, split, strict=True):
            row[: len(tokens)] = [numbers.get(token, UNKNOWN) for token in tokens]
        return rows

    def texts(self, rows: np.ndarray) -> list[str]:
        """Rows as texts; � stands for what the vocabulary lacks."""
        entries = ("", "�", *self.vocabulary)
        join = " " if self.unit == "words" else ""
        return [join.join(entries[token] for token in row if token != PADDING) for row in rows]

    def show(self, rows: np.ndarray, names: Sequence[str] | None = None) -> Table:
        """A table of a few texts as networks see them."""
        names = [str(place) for place in range(len(rows))] if names is None else names
        return Table(list(zip(names, self.texts(rows), strict=True)), header=("", "text"))

    def write(
        self,
        rows: np.ndarray,
        folder: Path,
        about: Mapping[str, Any],
        labels: Sequence[str | int] | None = None,
    ) -> list[Path]:
        """Writes texts.jsonl, in which every line carries the mark."""
        lines = []
        for text, facts in zip(self.texts(rows), of_each(about, labels, len(rows)), strict=True):
            lines.append(json.dumps({"text": text, **record(facts)}, ensure_ascii=False) + "\n")
        path = folder / "texts.jsonl"
        write_files({path: "".join(lines).encode()})
        return [path]

    def noise(self, count: int, seed: int) -> np.ndarray:
        """Tokens drawn without looking."""
        rng = np.random.default_rng(seed)
        return rng.integers(UNKNOWN, self.size, (count, self.length), np.int32)

    def statistics(self, rows: np.ndarray) -> dict[str, Any]:
        """Size of the `vocabulary`, mean number of `tokens`, and the share of `unknown` ones."""
        tokens, unknown = (rows != PADDING).sum(), (rows == UNKNOWN).sum()
        return {
            "vocabulary": len(self.vocabulary),
            "tokens": float(tokens / max(1, len(rows))),
            "unknown": float(unknown / max(1, tokens)),
        }


def fit_tokens(texts: Sequence[str], unit: Unit, *, most: int = 30_000) -> Tokens:
    """The column of texts such as these, of the length that 99 of 100 fit into.

    Args:
      texts: for training.
      unit: what a token is.
      most: entries of the vocabulary: the most frequent ones. What occurs once is left out, so that
        training meets tokens that it does not know, as testing will.

    Raises:
      UserError: if fewer than two tokens occur twice or more often.
    """
    split = [split_text(text, unit) for text in texts]
    counts = Counter(token for tokens in split for token in tokens)
    ranked = sorted(counts, key=lambda token: (-counts[token], token))[:most]
    vocabulary = tuple(token for token in ranked if counts[token] > 1)
    if len(vocabulary) < 2:
        raise UserError(
            f"the training texts have a vocabulary of {len(vocabulary)} {unit} that occur more "
            "than once; a network needs two or more to tell texts apart"
        )
    length = int(np.ceil(np.percentile([len(tokens) for tokens in split], 99)))
    return Tokens(vocabulary, min(length, LONGEST), unit)
