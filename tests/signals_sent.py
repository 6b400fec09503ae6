"""What the tests of signals share: sending them, and processes that get them."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from jaxnets import loop

BOTH = [signal.SIGINT, signal.SIGTERM]
NAMES = [number.name for number in BOTH]


def send(number):
    os.kill(os.getpid(), number)


@contextmanager
def python(code, **options):
    """A process that does not outlive the block."""
    path = os.pathsep.join([str(Path(loop.__file__).parents[1]), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        **options,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()
