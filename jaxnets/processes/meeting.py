"""Where the processes of one run find each other before jax does, and learn what is wrong.

`jax.distributed` aborts a process that can't be started (SIGABRT, a stack trace, a core dump), and
waits in silence for one that never comes. So process 0 listens at the coordinator's address first;
the others connect, prove that they know the same secret, and say who they are (see
`jaxnets.processes.door`). Each of them is told "yes", or one sentence that is the same for all.
These lines then stay, for `jaxnets.processes.peers`.
"""

import contextlib
import dataclasses
import json
import math
import sys
import time
from collections.abc import Mapping
from typing import Any

from jaxnets.errors import UserError
from jaxnets.processes.door import (
    HANDSHAKE_SECONDS,
    Door,
    address_of,
    check_reach,
    connect,
    is_loopback,
    listen,
)
from jaxnets.processes.lines import Gone, Line, OtherSecret, Stranger

__all__ = ["Hello", "meet"]

#: Process 0 goes on for so long to tell those who come late why there is no run.
_TURN_AWAY_SECONDS = 3.0

_RETRY_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Hello:
    """What a process says of itself.

    Attributes:
      index: its number, from 0.
      count: how many there are, it believes.
      name: host and process number, for people.
      versions: name -> version of what must be the same everywhere.
      config: what it was told to do, as JSON types; must be the same everywhere.
    """

    index: int
    count: int
    name: str
    versions: Mapping[str, str]
    config: Mapping[str, Any]


class _Refusal(Exception):
    """Why there is no run."""


def meet(
    address: str, own: Hello, seconds: float, key: bytes | None = None
) -> tuple[dict[int, Line], list[str]]:
    """Brings the processes of a run together.

    Args:
      address: "host:port" of process 0.
      own: what this process says.
      seconds: how long it waits for the others.
      key: of the secret that all of them know (see `jaxnets.processes.lines`). Without one they
        must be on one machine or in one private network, where anyone may join or block the run.

    Returns:
      Lines to the others by their numbers: process 0 has one to each, the others have one to
      process 0. And the names of all.

    Raises:
      UserError: in every process that came, if they are not those of one run or not all came; in
        one with another secret, or a public address and none.
    """
    host, port = address_of(address)
    deadline = time.monotonic() + seconds
    if key is None:
        check_reach(host)
    if own.index:
        line, names = _join(address, own, deadline, seconds, key)
        return {0: line}, names
    listener = listen(host, port)
    if key is None and not is_loopback(host):
        _warn(
            "there is no JAXNETS_SECRET, so whoever in this private network reaches port "
            f"{port} can join or block the run; set the same in all processes"
        )
    with contextlib.closing(Door(listener, key, own.count, _warn)) as door:
        return _receive_all(door, own, deadline, seconds)


def _warn(sentence: str) -> None:
    print(f"warning: {sentence}", file=sys.stderr, flush=True)


def _receive_all(
    door: Door, own: Hello, deadline: float, seconds: float
) -> tuple[dict[int, Line], list[str]]:
    lines: dict[int, Line] = {}
    names = {0: own.name}
    with contextlib.ExitStack() as refused:
        refused.callback(lambda: [line.close() for line in lines.values()])
        try:
            while len(lines) < own.count - 1:
                arrival = _next(door, deadline)
                if arrival is None:
                    raise _Refusal(_missing(own, lines, seconds) + _turned_away(door))
                line, hello = arrival
                # It may have waited for process 0, and its time is over earlier.
                theirs = time.monotonic() + 0.9 * hello["seconds"]
                if theirs < deadline:
                    deadline, seconds = theirs, hello["timeout"]
                try:
                    _compare(own, hello, lines, names)
                except _Refusal as refusal:
                    _refuse(line, str(refusal))
                    raise
                lines[hello["index"]], names[hello["index"]] = line, hello["name"]
        except _Refusal as refusal:
            for line in lines.values():
                _refuse(line, str(refusal))
            if time.monotonic() < deadline:  # the others are on their way
                _turn_away(door, str(refusal), own.count - 1 - len(lines))
            raise UserError(str(refusal)) from None
        refused.pop_all()
    ordered = [names[i] for i in range(own.count)]
    for line in lines.values():
        with contextlib.suppress(Gone):  # that it has died is found by `jaxnets.processes.peers`
            line.send({"yes": ordered})
    return lines, ordered


def _refuse(line: Line, sentence: str) -> None:
    with contextlib.suppress(Gone):
        line.send({"no": sentence})
    line.close()


