"""The way of jax's own messages between processes: over signed lines, not over a port of its own.

jax's service in process 0 and its clients in all processes know no secret, and whoever reached the
service could join the run, or end it. So it gets no port: each process has a Unix socket in a
folder that only its user can open, and what jax sends into it in one process comes out of it in
process 0, over a line as that of `jaxnets.meeting`. When jax has started in all processes, the
folder and the port are closed: what is connected stays so.

There is another reason. jax aborts a process in the moment in which its connection to process 0
closes: a stack trace and a core dump, before anyone could say a sentence. So that the other end has
closed is not passed on.
"""

import contextlib
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from jaxnets.door import HANDSHAKE_SECONDS, Door, connect, listen
from jaxnets.files import cleaning
from jaxnets.lines import Gone, Line, Stranger

__all__ = ["relayed"]

T = TypeVar("T")

_CHUNK = 1 << 16


@contextlib.contextmanager
def relayed(
    host: str, port: int, key: bytes | None, *, index: int, count: int, seconds: float
) -> Iterator[str]:
    """Where jax of this process reaches the service of process 0, or opens it.

    Args:
      host: where process 0 listens.
      port: at which port.
      key: of the secret, as for `jaxnets.meeting.meet`.
      index: number of this process.
      count: how many there are.
      seconds: how long it tries to reach what may not be there yet.

    Yields:
      The address, to which gRPC can connect only as long as this lasts.
    """
    # The path of a socket has hardly more than a hundred characters.
    short = None if len(tempfile.gettempdir()) < 60 else "/tmp"
    with (
        tempfile.TemporaryDirectory(prefix="jaxnets-", dir=short) as folder,
        cleaning(partial(shutil.rmtree, folder, ignore_errors=True)),
    ):
        place = str(Path(folder) / "jax")
        if index == 0:
            source = contextlib.closing(Door(listen(host, port), key, count))
        else:
            source = socket.socket(socket.AF_UNIX)
        with source as near:
            if isinstance(near, Door):
                _start(_serve, near, place, seconds)
            else:
                near.bind(place)
                near.listen()
                _start(_lead, near, lambda: connect(host, port, key, HANDSHAKE_SECONDS), seconds)
            yield f"unix:{place}"


#: The first message of a line of this kind.
_SAID = {"carries": "jax"}


def _serve(door: Door, place: str, seconds: float) -> None:
    """In process 0: every line that comes in leads to the service."""

    def carry(line: Line) -> None:
        service = _patiently(lambda: _open(place), time.monotonic() + seconds)
        if service is None:
            return line.close()
        _start(_to_socket, line, service)
        _to_line(service, line)
        service.close()

    while (found := door.next(None)) is not None:
        line, said = found
        if said == _SAID:
            _start(carry, line)
        else:
            line.close()


def _lead(listener: socket.socket, reach: Callable[[], Line], seconds: float) -> None:
    """In the others: whoever connects to the socket is led to process 0."""
    deadline = time.monotonic() + seconds

    def carry(near: socket.socket) -> None:
        line = _patiently(reach, deadline)
        if line is None:
            return near.close()
        with contextlib.suppress(Gone):
            line.send(_SAID)
        _start(_to_socket, line, near)
        _to_line(near, line)
        with contextlib.suppress(OSError):  # keeps it open until jax closes it
            while near.recv(_CHUNK):
                pass
        near.close()

    with contextlib.suppress(OSError):  # closed: jax has started
        while True:
            _start(carry, listener.accept()[0])


def _open(place: str) -> socket.socket:
    found = socket.socket(socket.AF_UNIX)
    try:
        found.connect(place)
    except OSError:
        found.close()
        raise
    return found


def _patiently(act: Callable[[], T], deadline: float) -> T | None:
    """What a function gives as soon as the other end is there; None if it never is."""
    while True:
        try:
            return act()
        except (OSError, Gone, Stranger):
            if time.monotonic() > deadline:
                return None
            time.sleep(0.05)


def _to_line(source: socket.socket, line: Line) -> None:
    with contextlib.suppress(OSError, Gone):
        while data := source.recv(_CHUNK):
            line.send_bytes(data)
    line.close()


def _to_socket(line: Line, sink: socket.socket) -> None:
    with contextlib.suppress(OSError, Gone, ValueError):
        while True:
            sink.sendall(line.receive_bytes(None))
    line.close()


def _start(act: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=act, args=arguments, daemon=True, name="relay to jax").start()
