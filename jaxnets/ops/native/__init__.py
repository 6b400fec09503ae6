"""Convolution kernels for CPUs, compiled on this machine at their first use.

XLA:CPU has fast matrix products and fast forward convolutions, but sends the gradients of a
convolution to a plain loop nest. `convolution.cc` holds kernels for all three, written for the
vector registers of the machine that they are built on. They are built once, with the C++ compiler
at hand (as `torch.compile` does it), in a second or a few, and kept. Without a compiler, or with
`JAXNETS_NATIVE=0` in the environment, `jaxnets.ops` uses matrix products instead: the same
numbers up to rounding, two to three times slower, and a warning says so.
"""

import ctypes
import functools
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import jax

from jaxnets.files import cache_dir, cleaning, cpu_kind

__all__ = ["TARGETS", "available", "why_not"]

logger = logging.getLogger("jaxnets")

SOURCE = Path(__file__).with_name("convolution.cc")

#: Symbols of the library, and the names under which XLA knows them.
TARGETS = (
    "jaxnets_conv",
    "jaxnets_conv_ending",
    "jaxnets_conv_input_gradient",
    "jaxnets_conv_kernel_gradient",
)

_WARNINGS = ("-Wall", "-Wextra", "-Wshadow", "-Wconversion")
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared", "-ffp-contract=fast")
_COMPILERS = ("c++", "g++", "clang++")
_SECONDS = 300  # a compiler that takes longer is taken for stuck


def available() -> bool:
    """Whether the kernels can be used in this process; builds them where they are missing."""
    return why_not() is None


@functools.cache
def why_not() -> str | None:
    """Why there are no kernels in this process, or None if there are."""
    if os.environ.get("JAXNETS_NATIVE", "1") == "0":
        return "JAXNETS_NATIVE=0 turns them off"
    try:
        _register(_built())
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        reason = _first_error(getattr(error, "stderr", None)) or str(error)
        logger.warning(
            "no CPU kernels (%s): convolutions run as matrix products, two to three times slower",
            reason,
        )
        return reason
    return None


def _register(library: Path) -> None:
    symbols = ctypes.CDLL(str(library))
    for name in TARGETS:
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(symbols, name)), platform="cpu")


def _built() -> Path:
    """The library's file, which is compiled if there is none for this source and machine."""
    compiler = _compiler()
    key = hashlib.sha256()
    for part in (SOURCE.read_bytes(), " ".join(_FLAGS), jax.__version__, cpu_kind()):
        key.update(part if isinstance(part, bytes) else part.encode())
    name = f"convolution-{key.hexdigest()[:16]}.so"
    # Beside the source, as Python keeps its own compiled files, or else in the user's cache.
    folders = [SOURCE.parent / "__pycache__", cache_dir() / "native"]
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    if compiler is None:
        raise OSError(f"no C++ compiler found: none of {', '.join(_COMPILERS)}")
    folder = next(filter(_writable, folders), None)
    if folder is None:
        raise OSError(f"none of {', '.join(map(str, folders))} can be written")
    aside = Path(tempfile.mkdtemp(dir=folder))
    with cleaning(partial(shutil.rmtree, aside, ignore_errors=True)):
        command = _command(compiler, *_FLAGS, "-o", str(aside / name))
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_SECONDS)
        if done.stderr:
            logger.info("the C++ compiler warns:\n%s", done.stderr)
        # Whole or not at all, whoever else builds it meanwhile.
        os.replace(aside / name, folder / name)
    return folder / name


def _compiler() -> str | None:
    return os.environ.get("CXX") or next(filter(shutil.which, _COMPILERS), None)


def _command(compiler: str, *args: str) -> list[str]:
    # Headers of XLA count as the system's, so that no warning comes from them.
    headers = ["-isystem", jax.ffi.include_dir()]
    return [compiler, *_WARNINGS, *headers, str(SOURCE), *args]


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _first_error(text: str | None) -> str | None:
    return next((line for line in (text or "").splitlines() if "error:" in line), None)
