"""Which files a data set was made of: kept, so that a run can say which of them have changed."""

import gzip
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from jaxnets.files import write_files

__all__ = ["Listing", "differences", "read_listing", "some_of", "write_listing"]

_NAMED = 3


@dataclass(frozen=True)
class Listing:
    """The files of a data set.

    Attributes:
      files: path inside the data set's folder -> digest of the content. Size and time of a file
        are left out: they tell no more, and a copy of the folder has other times.
      decoder: what made images of them, and its version.
    """

    files: Mapping[str, str]
    decoder: str


def write_listing(path: Path, listing: Listing) -> None:
    """Writes a listing as compressed JSON, whole or not at all (about 40 bytes a file)."""
    packed = gzip.compress(json.dumps(asdict(listing)).encode(), mtime=0)
    write_files({path: packed})


def read_listing(path: Path) -> Listing | None:
    """What `write_listing` wrote; None if it is not there, or is damaged.

    It explains an error, and must not be the cause of another.
    """
    try:
        values = json.loads(gzip.decompress(path.read_bytes()))
        return Listing(dict(values["files"]), str(values["decoder"]))
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None


def differences(before: Listing, after: Listing) -> str:
    """How two listings of a folder differ, in words that follow "because".

    Args:
      before: the earlier one.
      after: the later one.

    Returns:
      A number of files and the names of the first three; where the files are the same, what else
      it may be.
    """
    what = {}
    for name in sorted({*before.files, *after.files}):
        if name not in after.files:
            what[name] = "removed"
        elif name not in before.files:
            what[name] = "added"
        elif before.files[name] != after.files[name]:
            what[name] = "changed"
    if what:
        named = some_of(f"{name} {how}" for name, how in what.items())
        verb = "file differs" if len(what) == 1 else "files differ"
        return f"{len(what):,} {verb} ({named})"
    if before.decoder != after.decoder:
        return (
            f"its files are the same, but {after.decoder} makes other pixels of them than "
            f"{before.decoder} did"
        )
    return "its files are the same, but are prepared in another way"


def some_of(names: Iterable[str], most: int = _NAMED) -> str:
    """The first names, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - most:,} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more
