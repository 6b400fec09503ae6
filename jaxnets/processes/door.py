"""The door of process 0: where it listens, who may connect, and what strangers can do there.

Whoever connects shakes hands and says who it is (see `jaxnets.processes.lines`), each in a thread
of its own, so that one that is slow or silent holds nobody up. Without a secret only loopback and
private addresses may connect at all. What strangers can make process 0 keep is bounded: so many of
them at a time, so many bytes of each.
"""

import contextlib
import functools
import ipaddress
import queue
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jaxnets.errors import UserError
from jaxnets.processes.lines import Gone, Line, Stranger

__all__ = ["Hello", "address_of", "connect", "listen", "open_door"]

#: So long may it take to shake hands and to say who one is.
HANDSHAKE_SECONDS = 5.0

#: So many may do that at a time, besides the processes that are expected; the next have to wait.
_PLACES = 64
_LONGEST_HELLO = 1 << 20

_OUTSIDE = "has no address of a private network, and without a JAXNETS_SECRET it needs one"


class Hello(NamedTuple):
    """What a process says of itself.

    Attributes:
      index: its number, from 0.
      count: how many there are, it believes.
      name: host and process number, for people.
      setup: what must be the same everywhere, as JSON types: versions, and what it was told to do.
    """

    index: int
    count: int
    name: str
    setup: dict[str, Any]


@functools.lru_cache
def warn(sentence: str) -> None:
    """Says something to people, and the same only once."""
    print(f"warning: {sentence}", file=sys.stderr, flush=True)


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


def is_trusted(address: str) -> bool:
    """Whether an address is of this machine or of a private network."""
    return _parse(address).is_private


def is_loopback(host: str) -> bool:
    """Whether a host's name says that it is this machine, whoever reads it."""
    try:
        return host == "localhost" or _parse(host).is_loopback
    except ValueError:
        return False


def _parse(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    parsed = ipaddress.ip_address(address)
    # An IPv6 socket has IPv4 addresses in this form.
    return getattr(parsed, "ipv4_mapped", None) or parsed


def addresses_of(host: str, secret: bytes | None) -> list[str]:
    """The addresses of a coordinator that may be used: without a secret, the trusted ones.

    Raises:
      OSError: if it has none at all.
      UserError: if all of them are public and there is no secret.
    """
    try:
        addresses = [str(entry[4][0]) for entry in socket.getaddrinfo(host, None)]
    except UnicodeError:
        raise OSError(f"{host!r} is no name of a host") from None
    usable = [one for one in addresses if secret is not None or is_trusted(one)]
    if not usable:
        raise UserError(
            f"the coordinator {host} ({addresses[0]}) is on a public network, where anyone may "
            "connect; set JAXNETS_SECRET to the same 16 or more characters in all processes"
        )
    return list(dict.fromkeys(usable))


def listen(host: str, port: int, secret: bytes | None) -> socket.socket:
    """Listens on a port of this machine: on loopback alone if the host is named so, or everywhere.

    Raises:
      UserError: if it cannot, or if the host is public and there is no secret.
    """
    with contextlib.suppress(OSError):  # the others will say that it has no address
        addresses_of(host, secret)
    if secret is None and not is_loopback(host):
        warn(
            "there is no JAXNETS_SECRET, so whoever in this private network reaches port "
            f"{port} can join or block the run; set the same in all processes"
        )
    place = ("::1" if ":" in host else "127.0.0.1") if is_loopback(host) else ""
    dual = not place and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual or ":" in place else socket.AF_INET
    try:
        # With SO_REUSEADDR: the lines live on while the next listens on the port.
        return socket.create_server((place, port), family=family, dualstack_ipv6=dual, backlog=1024)
    except OSError as error:
        raise UserError(
            f"process 0 cannot listen on port {port} of this machine: {error.strerror}; another "
            "process 0 or another program may have it, so choose another port for --coordinator"
        ) from error


def connect(host: str, port: int, secret: bytes | None, seconds: float) -> Line:
    """A line to process 0, after a handshake.

    Raises:
      OSError: if nobody listens there.
      Gone, Stranger: if it is not process 0 that does.
      UserError: as `addresses_of`.
    """
    connection = _open(addresses_of(host, secret), port, seconds)
    # On one machine, TCP may give a connection to a port where nobody listens that very port, and
    # connect it to itself. Closed without a trace, it leaves the port to process 0.
    if connection.getsockname() == connection.getpeername():
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        raise ConnectionRefusedError(111, "Connection refused")
    line = Line(connection)
    with line.closed_after(seconds):
        line.shake_hands(secret, hosts=False)
    return line


def _open(addresses: Sequence[str], port: int, seconds: float) -> socket.socket:
    """Connects to the first address that answers."""
    try:
        return socket.create_connection((addresses[0], port), timeout=seconds)
    except OSError:
        if not addresses[1:]:
            raise
    return _open(addresses[1:], port, seconds)


@contextlib.contextmanager
def open_door(
    listener: socket.socket, secret: bytes | None, expected: int
) -> Iterator[queue.SimpleQueue[tuple[Line, Hello]]]:
    """Lets those in that can prove they belong to the run, and turns strangers away.

    Args:
      listener: where they connect; closed in the end.
      secret: what they must know, None without one.
      expected: how many processes will connect.

    Yields:
      Who has come in. A line that nobody takes out of it closes by itself when the door does.
    """
    arrivals: queue.SimpleQueue[tuple[Line, Hello]] = queue.SimpleQueue()

    def keep() -> None:
        while listener.fileno() >= 0:
            try:
                connection, address = listener.accept()
                _admit(Line(connection), str(_parse(address[0])), secret, arrivals)
            except TimeoutError:  # nobody came
                pass
            except OSError:  # closed, or out of file descriptors
                time.sleep(0.05)

    # They wake up from time to time, where closing the socket does not wake them.
    listener.settimeout(1.0)
    for _ in range(_PLACES + expected):
        threading.Thread(target=keep, daemon=True, name="door").start()
    try:
        yield arrivals
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _admit(
    line: Line, address: str, secret: bytes | None, arrivals: queue.SimpleQueue[tuple[Line, Hello]]
) -> None:
    """Shakes hands and hears who it is, or closes the line."""
    try:
        if secret is None and not is_trusted(address):
            raise Stranger(_OUTSIDE)
        with line.closed_after(HANDSHAKE_SECONDS):
            line.shake_hands(secret, hosts=True)
            message = line.receive(longest=_LONGEST_HELLO)
        match message:
            case [int(index), int(count), str(name), dict(setup)] if 0 <= index < count:
                return arrivals.put((line, Hello(index, count, name, setup)))
        raise Stranger
    except Stranger as error:
        warn(f"the process at {address} is turned away: it {error}")
    except (Gone, OSError):  # it may be a process that was ended
        pass
    line.close()
