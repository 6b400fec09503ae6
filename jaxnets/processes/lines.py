"""Lines between processes: frames over TCP, signed where the processes share a secret.

Both ends of a new line shake hands. With a secret each sends a number that it has never used
before (a nonce) and proves, by an HMAC over both, that it knows the secret; the secret itself does
not travel. What was overheard proves nothing a second time, because the nonces are others then; nor
does what an end has said itself, because the two ends sign with different keys. From then on every
frame is signed with a key of this line and this direction, and numbered. Frames are signed and not
encrypted: who can listen can read them.

A frame is its length in four bytes, its content, and the signature if there is one.
"""

import contextlib
import hashlib
import hmac
import itertools
import json
import os
import secrets
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

from jaxnets.errors import UserError

__all__ = ["Gone", "Line", "OtherSecret", "Stranger", "key_of"]

#: Longest frame of a process that belongs to the run, and of one that has yet to prove it.
_LONGEST = 1 << 24
_LONGEST_GREETING = 256

_SHORTEST_SECRET = 16
#: Makes guesses at an overheard proof slow; takes each process some hundredths of a second, once.
_ROUNDS = 100_000

_PROTOCOL = "jaxnets processes 2"
_NO = b"another secret"


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


def key_of(secret: str) -> bytes:
    """The key that processes with the same secret share.

    Raises:
      UserError: if the secret is too short to be one.
    """
    if len(secret) < _SHORTEST_SECRET:
        raise UserError(
            f"JAXNETS_SECRET has {len(secret)} characters; give it at least {_SHORTEST_SECRET}, "
            "the same ones in all processes, or unset it"
        )
    return hashlib.pbkdf2_hmac("sha256", os.fsencode(secret), b"jaxnets", _ROUNDS)


class Line:
    """A TCP connection that carries frames in both directions.

    One thread may receive while others send.
    """

    def __init__(self, connection: socket.socket):
        connection.setblocking(True)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket, self._buffer = connection, bytearray()
        self._sending = threading.Lock()
        self._out: Callable[[bytes], bytes] | None = None
        self._in: Callable[[bytes], bytes] | None = None

    def shake_hands(self, key: bytes | None, seconds: float, *, hosts: bool) -> None:
        """Finds out whether the other end belongs to the same run, and signs from then on.

        Args:
          key: what both know; None if this process has no secret.
          seconds: how long all of it may take.
          hosts: whether this is the end that listened. It proves itself after the other has, so
            that nobody who just knocks gets anything to guess the secret from.

        Raises:
          Stranger: if it does not.
          TimeoutError, Gone: if it does not say.
        """
        deadline = time.monotonic() + seconds

        def hear() -> bytes:
            try:
                return self.receive_bytes(deadline - time.monotonic(), _LONGEST_GREETING)
            except ValueError:
                raise Stranger from None

        nonce = None if key is None else secrets.token_hex(32)
        own = json.dumps({"protocol": _PROTOCOL, "nonce": nonce}).encode()
        if not hosts:
            self.send_bytes(own)
        other = hear()
        theirs = _nonce_of(other)
        if hosts:
            self.send_bytes(own)
        if key is None and theirs is None:
            return
        if key is None:
            raise OtherSecret("has a JAXNETS_SECRET and this process has none")
        if theirs is None:
            raise OtherSecret("has no JAXNETS_SECRET and this process has one")
        guest, host = (other, own) if hosts else (own, other)

        def derive(purpose: bytes) -> bytes:
            return _sign(key, purpose + struct.pack(">I", len(guest)) + guest + host)

        if hosts:
            if not hmac.compare_digest(hear(), derive(b"the guest knows")):
                self.send_bytes(_NO)
                raise OtherSecret
            self.send_bytes(derive(b"the host knows"))
        else:
            self.send_bytes(derive(b"the guest knows"))
            if not hmac.compare_digest(hear(), derive(b"the host knows")):
                raise OtherSecret
        guest_speaks = _signer(derive(b"the guest speaks"))
        host_speaks = _signer(derive(b"the host speaks"))
        self._out, self._in = (host_speaks, guest_speaks) if hosts else (guest_speaks, host_speaks)

    def send(self, value: Any) -> None:
        """Sends a value of JSON types.

        Raises:
          Gone: if there is no one to receive it.
        """
        self.send_bytes(json.dumps(value).encode())

    def send_bytes(self, content: bytes) -> None:
        """Sends bytes; raises as `send` does."""
        try:
            with self._sending:
                signature = b"" if self._out is None else self._out(content)
                self._socket.sendall(struct.pack(">I", len(content)) + content + signature)
        except OSError as error:
            raise Gone from error

    def receive(self, seconds: float, longest: int = _LONGEST) -> Any:
        """The next value.

        Raises:
          TimeoutError: if none has come after so many seconds.
          Gone: if none will come.
          ValueError: if what came is too long, is not signed by the other end, or is no JSON.
        """
        try:
            return json.loads(self.receive_bytes(seconds, longest))
        except RecursionError:
            raise ValueError("lists within lists without an end") from None

    def receive_bytes(self, seconds: float, longest: int = _LONGEST) -> bytes:
        """The next bytes, of which it accepts only so many; raises as `receive` does."""
        deadline = time.monotonic() + seconds
        self._fill(4, deadline)
        (length,) = struct.unpack_from(">I", self._buffer)
        if length > longest:
            raise ValueError(f"a message of {length} bytes")
        end = 4 + length + (0 if self._in is None else hashlib.sha256().digest_size)
        self._fill(end, deadline)
        content, signature = bytes(self._buffer[4 : 4 + length]), self._buffer[4 + length : end]
        del self._buffer[:end]
        if self._in is not None and not hmac.compare_digest(signature, self._in(content)):
            raise ValueError("a message with a wrong signature")
        return content

    def _fill(self, length: int, deadline: float) -> None:
        """Reads until the buffer has so many bytes."""
        ready = select.poll()
        while len(self._buffer) < length:
            try:
                ready.register(self._socket, select.POLLIN)
                arrived = ready.poll(max(0.0, deadline - time.monotonic()) * 1000)
                data = self._socket.recv(1 << 16) if arrived else b""
            except (OSError, ValueError) as error:  # closed: here, or at the other end
                raise Gone from error
            if not arrived:
                raise TimeoutError
            if not data:
                raise Gone
            self._buffer += data

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


def _signer(key: bytes) -> Callable[[bytes], bytes]:
    """Signs what goes one way over one line; the other end signs it too, and compares.

    The contents are numbered, so the same content gets another signature later.
    """
    numbers = itertools.count(1)
    return lambda content: _sign(key, struct.pack(">Q", next(numbers)) + content)


def _sign(key: bytes, content: bytes) -> bytes:
    return hmac.digest(key, content, "sha256")


def _nonce_of(greeting: bytes) -> str | None:
    """The nonce that the other end has sent, None if it has no secret."""
    try:
        content = json.loads(greeting)
    except ValueError:
        raise Stranger from None
    if not (isinstance(content, dict) and content.get("protocol") == _PROTOCOL):
        raise Stranger
    nonce = content.get("nonce")
    if not (nonce is None or isinstance(nonce, str)):
        raise Stranger
    return nonce
