"""Where jaxnets keeps what it can make again."""

import os
from pathlib import Path

__all__ = ["cache_dir"]


def cache_dir() -> Path:
    """The cache folder: $JAXNETS_CACHE, else jaxnets in the user's cache folder."""
    own = os.environ.get("JAXNETS_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "jaxnets"
