"""Texts: what is read, how it is divided, and what is refused with the place where it stands."""

import json

import numpy as np
import pytest

from jaxnets.data import load
from jaxnets.data.sources.texts import read_table
from jaxnets.errors import UserError


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_csv_tsv_and_json_lines_say_the_same(tmp_path):
    long = "x" * 200_000  # more than the csv module takes of its own accord
    expected = [("one, two\n“three”\u2028", "pos"), ("it's", "2"), (long, "neg")]

    def examples(path):
        return [(example.text, example.label) for example in read_table(path)]

    csv = f'id,Text,LABEL\n1,"one, two\n“three”\u2028",pos\n2,it\'s,2\n3,{long}, neg\n'
    assert examples(write(tmp_path / "a.csv", "\ufeff" + csv)) == expected
    tsv = f'sentiment\tReview\npos\t"one, two\n“three”\u2028"\n2\tit\'s\nneg\t{long}\n'
    assert examples(write(tmp_path / "a.tsv", tsv)) == expected
    lines = [{"target": "pos", "sentence": expected[0][0]}, {"target": 2, "sentence": "it's"}]
    lines.append({"target": "neg", "sentence": long})
    text = "\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    assert examples(write(tmp_path / "a.jsonl", text)) == expected


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.csv", "", "holds no examples"),
        ("a.csv", "text,label\n", "holds no examples"),
        ("a.csv", "title,label\nx,1\n", "no column of the text: it has title, label; call it text"),
        ("a.csv", "text,stars\nx,1\n", "no column of the label: it has text, stars; call it label"),
        ("a.csv", b"text,label\n\xff\xfe,1\n", r"no text in UTF-8 \(byte 11\)"),
        ("a.jsonl", '{"text": "x", "label": 1}\n{oops\n', "line 2: Expecting"),
        ("a.jsonl", "[1]\n", "line 1: no JSON object"),
        ("a.jsonl", "[" * 100_000, "line 1: "),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, name, content, words):
    with pytest.raises(UserError, match=words) as caught:
        read_table(write(tmp_path / name, content))
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(
    "name, content, fault",
    [
        ("a.csv", "text,label\nx,1\n  ,2\n", "line 3: no text"),
        ("a.csv", "text,label\nx,1\ny,\n", "line 3: no label that names a class"),
        ("a.csv", "text,label\nx,1\ny\n", "line 3: no label that names a class"),
        ("a.csv", f"text,label\n{'y' * 10_000_000},1\n", "line 2: a text of 10,000,000 characters"),
        ("a.jsonl", '{"text": 3, "label": 1}\n', "line 1: no text"),
        ("a.jsonl", '{"text": "x", "label": 0.5}\n', "line 1: no label that names a class"),
    ],
)
def test_an_example_that_cannot_be_used_says_where_it_stands(tmp_path, name, content, fault):
    example = read_table(write(tmp_path / name, content))[-1]
    assert f"{example.where}: {example.fault}".startswith(f"{name} {fault}")


def table(*rows):
    return "label,text\n" + "".join(f"{label},{text}\n" for label, text in rows)


ROWS = [
    (label, f"{word} {word} {word}{i}") for i in range(5) for label, word in ((10, "a"), (9, "b"))
]


def rows_of(split):
    return sorted(split.columns["inputs"].texts(split.inputs))


def test_one_file_is_divided_before_its_words_are_known(tmp_path):
    path = write(tmp_path / "all.csv", table(*ROWS))
    dataset = load(f"texts:{path}")
    assert dataset.class_names == ("9", "10")  # numbers in their order, and from 0 on
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert (len(train), len(test)) == (8, 2)
    assert train.columns["inputs"].vocabulary == ("a", "b")
    assert rows_of(test) == ["a a �", "b b �"]
    for split in (train, test):
        np.testing.assert_array_equal(split.target, np.where(split.inputs[:, 0] == 2, 1, 0))
    # The split is there before the vocabulary: a word that only the test knows is not in it.
    assert set(dataset.columns) == {"inputs", "target"}


def test_files_and_folders_named_train_and_test_are_taken_as_they_are(tmp_path):
    tables, folders = tmp_path / "tables", tmp_path / "folders"
    tables.mkdir()
    write(tables / "train.csv", table(*ROWS))
    write(tables / "test.jsonl", '{"text": "a b z", "label": 9}\n')
    for i, (label, text) in enumerate(ROWS):
        (folders / "train" / str(label)).mkdir(parents=True, exist_ok=True)
        (folders / "test" / str(label)).mkdir(parents=True, exist_ok=True)
        write(folders / "train" / str(label) / f"{i}.txt", text)
        write(folders / "test" / str(label) / "x.txt", "a b z")
    from_tables, from_folders = load(f"texts:{tables}"), load(f"texts:{folders}")
    assert rows_of(from_tables.splits["train"]) == rows_of(from_folders.splits["train"])
    assert rows_of(from_tables.splits["test"]) == ["a b �"]
    assert len(from_folders.splits["test"]) == 2
    assert from_tables.columns["inputs"] == from_folders.columns["inputs"]


def test_bad_examples_are_named_together_or_left_out_and_counted(tmp_path):
    path = write(tmp_path / "all.csv", table(*ROWS, (9, ""), (9, " "), ("", "x"), (9, "")))
    with pytest.raises(
        UserError, match=r"4 examples that can't be used: all.csv line 12 \(no"
    ) as e:
        load(f"texts:{path}")
    assert "and 1 more; put them right or leave them out with --skip-bad" in str(e.value)
    dataset = load(f"texts:{path}", skip_bad=True)
    assert dataset.skipped == 4 and sum(map(len, dataset.splits.values())) == 10


@pytest.mark.parametrize(
    "rows, words",
    [
        ([(1, "a b")] * 3, "has texts of 1 class; it needs two or more"),
        ([(k, "spam " * (2 * n + k)) for n in range(3) for k in (1, 2)], "vocabulary of 1 words"),
        ([(1, "a b"), (2, "c d")] * 3, r"a single example \(copies count once\)"),
    ],
)
def test_what_nothing_can_be_learned_from_is_refused(tmp_path, rows, words):
    with pytest.raises(UserError, match=words):
        load(f"texts:{write(tmp_path / 'all.csv', table(*rows))}")


def test_a_class_that_only_the_test_has_is_refused(tmp_path):
    write(tmp_path / "train.csv", table(*ROWS))
    write(tmp_path / "test.csv", table((11, "a")))
    with pytest.raises(UserError, match='no text of "11" in train, but in test'):
        load(f"texts:{tmp_path}")


def test_options_of_other_kinds_are_refused(tmp_path):
    with pytest.raises(UserError, match="takes no seconds; it is for sounds:"):
        load(f"texts:{tmp_path}", seconds=1.0)
    with pytest.raises(UserError, match=r"is none of \.csv, \.tsv, \.jsonl"):
        load(f"texts:{write(tmp_path / 'a.xml', '')}")
