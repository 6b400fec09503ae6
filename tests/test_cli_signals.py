"""Signals that come where Python can't or won't heed them: the command ends all the same."""

import os
import signal
import subprocess
import sys
import time

import pytest

SCRIPT = """
import hashlib, sys, time
from experiments import __main__ as commands, common

class Slow:
    def __del__(self):
        print("here", flush=True)
        time.sleep(60)

def call():
    print("here", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 1 << 29)  # minutes in C

def keep():
    print("here", flush=True)
    try:
        time.sleep(60)
    except BaseException:
        time.sleep(60)

def convert():
    print("here", flush=True)
    try:
        time.sleep(60)
    except BaseException as error:  # as the start of an extension module does
        raise ImportError("Encountered an error while initializing the extension.") from error

def destroy():
    Slow()
    time.sleep(60)

commands._GRACE_SECONDS = float(sys.argv[1])
common.load_data = lambda options: globals()[sys.argv[2]]()
sys.exit(commands.main(["classify", "--no-compilation-cache"]))
"""


@pytest.mark.parametrize(
    "where,grace", [("call", 0.5), ("keep", 0.5), ("destroy", 30), ("convert", 30)]
)
@pytest.mark.parametrize(
    "number,code,said", [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_ends_what_does_not_heed_it(where, grace, number, code, said):
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(grace), where],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "here\n"
        begin = time.monotonic()
        process.send_signal(number)
        assert process.wait(20) == code
        assert time.monotonic() - begin < 10
        assert process.stderr.read() == f"{said}\n"
