"""Texts as rows of a vocabulary, and back."""

import json
from dataclasses import replace

import numpy as np
import pytest

from jaxnets.columns.tokens import Tokens, fit_tokens, split_text
from jaxnets.errors import UserError

TEXTS = ["A good film, a GOOD one!", "not a bad film", "don't!"]


def test_words_are_lower_case_with_their_apostrophes_and_marks_stand_alone():
    words = ["don't", "stop", "—", "o'neill's", "2", "."]
    assert split_text("Don't stop—O'Neill's 2.", "words") == words
    assert split_text("Ab c", "characters") == ["A", "b", " ", "c"]


def test_a_vocabulary_is_what_occurs_twice_the_most_frequent_first():
    column = fit_tokens(TEXTS, "words")
    assert column.vocabulary == ("a", "!", "film", "good")
    assert column.length == 8 and column.size == 6
    assert fit_tokens(TEXTS, "words", most=2).vocabulary == ("a", "!")


def test_texts_come_back_but_for_what_is_unknown_or_too_long():
    column = replace(fit_tokens(TEXTS, "words"), length=4)
    rows = column.rows(["a good dog", "", "a a a a a"])
    np.testing.assert_array_equal(rows, [[2, 5, 1, 0], [0, 0, 0, 0], [2, 2, 2, 2]])
    assert rows.dtype == column.stored
    assert column.texts(rows) == ["a good �", "", "a a a a"]
    characters = fit_tokens(["abab", "ba"], "characters")
    assert characters.texts(characters.rows(["abba"])) == ["abba"]


def test_a_vocabulary_of_one_word_is_refused():
    with pytest.raises(UserError, match="vocabulary of 1 words that occur more than once"):
        fit_tokens(["spam spam", "spam"], "words")


def test_a_token_outside_the_vocabulary_is_named_with_its_text():
    column = Tokens(("a", "b"), 2)
    column.check(np.array([[0, 3]], np.int32), "x")
    with pytest.raises(UserError, match=r"text 1 in the split has a token outside 0\.\.3"):
        column.check(np.array([[0, 1], [4, 0], [-1, 0]], np.int32), "the split")


def test_every_line_of_a_file_carries_the_mark(tmp_path):
    column = fit_tokens(TEXTS, "words")
    (path,) = column.write(column.rows(TEXTS[:2]), tmp_path, {"seed": 3}, labels=["pos", "neg"])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["label"] for line in lines] == ["pos", "neg"]
    assert all(line["synthetic"] is True and line["seed"] == 3 for line in lines)
    assert lines[1]["text"] == "� a � film"


def test_noise_is_of_the_vocabulary_without_padding():
    column = fit_tokens(TEXTS, "words")
    rows = column.noise(50, 0)
    column.check(rows, "noise")
    assert rows.shape == (50, 8) and set(np.unique(rows)) == {1, 2, 3, 4, 5}
    np.testing.assert_array_equal(rows, column.noise(50, 0))


def test_statistics_and_a_table_tell_what_networks_see():
    column = replace(fit_tokens(TEXTS, "words"), length=4)
    rows = column.rows(["a good dog", "film film film film"])
    assert column.statistics(rows) == {
        "vocabulary": 4,
        "tokens": 3.5,
        "unknown": 1 / 7,
    }
    assert column.show(rows, ["x", "y"]).rows == [("x", "a good �"), ("y", "film film film film")]
