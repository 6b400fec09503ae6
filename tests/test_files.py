"""JSON files: whole or not at all, and one sentence for what can't be read."""

import json

import pytest

from jaxnets.errors import UserError
from jaxnets.files import read_json, write_json


def test_what_was_written_is_read(tmp_path):
    content = {"a": [1, 2.5, None, True], "b": {"c": "d"}}
    write_json(tmp_path / "x.json", content)
    assert read_json(tmp_path / "x.json") == content
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"a": 1} x'])
def test_what_is_no_json_is_one_sentence(content, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.json is not valid JSON") as error:
        read_json(path)
    assert "\n" not in str(error.value)


def test_what_is_missing_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"there is no .*x\.json"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize("at", ["write_bytes", "replace"])
def test_a_write_that_fails_leaves_what_was_there(at, tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_json(path, {"old": True})

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    where = "pathlib.Path.write_bytes" if at == "write_bytes" else "jaxnets.files.os.replace"
    with monkeypatch.context() as patch:
        patch.setattr(where, full)
        with pytest.raises(OSError, match="No space left"):
            write_json(path, {"new": True})
    assert json.loads(path.read_text()) == {"old": True}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    with pytest.raises(TypeError):
        write_json(path, {"new": object()})
    assert json.loads(path.read_text()) == {"old": True}
