"""What the tests of commands share: small ones to run, and what is asked of them afterwards."""

import json
import shlex
import socket

import jax
import numpy as np

from experiments.__main__ import commands

TINY = shlex.split("--data digits --epochs 0.05 --batch-size 16 --devices 1 --steps-per-call 2")
CLASSIFY = ["classify", *TINY, "--network", "lenet5", "--width", "0.5", "--no-pictures"]
GENERATE = ["generate", *TINY, "--width", "0.1", "--no-accuracy-score", "--judge", "none"]


def run(*parts):
    """A command that succeeds, in lists of arguments and in lines as they are typed."""
    split = (shlex.split(part) if isinstance(part, str) else part for part in parts)
    assert commands.main([argument for part in split for argument in part]) == 0


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def assert_one_error(result, *words, after_progress=False):
    """Of what `cli` gave: exit code 2, and one line of standard error that has these words.

    Lines of progress may come before it where they are allowed.
    """
    code, _, err = result
    assert code == 2
    *before, last = err.splitlines() or [""]
    assert last.startswith("error: ") and "Traceback" not in err, err
    assert after_progress or not before, err
    for word in words:
        assert word in last


def free_port():
    """A port of this machine on which nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def newest(folder):
    """Everything in the newest checkpoint of a run, and its step."""
    import orbax.checkpoint as ocp

    steps = [int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdecimal()]
    place = (folder / "checkpoints" / str(max(steps)) / "state").absolute()
    handler = ocp.PyTreeCheckpointHandler()
    as_numpy = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(place).tree
    )
    state = handler.restore(place, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    return state, int(state["step"])
