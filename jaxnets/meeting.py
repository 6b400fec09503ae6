"""Where the processes of one run find each other before jax does, and learn what is wrong.

`jax.distributed` aborts a process that can't be started (SIGABRT, a stack trace, a core dump), and
waits in silence for one that never comes. So process 0 listens at the coordinator's address first;
the others connect and say who they are, and each of them is told "yes", or one sentence that is
the same for all. These connections then stay, for `jaxnets.peers`.
"""

import contextlib
import dataclasses
import json
import select
import socket
import struct
import threading
import time
from collections.abc import Mapping
from typing import Any

from jaxnets.errors import UserError

__all__ = ["Gone", "Hello", "Line", "address_of", "meet"]

#: Longest message, so that what is not a process of jaxnets can't fill the memory.
_LONGEST = 1 << 24

#: Process 0 goes on for so long to tell those who come late why there is no run.
_TURN_AWAY_SECONDS = 3.0

_RETRY_SECONDS = 0.2
_PROTOCOL = "jaxnets processes 1"


class Gone(Exception):
    """The other end of a line was closed, or its process has ended."""


class Line:
    """A TCP connection that carries JSON values in both directions, one a line.

    One thread may receive while others send.
    """

    def __init__(self, connection: socket.socket):
        connection.setblocking(True)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket, self._buffer = connection, b""
        self._sending = threading.Lock()

    def send(self, value: Any) -> None:
        """Sends a value of JSON types.

        Raises:
          Gone: if there is no one to receive it.
        """
        data = json.dumps(value).encode() + b"\n"
        try:
            with self._sending:
                self._socket.sendall(data)
        except OSError as error:
            raise Gone from error

    def receive(self, seconds: float) -> Any:
        """The next value.

        Raises:
          TimeoutError: if none has come after so many seconds.
          Gone: if none will come.
          ValueError: if what came is no JSON.
        """
        deadline = time.monotonic() + seconds
        ready = select.poll()
        while b"\n" not in self._buffer:
            left = max(0.0, deadline - time.monotonic())
            try:
                ready.register(self._socket, select.POLLIN)
                if not ready.poll(left * 1000):
                    raise TimeoutError
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                raise
            except (OSError, ValueError) as error:  # closed: here, or at the other end
                raise Gone from error
            if not data:
                raise Gone
            self._buffer += data
            if len(self._buffer) > _LONGEST:
                raise ValueError("a message without an end")
        first, self._buffer = self._buffer.split(b"\n", 1)
        return json.loads(first)

    def is_gone(self) -> bool:
        """Whether the other end has closed it; to be asked between messages."""
        try:
            return self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        """Closes it; the other end, and a thread that listens at this one, find it gone."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


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


def address_of(text: str) -> tuple[str, int]:
    """Host and port out of "host:port" or "[address]:port".

    Raises:
      UserError: if it is neither.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise UserError(f"the coordinator must be HOST:PORT with a port in 1..65535, got {text!r}")
    return host, int(port)


def meet(address: str, own: Hello, seconds: float) -> tuple[dict[int, Line], list[str]]:
    """Brings the processes of a run together.

    Args:
      address: "host:port" of process 0.
      own: what this process says.
      seconds: how long it waits for the others.

    Returns:
      Lines to the others by their numbers: process 0 has one to each, the others have one to
      process 0. And the names of all.

    Raises:
      UserError: in every process that came, if they are not those of one run or not all came.
    """
    host, port = address_of(address)
    deadline = time.monotonic() + seconds
    if own.index == 0:
        return _receive_all(port, own, deadline, seconds)
    line, names = _join(host, port, address, own, deadline, seconds)
    return {0: line}, names


def _listener(port: int) -> socket.socket:
    """Listens on every address of this machine, as jax's own service will do afterwards."""
    try:
        # With SO_REUSEADDR, so that jax can listen on the port while our connections live on.
        if socket.has_dualstack_ipv6():
            return socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
            )
        return socket.create_server(("", port), backlog=1024)
    except OSError as error:
        raise UserError(
            f"process 0 cannot listen on port {port} of this machine: {error.strerror}; another "
            "process 0 or another program may have it, so choose another port for --coordinator"
        ) from error


