"""Files: read with one sentence for an error, written whole or not at all; the cache folder."""

import contextlib
import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from jaxnets.errors import UserError

__all__ = [
    "cache_dir",
    "check_path",
    "check_writable",
    "clean_up",
    "cleaning",
    "cpu_kind",
    "json_digest",
    "new_folder",
    "read_json",
    "write_files",
    "write_json",
]


_cleanings: dict[object, Callable[[], object]] = {}


@contextlib.contextmanager
def cleaning(clean: Callable[[], object]) -> Iterator[None]:
    """Calls a function when the block ends, or when a signal ends the process in it.

    A process that a signal ends runs no `finally`: see `jaxnets.run.interruption.Watchdog`.
    """
    key = object()
    _cleanings[key] = clean
    try:
        yield
    finally:
        try:
            clean()
        finally:
            del _cleanings[key]


def clean_up() -> None:
    """Calls what `cleaning` would, the innermost first; for the end of the process, in a thread."""
    for clean in reversed(list(_cleanings.values())):
        with contextlib.suppress(Exception):
            clean()


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
      UserError: if the file is missing, or not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"there is no {path}") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    except RecursionError as error:
        raise UserError(f"{path} is not valid JSON: it is nested too deeply") from error


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file whole or not at all.

    Raises:
      OSError: if it can't be written; its `filename` is the file's, whichever call failed.
    """
    write_files({path: (json.dumps(content, indent=2) + "\n").encode()})


def json_digest(content: Any) -> str:
    """SHA-256 in hexadecimal of content as JSON, in whatever order its keys are."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Writes files all together or none of them, and makes the folders that they need.

    Each is written beside its place first, and they are renamed when all of them are on disk. A
    full disk leaves what was there before, and no folder that was not.

    Args:
      contents: what each file holds.

    Raises:
      OSError: if one can't be written; its `filename` is the file's, whichever call failed.
    """
    with contextlib.ExitStack() as stack:
        fresh: dict[Path, Path] = {}
        for path, content in contents.items():
            try:
                stack.enter_context(new_folder(path.parent))
                fresh[path] = path.with_name(f".{path.name}.{os.getpid()}.tmp")
                stack.enter_context(cleaning(partial(fresh[path].unlink, missing_ok=True)))
                fresh[path].write_bytes(content)
            except OSError as error:  # a write that fails does not know the file's name
                raise OSError(error.errno, error.strerror, str(path)) from error
        for path, written in fresh.items():
            try:
                os.replace(written, path)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Makes a folder and those above it; what it made is gone again if the block fails.

    Of what it made, a folder that holds something stays.
    """
    missing = []
    above = folder
    while not above.exists():
        missing.append(above)
        above = above.parent

    def remove() -> None:
        for made in missing:
            with contextlib.suppress(OSError):
                made.rmdir()

    with cleaning(remove):
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        missing.clear()


def check_path(path: Path | str, what: str) -> None:
    """Fails for a text that no file or folder can be named.

    Raises:
      UserError: if there is a NUL byte in it, or what is no text.
    """
    if "\0" in str(path):
        raise UserError(f"{what} {str(path)!r} has a NUL character in it; choose another path")
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{what} {str(path)!r} is not valid UTF-8; choose another path") from error


def check_writable(path: Path, what: str) -> None:
    """Fails, before there is work that could be lost, where a file can't be written; makes nothing.

    Args:
      path: of the file. Folders above it may be missing.
      what: the flag that named it, for the error.

    Raises:
      UserError: if it is a folder or a device, lies below a file, or nothing can be made where it
        is to be.
    """
    check_path(path, what)
    try:
        if path.is_dir():
            raise UserError(f"{what} {path} is a folder; name a file in it")
        if path.exists() and not path.is_file():  # a device, which would be replaced by a file
            raise UserError(f"{what} {path} is no regular file; choose another path")
        above = path.parent
        while not above.exists():
            above = above.parent
        if not above.is_dir():
            raise UserError(
                f"{what} {path} lies below {above}, which is a file; choose another path"
            )
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise UserError(
            f"{what} {path} cannot be written: {error.strerror}; choose another path"
        ) from error


def cache_dir() -> Path:
    """The cache folder: $JAXNETS_CACHE, else jaxnets in the user's cache folder.

    Raises:
      UserError: if $JAXNETS_CACHE lies in the home of a user that there is not.
    """
    own = os.environ.get("JAXNETS_CACHE")
    if own:
        try:
            return Path(own).expanduser().absolute()
        except RuntimeError as error:  # ~NAME, and there is no such user
            raise UserError(
                f"JAXNETS_CACHE names {own}, in the home of no known user; set it to a folder of "
                "yours"
            ) from error
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "jaxnets"


def cpu_kind() -> str:
    """A name for the kind of CPU, equal where code compiled for the one runs on the other.

    A compiler may use whatever the CPU has that it runs on, and a home folder may serve machines of
    several kinds.
    """
    facts = [platform.machine(), platform.processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    kinds = ("model name", "flags", "Features", "CPU part")
    facts += sorted({line for line in lines if line.startswith(kinds)})
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]
