"""Processes that the tests start, and the signals that they send them."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from jaxnets.run import loop

BOTH = [signal.SIGINT, signal.SIGTERM]
NAMES = [number.name for number in BOTH]


def send(number):
    os.kill(os.getpid(), number)


def environment(**more):
    """That of a process which imports what the tests import."""
    root = Path(loop.__file__).parents[2]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [root, *sys.path])), **more}


@contextmanager
def python(code, **options):
    """A process that does not outlive the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        **options,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()