def _receive_all(
    port: int, own: Hello, deadline: float, seconds: float
) -> tuple[dict[int, Line], list[str]]:
    lines: dict[int, Line] = {}
    names = {0: own.name}
    with _listener(port) as listener, contextlib.ExitStack() as refused:
        refused.callback(lambda: [line.close() for line in lines.values()])
        try:
            while len(lines) < own.count - 1:
                found = _next(listener, deadline)
                if found is None:
                    raise _Refusal(_missing(own, lines, seconds))
                line, said = found
                # It may have waited for process 0, and its time is over earlier.
                theirs = time.monotonic() + 0.9 * said["seconds"]
                if theirs < deadline:
                    deadline, seconds = theirs, said["timeout"]
                try:
                    _compare(own, said, lines, names)
                except _Refusal as refusal:
                    _refuse(line, str(refusal))
                    raise
                lines[said["index"]], names[said["index"]] = line, said["name"]
        except _Refusal as refusal:
            for line in lines.values():
                _refuse(line, str(refusal))
            if time.monotonic() < deadline:  # the others are on their way
                _turn_away(listener, str(refusal), own.count - 1 - len(lines))
            raise UserError(str(refusal)) from None
        refused.pop_all()
    ordered = [names[i] for i in range(own.count)]
    for line in lines.values():
        with contextlib.suppress(Gone):  # that it has died is found by `jaxnets.peers`
            line.send({"yes": ordered})
    return lines, ordered


def _refuse(line: Line, sentence: str) -> None:
    with contextlib.suppress(Gone):
        line.send({"no": sentence})
    line.close()


def _next(listener: socket.socket, deadline: float) -> tuple[Line, dict[str, Any]] | None:
    """The next process that comes and what it says; None if none does in time."""
    while (left := deadline - time.monotonic()) > 0:
        listener.settimeout(left)
        try:
            line = Line(listener.accept()[0])
        except TimeoutError:
            return None
        try:
            said = line.receive(2.0)
            if isinstance(said, dict) and said.get("protocol") == _PROTOCOL:
                return line, said
        except (TimeoutError, Gone, ValueError):
            pass  # a port scanner, a health check: not one of ours
        line.close()
    return None


def _turn_away(listener: socket.socket, sentence: str, expected: int) -> None:
    """Tells those who come in the next moments: they were started together with the others."""
    deadline = time.monotonic() + _TURN_AWAY_SECONDS
    while expected > 0 and (found := _next(listener, deadline)) is not None:
        _refuse(found[0], sentence)
        expected -= 1


def _missing(own: Hello, lines: Mapping[int, Line], seconds: float) -> str:
    missing = [str(i) for i in range(1, own.count) if i not in lines]
    what = f"process {missing[0]}" if len(missing) == 1 else f"processes {', '.join(missing)}"
    return (
        f"{what} of {own.count} (numbers 0 to {own.count - 1}) did not come to the coordinator "
        f"within {seconds:g} s; start {'it' if len(missing) == 1 else 'them'}, or correct "
        "--process-count and --process-id"
    )


def _compare(
    own: Hello, said: dict[str, Any], lines: dict[int, Line], names: Mapping[int, str]
) -> None:
    """Raises _Refusal if a process does not belong to this run."""
    index = said["index"]
    for name, version in own.versions.items():
        if said["versions"].get(name) != version:
            raise _Refusal(
                f"process {index} has {name} {said['versions'].get(name)} and process 0 has "
                f"{version}; install the same version everywhere"
            )
    if said["count"] != own.count:
        raise _Refusal(
            f"process {index} was started with --process-count {said['count']} and process 0 with "
            f"{own.count}; give all of them the same"
        )
    if index in lines and lines[index].is_gone():
        lines.pop(index).close()  # it was ended and started again
    if index in names and index in {0, *lines}:
        raise _Refusal(
            f"two processes were started with --process-id {index} ({names[index]} and "
            f"{said['name']}); give each its own of 0 to {own.count - 1}"
        )
    asked, here = said["config"], json.loads(json.dumps(own.config))
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
    host: str, port: int, address: str, own: Hello, deadline: float, seconds: float
) -> tuple[Line, list[str]]:
    why = "nobody listened there"
    while (left := deadline - time.monotonic()) > 0:
        try:
            line = _connect(host, port, min(left, 5.0))
        except OSError as error:
            why = f"it could not be reached ({error.strerror or error})"
        else:
            said = {**dataclasses.asdict(own), "protocol": _PROTOCOL}
            said |= {"seconds": left, "timeout": seconds}
            try:
                line.send(said)
                answer = line.receive(deadline - time.monotonic())
            except TimeoutError:
                answer, why = None, "it was there and did not answer"
            except (Gone, ValueError):
                answer, why = None, "what listened there was no process 0 that waits for others"
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


def _connect(host: str, port: int, seconds: float) -> Line:
    connection = socket.create_connection((host, port), timeout=seconds)
    # On one machine, TCP may give a connection to a port where nobody listens that very port, and
    # connect it to itself. Closed without a trace, it leaves the port to process 0.
    if connection.getsockname() == connection.getpeername():
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        raise ConnectionRefusedError(111, "Connection refused")
    return Line(connection)
