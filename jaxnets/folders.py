"""Where jaxnets keeps what it can make again, and for which machine it was made."""

import hashlib
import os
import platform
from pathlib import Path

from jaxnets.errors import UserError

__all__ = ["cache_dir", "cpu_kind"]


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
