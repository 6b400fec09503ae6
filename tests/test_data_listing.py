"""Listings of files: whole or absent, and what they say of a folder that has changed."""

import gzip
import json

import pytest

from jaxnets.data.listing import Listing, differences, read_listing, write_listing

BEFORE = Listing({f"{name}/{i}.png": f"{name}{i}" for name in "ab" for i in range(4)}, "P 1")


def changed(**digests):
    files = {**BEFORE.files, **{f"a/{i[1:]}.png": digest for i, digest in digests.items()}}
    return Listing({name: digest for name, digest in files.items() if digest}, "P 1")


def test_a_listing_comes_back(tmp_path):
    write_listing(tmp_path / "files.json.gz", BEFORE)
    assert read_listing(tmp_path / "files.json.gz") == BEFORE
    assert [path.name for path in tmp_path.iterdir()] == ["files.json.gz"]
    first = (tmp_path / "files.json.gz").read_bytes()
    write_listing(tmp_path / "files.json.gz", BEFORE)
    assert (tmp_path / "files.json.gz").read_bytes() == first


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no gzip",
        gzip.compress(b"{"),
        gzip.compress(b"[]"),
        gzip.compress(json.dumps({"files": 3}).encode()),
    ],
    ids=["empty", "no gzip", "no JSON", "a list", "a number"],  # gzip has the time in it
)
def test_a_damaged_listing_is_none(tmp_path, content):
    path = tmp_path / "files.json.gz"
    path.write_bytes(content)
    assert read_listing(path) is None
    write_listing(path, BEFORE)
    path.write_bytes(path.read_bytes()[:-9])
    assert read_listing(path) is None
    path.unlink()
    assert read_listing(path) is None


@pytest.mark.parametrize(
    "after,words",
    [
        (changed(_0="new"), "1 file differs (a/0.png changed)"),
        (changed(_2=None), "1 file differs (a/2.png removed)"),
        (changed(_7="new"), "1 file differs (a/7.png added)"),
        (
            changed(_0="new", _1=None, _3="new", _4="new", _5="new"),
            "5 files differ (a/0.png changed, a/1.png removed, a/3.png changed and 2 more)",
        ),
    ],
)
def test_what_has_changed_is_named(after, words):
    assert differences(BEFORE, after) == words


def test_files_that_are_the_same():
    assert "P 2 makes other pixels of them than P 1 did" in differences(
        BEFORE, Listing(BEFORE.files, "P 2")
    )
    assert "prepared in another way" in differences(BEFORE, BEFORE)
