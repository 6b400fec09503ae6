"""What someone can do who sits between two processes that share a secret; over real sockets."""

import contextlib
import socket
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest

from jaxnets.processes.lines import Line
from jaxnets.processes.peers import Peers
from process_cases import KEY, LONG


class Middle:
    """Two ends of a line that have shaken hands, and someone who carries all between them."""

    def __init__(self):
        with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(2) as pool:
            place = server.getsockname()
            guest, self.of_guest = socket.create_connection(place, LONG), server.accept()[0]
            self.of_host, host = socket.create_connection(place, LONG), server.accept()[0]
            self.guest, self.host = Line(guest), Line(host)
            shaken = [
                pool.submit(one.shake_hands, KEY, LONG, hosts=one is self.host)
                for one in (self.guest, self.host)
            ]
            for _ in range(2):
                self.of_host.sendall(self.read(self.of_guest, 0))
                self.of_guest.sendall(self.read(self.of_host, 0))
            for one in shaken:
                one.result(LONG)

    @staticmethod
    def read(connection, more=32):
        """The next frame, which has so many bytes of a signature."""
        length = connection.recv(4, socket.MSG_WAITALL)
        rest = struct.unpack(">I", length)[0] + more
        return length + connection.recv(rest, socket.MSG_WAITALL)

    def close(self):
        for one in (self.guest, self.host, self.of_guest, self.of_host):
            one.close()

    def overhear(self, value):
        self.guest.send(value)
        return self.read(self.of_guest)


def altered(middle):
    data = bytearray(middle.overhear({"step": 10}))
    data[data.index(b"1")] ^= 1
    return data, []


def unsigned(middle):
    return struct.pack(">I", 12) + b'{"step": 10}' + bytes(32), []


def repeated(middle):
    return 2 * middle.overhear({"step": 10}), [{"step": 10}]


def left_out(middle):
    middle.overhear({"step": 10})
    return middle.overhear({"step": 11}), []


def thrown_back(middle):
    middle.host.send({"step": 10})
    return middle.read(middle.of_host), []


def from_another_line(middle):
    with contextlib.closing(Middle()) as other:
        return other.overhear({"step": 10}), []


@pytest.mark.parametrize(
    "attack", [altered, unsigned, repeated, left_out, thrown_back, from_another_line]
)
def test_whoever_is_in_between_can_say_nothing(attack):
    with contextlib.closing(Middle()) as middle:
        data, believed = attack(middle)
        middle.of_host.sendall(data)
        for value in believed:
            assert middle.host.receive(LONG) == value
        with pytest.raises(ValueError, match="wrong signature"):
            middle.host.receive(LONG)


def test_a_message_of_someone_in_between_ends_the_run_in_a_sentence(monkeypatch):
    said = []
    monkeypatch.setattr(Peers, "_leave", lambda self, *words: said.append(words))
    with contextlib.closing(Middle()) as middle:
        middle.of_host.sendall(unsigned(middle)[0])
        peers = Peers(0, {1: middle.host}, ["process 1 of a", "process 2 of b"])
        peers._listen(1, middle.host)
    assert said == [
        (
            "error: process 1 of 2 (process 2 of b) has sent a message with a wrong signature, so "
            "this one ends too",
            1,
        )
    ]
