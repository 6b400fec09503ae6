"""Signals outside the training loop: the command ends at once, whatever Python is doing."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from signals_sent import environment

SCRIPT = """
import gc, hashlib, pathlib, sys, time
from experiments.__main__ import commands
from jaxnets.commands import common
from jaxnets import files

class Slow:
    def __del__(self):
        print("here", flush=True)
        time.sleep(60)

def call():
    print("here", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 1 << 29)  # minutes in C

def destroy():
    Slow()
    time.sleep(60)

def collect():  # jax has such a callback, and an exception in one is printed and lost
    gc.callbacks.append(lambda phase, info: (print("here", flush=True), time.sleep(60)))
    gc.collect()

def write():
    pathlib.Path.write_bytes = lambda path, data: (path.touch(), print("here"), time.sleep(60))
    files.write_files({pathlib.Path("new/folder/file"): b"half"})

where = sys.argv.pop()
common.load_data = lambda *_: globals()[where]()
sys.argv += ["classify", "--no-compilation-cache"]
commands.process()
"""


@pytest.fixture
def begin(tmp_path):
    """Begins a command, and gives its process when it is where it is to be struck."""
    started = []

    def begin(where):
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, where],
            env=environment(),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "here\n", process.stderr.read()
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "where,number,code,said",
    [
        ("call", signal.SIGINT, 130, "interrupted"),
        ("destroy", signal.SIGTERM, 143, "terminated"),
        ("collect", signal.SIGTERM, 143, "terminated"),
        ("write", signal.SIGINT, 130, "interrupted"),
    ],
)
def test_a_signal_ends_a_command_wherever_it_is(where, number, code, said, begin, tmp_path):
    process = begin(where)
    process.send_signal(number)
    _, err = process.communicate(timeout=100)
    assert (process.returncode, err) == (code, f"{said}\n")
    assert list(Path(tmp_path).iterdir()) == []  # nothing half made


def test_a_ctrl_c_that_the_shell_has_a_command_ignore_is_ignored(begin):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the process inherits
    try:
        process = begin("destroy")
    finally:
        signal.signal(signal.SIGINT, before)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=100)
    assert (process.returncode, err) == (143, "terminated\n")
