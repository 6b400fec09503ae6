"""Compiled programs kept on disk, so that a program is compiled once and not in every process."""

import os
import tempfile
from pathlib import Path

import jax

from jaxnets.errors import UserError
from jaxnets.files import cache_dir, cpu_kind

__all__ = ["OPTIONS", "enable_compilation_cache"]

#: Option of jax -> value. Programs that compile in milliseconds are kept too: a run starts some
#: forty of them before its first step, and on a busy CPU core `quickstart` was there after 4.3 s
#: with all of them kept, 4.6 s with those of 0.05 s or more, 5.9 s with those of 0.5 s or more
#: (10 to 24 s with none). All of quickstart's are 0.5 MB.
OPTIONS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
    "jax_compilation_cache_max_size": 2 << 30,
}

_LOCK, _PROGRAM, _LAST_USED = ".lockfile", "-cache", "-atime"  # jax's names
_LOCK_SECONDS = 10.0


def enable_compilation_cache(folder: str | os.PathLike[str] | None = None) -> Path:
    """Has JAX keep what it compiles from now on, and look there before it compiles.

    JAX finds an entry by the program, the compiler's version and flags, and the devices, so a
    program that was changed is compiled anew. What was used longest ago goes when the folder holds
    2 GiB. Whoever can write to the folder decides what later processes run: it is made for its
    owner alone.

    Args:
      folder: where. By default the folder that JAX is set to already (JAX_COMPILATION_CACHE_DIR),
        which is then left as it is; else `compiled`, and in it one folder for each kind of CPU,
        in the cache folder. Options that the environment sets (JAX_...) stand.

    Returns:
      The folder.

    Raises:
      UserError: if the folder can't be made or written to; JAX then goes on without.
    """
    chosen = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if folder is None and chosen:
        return Path(chosen)
    path = cache_dir() / "compiled" / cpu_kind() if folder is None else Path(folder).absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
        _drop_unfinished(path)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise UserError(
            f"compiled programs can't be kept in {path} ({why}), so every start compiles them "
            "again; set JAXNETS_CACHE to a folder of yours"
        ) from error
    from jax.experimental.compilation_cache import compilation_cache

    for name, value in OPTIONS.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    jax.config.update("jax_compilation_cache_dir", str(path))
    compilation_cache.reset_cache()  # another folder may be in use since an earlier compilation
    return path


def _drop_unfinished(folder: Path) -> None:
    """Deletes what a process left half-written: JAX would neither read it nor replace it.

    JAX writes the program first and the time of its use second, both under a lock.
    """
    import filelock

    with filelock.FileLock(folder / _LOCK, timeout=_LOCK_SECONDS):
        for one, other in ((_PROGRAM, _LAST_USED), (_LAST_USED, _PROGRAM)):
            for path in folder.glob(f"*{one}"):
                if not path.with_name(path.name.removesuffix(one) + other).exists():
                    path.unlink()
