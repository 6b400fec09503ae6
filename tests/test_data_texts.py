"""Files of texts: what is read, and what is refused with the place where it stands."""

import json

import pytest

from jaxnets.data.texts import read_table, read_text
from jaxnets.errors import UserError


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_csv_tsv_and_json_lines_say_the_same(tmp_path):
    long = "x" * 200_000  # more than the csv module takes of its own accord
    expected = [("one, two\n“three”", "pos"), ("it's", "2"), (long, "neg")]
    csv = f'id,Text,LABEL\n1,"one, two\n“three”",pos\n2,it\'s,2\n3,{long}, neg\n'
    assert read_table(write(tmp_path / "a.csv", "\ufeff" + csv)) == expected
    tsv = f'sentiment\tReview\npos\t"one, two\n“three”"\n2\tit\'s\nneg\t{long}\n'
    assert read_table(write(tmp_path / "a.tsv", tsv)) == expected
    lines = [{"target": "pos", "sentence": expected[0][0]}, {"target": 2, "sentence": "it's"}]
    lines.append({"target": "neg", "sentence": long})
    text = "\n\n".join(map(json.dumps, lines))
    assert read_table(write(tmp_path / "a.jsonl", text)) == expected


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.csv", "", "holds no examples"),
        ("a.csv", "text,label\n", "holds no examples"),
        ("a.csv", "title,label\nx,1\n", "no column of the text: it has title, label; call it text"),
        ("a.csv", "text,stars\nx,1\n", "no column of the label: it has text, stars; call it label"),
        ("a.csv", "text,label\nx,1\n  ,2\n", "line 3, has an empty text"),
        ("a.csv", "text,label\nx,1\ny,\n", "line 3, has an empty label"),
        ("a.csv", "text,label\nx,1\ny\n", "line 3, has no text, or no label"),
        ("a.csv", b"text,label\n\xff\xfe,1\n", r"no text in UTF-8 \(byte 11\)"),
        ("a.csv", "text,label\n" + "y" * 10_000_000 + ",1\n", "text of 10,000,000 characters"),
        ("a.jsonl", '{"text": "x", "label": 1}\n{oops\n', "line 2, is no JSON"),
        ("a.jsonl", "[1]\n", "line 1, is no JSON object"),
        ("a.jsonl", '{"text": 3, "label": 1}\n', "line 1, has no text"),
        ("a.jsonl", '{"text": "x", "label": 0.5}\n', "line 1, has no text, or no label"),
        ("a.jsonl", "[" * 100_000, "line 1, is no JSON"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_line(tmp_path, name, content, words):
    with pytest.raises(UserError, match=words) as caught:
        read_table(write(tmp_path / name, content))
    assert str(tmp_path / name) in str(caught.value)


def test_a_text_file_is_one_text(tmp_path):
    assert read_text(write(tmp_path / "a.txt", "\ufeffone\ntwo")) == "one\ntwo"
    for content, words in (("\n \n", "empty text"), (b"\x80", "no text in UTF-8")):
        with pytest.raises(UserError, match=words):
            read_text(write(tmp_path / "b.txt", content))
    with pytest.raises(UserError, match="can't be read"):
        read_text(tmp_path / "none.txt")
