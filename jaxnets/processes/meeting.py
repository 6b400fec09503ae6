"""Where the processes of one run find each other before jax does, and learn what is wrong.

`jax.distributed` aborts a process that can't be started (SIGABRT, a stack trace, a core dump), and
waits in silence for one that never comes. So process 0 listens at the coordinator's address first;
the others connect, prove that they know the same secret, and say who they are (see
`jaxnets.processes.door`). Each of them is told "yes", or one sentence that is the same for all.
These lines then stay, for `jaxnets.processes.peers`.
"""

import contextlib
import json
import queue
import time
from collections.abc import Mapping

from jaxnets.errors import UserError
from jaxnets.processes.door import HANDSHAKE_SECONDS, Hello, address_of, connect, listen, open_door
from jaxnets.processes.lines import Gone, Line, OtherSecret, Stranger

__all__ = ["meet"]

#: Once there can be no run, process 0 waits for so long for others that were started with it, to
#: tell them why.
_LATE_SECONDS = 3.0

_RETRY_SECONDS = 0.2


def meet(
    address: str, own: Hello, seconds: float, secret: bytes | None = None
) -> tuple[dict[int, Line], list[str]]:
    """Brings the processes of a run together.

    Args:
      address: "host:port" of process 0.
      own: what this process says.
      seconds: how long process 0 waits for the others; and the others for process 0, and then once
        more for its answer, so that they hear it whoever was started first.
      secret: that all of them know. Without one they must be on one machine or in one private
        network, where anyone may join or block the run.

    Returns:
      Lines to the others by their numbers: process 0 has one to each, the others have one to
      process 0. And the names of all.

    Raises:
      UserError: in every process that came, if they are not those of one run or not all came; in
        one with another secret, or a public address and none.
    """
    host, port = address_of(address)
    if own.index:
        line, names = _join(address, own, seconds, secret)
        return {0: line}, names
    with open_door(listen(host, port, secret), secret, own.count) as arrivals:
        return _receive_all(arrivals, own, seconds)


def _receive_all(
    arrivals: queue.SimpleQueue[tuple[Line, Hello]], own: Hello, seconds: float
) -> tuple[dict[int, Line], list[str]]:
    """Process 0: lets the others in, and tells all of them how that ended."""
    deadline = time.monotonic() + seconds
    lines: dict[int, Line] = {}
    refused: list[Line] = []
    names, wrong = {0: own.name}, None
    while len(lines) + len(refused) < own.count - 1:
        try:
            line, hello = arrivals.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            wrong = wrong or _missing(own, lines, seconds)
            break
        if hello.index in lines and lines[hello.index].is_gone():
            lines.pop(hello.index).close()  # it was ended and started again
        difference = _difference(own, hello, {i: names[i] for i in (0, *lines)})
        if difference is None:
            lines[hello.index], names[hello.index] = line, hello.name
            continue
        refused.append(line)
        if wrong is None:
            wrong = difference
            deadline = min(deadline, time.monotonic() + _LATE_SECONDS)
    ordered = [names.get(i, "") for i in range(own.count)]
    for line in (*lines.values(), *refused):
        with contextlib.suppress(Gone):  # that it has died is found by `jaxnets.processes.peers`
            line.send({"yes": ordered} if wrong is None else {"no": wrong})
        if wrong is not None:
            line.close()
    if wrong is not None:
        raise UserError(wrong)
    return lines, ordered


def _missing(own: Hello, lines: Mapping[int, Line], seconds: float) -> str:
    missing = [str(i) for i in range(1, own.count) if i not in lines]
    what = f"process {missing[0]}" if len(missing) == 1 else f"processes {', '.join(missing)}"
    return (
        f"{what} of {own.count} (numbers 0 to {own.count - 1}) did not come to the coordinator "
        f"within {seconds:g} s; start {'it' if len(missing) == 1 else 'them'}, or correct "
        "--process-count and --process-id"
    )


def _difference(own: Hello, other: Hello, names: Mapping[int, str]) -> str | None:
    """Why a process does not belong to this run; None if it does.

    Args:
      own: what process 0 says.
      other: what the process says.
      names: number -> name of those that are here.
    """
    here = json.loads(json.dumps({"--process-count": own.count, **own.setup}))
    there = {"--process-count": other.count, **other.setup}
    differ = [
        f"{name} (there {there.get(name)!r}, in process 0 {here.get(name)!r})"
        for name in sorted({*there, *here})
        if there.get(name) != here.get(name)
    ]
    if differ:
        return (
            f"process {other.index} differs from process 0: {', '.join(differ)}; install the same "
            "versions everywhere, and start all processes with the same flags"
        )
    if other.index in names:
        return (
            f"two processes were started with --process-id {other.index} ({names[other.index]} and "
            f"{other.name}); give each its own of 0 to {own.count - 1}"
        )
    return None


def _join(address: str, own: Hello, seconds: float, secret: bytes | None) -> tuple[Line, list[str]]:
    """The others: find process 0, and hear its answer."""
    host, port = address_of(address)
    deadline = time.monotonic() + seconds
    why = "nobody listened there"
    while (left := deadline - time.monotonic()) > 0:
        line = None
        try:
            line = connect(host, port, secret, min(left, HANDSHAKE_SECONDS))
            line.send(own)
            match line.receive(seconds + HANDSHAKE_SECONDS):
                case {"yes": names}:
                    return line, names
                case {"no": wrong}:
                    raise UserError(wrong)
            raise Gone
        except OtherSecret as error:
            raise UserError(f"the coordinator at {address} {error}") from None
        except Gone:
            why = "what listened there was no process 0 that waits for others"
        except Stranger as error:
            why = f"it {error}"
        except OSError as error:
            why = f"it could not be reached ({error.strerror or error})"
        if line is not None:
            line.close()
        time.sleep(min(_RETRY_SECONDS, max(0.0, deadline - time.monotonic())))
    raise UserError(
        f"there is no coordinator at {address}: within {seconds:g} s, {why}; start process 0 "
        "there, or correct --coordinator"
    )
