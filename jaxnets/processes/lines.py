"""Lines between processes: messages over TCP, once both ends have proved that they know the secret.

Frames and proof are those of `multiprocessing.connection`, and the content is JSON: nothing that
arrives is ever unpickled. Each end signs random bytes of the other's; the secret itself does not
travel. What follows is neither signed nor encrypted: whoever can read or change what is sent on the
network can read or change that too.
"""

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from typing import Any

from jaxnets.errors import UserError

__all__ = ["Gone", "Line", "OtherSecret", "Stranger", "own_secret"]

#: Longest message of a process that belongs to the run, and of one that has yet to prove it.
_LONGEST = 1 << 24
_LONGEST_GREETING = 256

_SHORTEST_SECRET = 16

_WITH_SECRET = b"jaxnets processes 3, with a secret"
_WITHOUT_SECRET = b"jaxnets processes 3, without a secret"


class Gone(Exception):
    """The other end of a line was closed, or its process has ended."""


class Stranger(Exception):
    """The other end of a line does not belong to the run; the text says why, after "it"."""

    def __init__(self, why: str = "does not talk as a process of this version of jaxnets"):
        super().__init__(why)


class OtherSecret(Stranger):
    """It may belong to the run, and one of the two processes has a wrong secret, or none."""

    def __init__(self, why: str = "has another JAXNETS_SECRET"):
        super().__init__(f"{why}; set the same in all processes")


def own_secret() -> bytes | None:
    """The secret of this process, out of its environment; None if it has none.

    Raises:
      UserError: if it is too short to be one.
    """
    secret = os.environ.get("JAXNETS_SECRET")
    if secret is not None and len(secret) < _SHORTEST_SECRET:
        raise UserError(
            f"JAXNETS_SECRET has {len(secret)} characters; give it at least {_SHORTEST_SECRET}, "
            "the same ones in all processes, or unset it"
        )
    return None if secret is None else os.fsencode(secret)


class Line:
    """A TCP connection that carries messages in both directions.

    One thread may receive while others send.
    """

    def __init__(self, connection: socket.socket):
        connection.setblocking(True)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = Connection(connection.detach())
        self._sending = threading.Lock()

    def shake_hands(self, secret: bytes | None, *, hosts: bool) -> None:
        """Finds out whether the other end belongs to the same run.

        Args:
          secret: what both know; None if this process has no secret.
          hosts: whether this is the end that listened. It proves itself after the other has, so
            that nobody who just knocks gets anything to guess the secret from.

        Raises:
          Stranger: if it does not.
          Gone: if it does not say.
        """
        own = _WITHOUT_SECRET if secret is None else _WITH_SECRET
        with self._faults():
            self._connection.send_bytes(own)
            other = self._connection.recv_bytes(_LONGEST_GREETING)
            if other not in (_WITH_SECRET, _WITHOUT_SECRET):
                raise Stranger
            if secret is None:
                if other == own:
                    return
                raise OtherSecret("has a JAXNETS_SECRET and this process has none")
            if other != own:
                raise OtherSecret("has no JAXNETS_SECRET and this process has one")
            # Unlike keys for the two, so that no guest's answer is of use to a false host.
            guest, host = b"guest " + secret, b"host " + secret
            if hosts:
                deliver_challenge(self._connection, guest)
                answer_challenge(self._connection, host)
            else:
                answer_challenge(self._connection, guest)
                deliver_challenge(self._connection, host)

    def send(self, value: Any) -> None:
        """Sends a value of JSON types.

        Raises:
          Gone: if there is no one to receive it.
        """
        try:
            with self._sending:
                self._connection.send_bytes(json.dumps(value).encode())
        except OSError as error:
            raise Gone from error

    def receive(self, seconds: float | None = None, longest: int = _LONGEST) -> Any:
        """The next value, of which it accepts only so many bytes.

        Raises:
          TimeoutError: if none has begun to come after so many seconds.
          Gone: if none will come.
          Stranger: if what came is too long, or no JSON.
        """
        with self._faults():
            if seconds is not None and not self._connection.poll(max(0.0, seconds)):
                raise TimeoutError("no answer")
            return json.loads(self._connection.recv_bytes(longest))

    def is_gone(self) -> bool:
        """Whether the other end has closed it; to be asked where nothing is to be received."""
        return self._connection.poll(0)

    @contextlib.contextmanager
    def closed_after(self, seconds: float) -> Iterator[None]:
        """Closes it if the block takes longer, even if bytes arrive all the time."""
        timer = threading.Timer(seconds, self.close)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def close(self) -> None:
        """Ends it; the other end, and a thread that listens at this one, find it gone."""
        with (
            contextlib.suppress(OSError),
            socket.socket(fileno=os.dup(self._connection.fileno())) as connection,
        ):
            connection.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """Gives the errors of a connection the names of this module."""
        try:
            yield
        except TimeoutError:
            raise
        except (AuthenticationError, AssertionError):
            raise OtherSecret from None
        except (ValueError, RecursionError):
            raise Stranger from None
        except (EOFError, OSError) as error:
            # A connection reads no more once something too long has come.
            raise (Gone if self._connection.readable else Stranger) from error
