"""Processes of one run as the tests of `jaxnets.processes` make them: threads of this one."""

import contextlib
import socket
from concurrent.futures import ThreadPoolExecutor

from jaxnets.processes.door import Hello

SECRET = b"correct horse battery staple"

#: Nothing takes so many seconds, unless someone can hold it up.
LONG = 60.0


def hello(index, count=2, **changes):
    """What process `index` of here says of itself."""
    setup = {"jaxnets": "1", "seed": 0, "width": None, **changes}
    return Hello(index, count, f"process 1{index} of here", setup)


def in_threads(function, *arguments):
    """What a function gives for each, all at the same time."""
    with ThreadPoolExecutor(len(arguments[0])) as pool:
        return list(pool.map(function, *arguments))


def visit(port):
    """A connection to a port of this machine, as soon as someone listens there."""
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            connection = socket.create_connection(("127.0.0.1", port), timeout=LONG)
            if connection.getsockname() != connection.getpeername():
                return connection
            connection.close()
