"""The way of jax's own messages between processes: over the lines that they have already.

jax's service in process 0 and its clients in all processes know no secret, and whoever reached the
service could join the run, or end it. So it gets no port: each process has a Unix socket in a
folder that only its user can open, and what jax sends into it in one process comes out of it in
process 0, over the line of `jaxnets.processes.peers`. When jax has started in all processes, the
folder is closed: what is connected stays so.

There is another reason. jax aborts a process in the moment in which its connection to process 0
closes: a stack trace and a core dump, before anyone could say a sentence. So that the other end has
closed is not passed on.
"""

import base64
import contextlib
import itertools
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from jaxnets.files import cleaning
from jaxnets.processes.peers import Peers

__all__ = ["relayed"]

_CHUNK = 1 << 16


@contextlib.contextmanager
def relayed(peers: Peers, seconds: float) -> Iterator[str]:
    """Where jax of this process reaches the service of process 0, or opens it.

    Args:
      peers: the lines to the other processes; not started yet, so that no message is lost.
      seconds: how long process 0 waits for its own service to be there.

    Yields:
      The address, to which gRPC can connect only as long as this lasts.
    """
    # The path of a socket has hardly more than a hundred characters.
    short = None if len(tempfile.gettempdir()) < 60 else "/tmp"
    ends: dict[tuple[int, int], socket.socket] = {}

    def begin(other: int, stream: int, end: socket.socket) -> None:
        ends[other, stream] = end
        _start(_carry, end, partial(peers.send, other, kind="jax", stream=stream))

    def receive(other: int, stream: int, data: str) -> None:
        with contextlib.suppress(OSError):  # jax has closed it
            if (other, stream) not in ends:  # process 0 hears of it for the first time
                begin(other, stream, _patiently(place, time.monotonic() + seconds))
            ends[other, stream].sendall(base64.b64decode(data))

    def lead() -> None:
        """In the other processes: whoever connects to the socket is led to process 0."""
        with contextlib.suppress(OSError):  # closed: jax has started
            for stream in itertools.count():
                begin(0, stream, listener.accept()[0])

    peers.on_jax = receive
    with (
        tempfile.TemporaryDirectory(prefix="jaxnets-", dir=short) as folder,
        cleaning(partial(shutil.rmtree, folder, ignore_errors=True)),
        socket.socket(socket.AF_UNIX) as listener,
    ):
        place = str(Path(folder) / "jax")
        if peers.index:
            listener.bind(place)
            listener.listen()
            _start(lead)
        yield f"unix:{place}"


def _carry(end: socket.socket, send: Callable[..., None]) -> None:
    """Sends what comes out of one connection of jax over the line."""
    with contextlib.suppress(OSError), end:
        while data := end.recv(_CHUNK):
            send(data=base64.b64encode(data).decode())


def _patiently(place: str, deadline: float) -> socket.socket:
    """A connection to a Unix socket, as soon as it is there; raises OSError if it never is."""
    while True:
        near = socket.socket(socket.AF_UNIX)
        try:
            near.connect(place)
            return near
        except OSError:
            near.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _start(act: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=act, args=arguments, daemon=True, name="relay to jax").start()