def _next(door: Door, deadline: float) -> tuple[Line, dict[str, Any]] | None:
    """The next process that comes and what it says; None if none does in time."""
    while (arrival := door.next(deadline - time.monotonic())) is not None:
        if _is_hello(arrival[1]):
            return arrival
        arrival[0].close()
    return None


def _is_hello(hello: Any) -> bool:
    """Whether what came is what `_join` sends."""
    if not isinstance(hello, dict):
        return False
    kinds = {"index": int, "count": int, "name": str, "versions": dict, "config": dict}
    kinds |= {"seconds": (int, float), "timeout": (int, float)}
    if not all(isinstance(hello.get(name), kind) for name, kind in kinds.items()):
        return False
    return (
        0 <= hello["index"] < hello["count"]
        and 0 <= hello["seconds"] < math.inf
        and 0 <= hello["timeout"] < math.inf
    )


def _turn_away(door: Door, sentence: str, expected: int) -> None:
    """Tells those who come in the next moments: they were started together with the others."""
    deadline = time.monotonic() + _TURN_AWAY_SECONDS
    while expected > 0 and (arrival := _next(door, deadline)) is not None:
        _refuse(arrival[0], sentence)
        expected -= 1


def _turned_away(door: Door) -> str:
    """What else to know where processes are missing."""
    return "".join(
        f"; one came from {address} that {why}" for why, address in door.turned_away.items()
    )


def _missing(own: Hello, lines: Mapping[int, Line], seconds: float) -> str:
    missing = [str(i) for i in range(1, own.count) if i not in lines]
    what = f"process {missing[0]}" if len(missing) == 1 else f"processes {', '.join(missing)}"
    return (
        f"{what} of {own.count} (numbers 0 to {own.count - 1}) did not come to the coordinator "
        f"within {seconds:g} s; start {'it' if len(missing) == 1 else 'them'}, or correct "
        "--process-count and --process-id"
    )


def _compare(
    own: Hello, hello: dict[str, Any], lines: dict[int, Line], names: Mapping[int, str]
) -> None:
    """Raises _Refusal if a process does not belong to this run."""
    index = hello["index"]
    for name, version in own.versions.items():
        if hello["versions"].get(name) != version:
            raise _Refusal(
                f"process {index} has {name} {hello['versions'].get(name)} and process 0 has "
                f"{version}; install the same version everywhere"
            )
    if hello["count"] != own.count:
        raise _Refusal(
            f"process {index} was started with --process-count {hello['count']} and process 0 with "
            f"{own.count}; give all of them the same"
        )
    if index in lines and lines[index].is_gone():
        lines.pop(index).close()  # it was ended and started again
    if index in names and index in {0, *lines}:
        raise _Refusal(
            f"two processes were started with --process-id {index} ({names[index]} and "
            f"{hello['name']}); give each its own of 0 to {own.count - 1}"
        )
    asked, here = hello["config"], json.loads(json.dumps(own.config))
    differ = [
        f"{name} (there {asked.get(name)!r}, in process 0 {here.get(name)!r})"
        for name in sorted({*asked, *here})
        if asked.get(name) != here.get(name)
    ]
    if differ:
        raise _Refusal(
            f"process {index} was started with another configuration: {', '.join(differ)}; start "
            "all processes with the same flags"
        )


def _join(
    address: str, own: Hello, deadline: float, seconds: float, key: bytes | None
) -> tuple[Line, list[str]]:
    host, port = address_of(address)
    why = "nobody listened there"
    nobody = "what listened there was no process 0 that waits for others"
    while (left := deadline - time.monotonic()) > 0:
        try:
            line = connect(host, port, key, min(left, HANDSHAKE_SECONDS))
        except OSError as error:
            why = f"it could not be reached ({error.strerror or error})"
        except OtherSecret as error:
            raise UserError(f"the coordinator at {address} {error}") from None
        except Stranger as error:
            why = f"it {error}"
        except Gone:
            why = nobody
        else:
            hello = {**dataclasses.asdict(own), "seconds": left, "timeout": seconds}
            try:
                line.send(hello)
                answer = line.receive(deadline - time.monotonic())
            except TimeoutError:
                answer, why = None, "it was there and did not answer"
            except (Gone, ValueError):
                answer, why = None, nobody
            if isinstance(answer, dict) and "yes" in answer:
                return line, answer["yes"]
            line.close()
            if isinstance(answer, dict) and "no" in answer:
                raise UserError(answer["no"])
        time.sleep(min(_RETRY_SECONDS, max(0.0, deadline - time.monotonic())))
    raise UserError(
        f"there is no coordinator at {address}: within {seconds:g} s, {why}; start process 0 "
        "there, or correct --coordinator"
    )
