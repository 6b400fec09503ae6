"""Which files a data set was made of: kept, so that a run can say which of them have changed."""

import contextlib
import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from jaxnets.files import cache_dir, write_files

__all__ = ["Listing", "differences", "read_listing", "some_of", "told_bad", "write_listing"]

_NAMED = 3

#: Unusable files that are named, and reasons that they are counted by; a file has all.
_LISTED, _REASONS = 10, 5


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


def told_bad(root: Path, bad: Mapping[Path, str]) -> str:
    """How many files of a folder can't be used, why, the first of them, and where all are."""
    reasons = Counter(bad.values()).most_common()
    shown, rest = reasons[:_REASONS], reasons[_REASONS:]
    counts = [f"{count:,} {why}" for why, count in shown]
    counts += [f"{sum(n for _, n in rest):,} for {len(rest):,} other reasons"] if rest else []
    files = {str(path.relative_to(root)): why for path, why in sorted(bad.items())}
    listed = [f"{name} ({why})" for name, why in files.items()]
    what, where = ", ".join(listed), ""
    if len(listed) > _LISTED:
        what = f"{'; '.join(counts)}: {some_of(files, _LISTED)}"
        place = cache_dir() / f"unusable-{hashlib.sha256(str(root).encode()).hexdigest()[:8]}.txt"
        with contextlib.suppress(OSError):  # the list is a help, and not what was asked for
            write_files({place: "\n".join([*listed, ""]).encode("utf-8", "replace")})
            where = f" (all of them: {place})"
    return f"{len(bad):,} file{'s' * (len(bad) != 1)} that can't be used: {what}{where}"
