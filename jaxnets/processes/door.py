"""The door of process 0: where it listens, who may connect, and what strangers can do there.

Whoever connects shakes hands first (see `jaxnets.processes.lines`), each in a thread of its own, so
that one that is slow or silent holds nobody up; there are only so many at a time, and the oldest
has to go for the next. Without a secret only loopback and private addresses may connect at all.
"""

import contextlib
import ipaddress
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

from jaxnets.errors import UserError
from jaxnets.processes.lines import Gone, Line, Stranger

__all__ = ["Door", "address_of", "connect", "is_loopback", "listen"]

#: So long may it take to shake hands and to send the first message.
HANDSHAKE_SECONDS = 5.0

#: So many may do that at a time, besides the processes that are expected, and the message may be
#: so long: what strangers can make process 0 keep.
_PENDING = 64
_LONGEST_FIRST = 1 << 20

#: Loopback, private use (RFC 1918, RFC 4193), link-local, and "every address", as process 0 may be
#: told. Not `is_private` of `ipaddress`: it differs between versions of Python, and takes in
#: networks that lead elsewhere.
_TRUSTED = [
    ipaddress.ip_network(network)
    for network in (
        *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"),
        *("::1/128", "fc00::/7", "fe80::/10", "0.0.0.0/32", "::/128"),
    )
]
_OUTSIDE = "has no address of a private network, and without a JAXNETS_SECRET it needs one"


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
    parsed = _parse(address)
    return any(parsed.version == net.version and parsed in net for net in _TRUSTED)


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


def check_reach(host: str) -> None:
    """Without a secret: refuses a coordinator that has none but public addresses.

    Raises:
      UserError: if it has.
    """
    try:
        addresses = [str(entry[4][0]) for entry in socket.getaddrinfo(host, None)]
    except (OSError, UnicodeError):  # whoever tries to connect will say so
        return
    if not any(map(is_trusted, addresses)):
        raise UserError(
            f"the coordinator {host} ({addresses[0]}) is on a public network, where anyone may "
            "connect; set JAXNETS_SECRET to the same 16 or more characters in all processes"
        )


def listen(host: str, port: int) -> socket.socket:
    """Listens on a port of this machine: on loopback alone if the host is named so, or everywhere.

    Raises:
      UserError: if it cannot.
    """
    place = ("::1" if ":" in host else "127.0.0.1") if is_loopback(host) else ""
    family = socket.AF_INET6 if ":" in place else socket.AF_INET
    try:
        # With SO_REUSEADDR: the lines live on while the next listens on the port.
        if not place and socket.has_dualstack_ipv6():
            return socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
            )
        return socket.create_server((place, port), family=family, backlog=1024)
    except OSError as error:
        raise UserError(
            f"process 0 cannot listen on port {port} of this machine: {error.strerror}; another "
            "process 0 or another program may have it, so choose another port for --coordinator"
        ) from error


def connect(host: str, port: int, key: bytes | None, seconds: float) -> Line:
    """A line to process 0, after a handshake.

    Raises:
      OSError: if nobody listens there.
      Gone, Stranger: if it is not process 0 that does.
    """
    deadline = time.monotonic() + seconds
    connection = _open(host, port, key is not None, seconds)
    # On one machine, TCP may give a connection to a port where nobody listens that very port, and
    # connect it to itself. Closed without a trace, it leaves the port to process 0.
    if connection.getsockname() == connection.getpeername():
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        raise ConnectionRefusedError(111, "Connection refused")
    line = Line(connection)
    try:
        line.shake_hands(key, deadline - time.monotonic(), hosts=False)
    except BaseException as error:
        line.close()
        if isinstance(error, TimeoutError):
            raise Stranger("was there and did not answer") from None
        raise
    return line


def _open(host: str, port: int, anywhere: bool, seconds: float) -> socket.socket:
    """Connects to the first address of a host that answers, anywhere or in trusted networks."""
    try:
        addresses = [entry[4] for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except UnicodeError:
        raise OSError(f"{host!r} is no name of a host") from None
    error = OSError(f"it {_OUTSIDE}")
    for address in addresses:
        name = str(address[0])
        if anywhere or is_trusted(name):
            try:
                return socket.create_connection((name, port), timeout=seconds)
            except OSError as fault:
                error = fault
    raise error


class Door:
    """Lets those in that can prove they belong to the run, and turns strangers away.

    Args:
      listener: where they connect; closed with the door.
      key: of the secret, None without one.
      expected: how many processes will connect.
      say: is told of strangers: once of each kind.
    """

    def __init__(
        self,
        listener: socket.socket,
        key: bytes | None,
        expected: int,
        say: Callable[[str], None] = lambda sentence: None,
    ):
        self.turned_away: dict[str, str] = {}  # what is wrong with it -> the first one's address
        self._listener, self._key, self._say = listener, key, say
        self._most = _PENDING + expected
        self._pending: dict[Line, threading.Thread] = {}
        self._admitted: queue.SimpleQueue[tuple[Line, Any] | None] = queue.SimpleQueue()
        self._closed = False
        self._turn = threading.Lock()
        # It wakes up from time to time, where closing the socket does not wake it.
        listener.settimeout(1.0)
        threading.Thread(target=self._accept, daemon=True, name="door").start()

    def next(self, seconds: float | None) -> tuple[Line, Any] | None:
        """The next that may come in and its first message; None if none does, in time or at all."""
        try:
            return self._admitted.get(timeout=None if seconds is None else max(0.0, seconds))
        except queue.Empty:
            return None

    def close(self) -> None:
        """Closes the door, and the lines that are in it."""
        with self._turn:
            self._closed = True
            pending = dict(self._pending)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        while (admitted := self.next(0.0)) is not None:
            admitted[0].close()
        self._admitted.put(None)
        for line, thread in pending.items():
            line.close()
            thread.join(1.0)  # it may have something to say

    def _accept(self) -> None:
        while not self._closed:
            try:
                connection, address = self._listener.accept()
                line = Line(connection)
            except TimeoutError:
                continue
            except OSError:  # closed, or out of file descriptors
                time.sleep(0.05)
                continue
            thread = threading.Thread(target=self._admit, args=(line, address[0]), daemon=True)
            with self._turn:
                if self._closed:
                    return line.close()
                self._pending[line] = thread
                thread.start()
                oldest = next(iter(self._pending))
                full = len(self._pending) > self._most
                if full:
                    del self._pending[oldest]
            if full:
                oldest.close()  # which its thread finds

    def _admit(self, line: Line, address: str) -> None:
        """Shakes hands and hears the first message, or closes the line."""
        deadline = time.monotonic() + HANDSHAKE_SECONDS
        try:
            if self._key is None and not is_trusted(address):
                raise Stranger(_OUTSIDE)
            line.shake_hands(self._key, HANDSHAKE_SECONDS, hosts=True)
            message = line.receive(deadline - time.monotonic(), _LONGEST_FIRST)
        except (Stranger, TimeoutError, Gone, ValueError) as error:
            if not isinstance(error, Gone):  # which may be a process that was ended
                self._turn_away(address, error if isinstance(error, Stranger) else Stranger())
            message = None
        with self._turn:
            self._pending.pop(line, None)
            if message is not None and not self._closed:
                return self._admitted.put((line, message))
        line.close()

    def _turn_away(self, address: str, error: Stranger) -> None:
        why, address = str(error), str(_parse(address))
        with self._turn:
            first = why not in self.turned_away
            self.turned_away.setdefault(why, address)
        if first:
            self._say(f"the process at {address} is turned away: it {why}")
