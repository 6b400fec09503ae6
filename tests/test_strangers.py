"""What strangers can do where the processes of a run meet; all over real sockets."""

import contextlib
import dataclasses
import json
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from command_lines import CLASSIFY, assert_one_error, free_port
from jaxnets.errors import UserError
from jaxnets.processes import door, meeting
from jaxnets.processes.lines import Gone, Stranger, key_of
from jaxnets.processes.meeting import meet
from process_cases import KEY, LONG, SECRET, hello, visit

OTHER = key_of("another horse battery staple")


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """Silent strangers are not given up by the time; who waits for one of them waits for good."""
    monkeypatch.setattr(door, "HANDSHAKE_SECONDS", 10 * LONG)
    monkeypatch.setattr(meeting, "_TURN_AWAY_SECONDS", 0.0)


@contextlib.contextmanager
def process_0(key=KEY, count=2):
    """Process 0 as it waits: where, and what will come of it."""
    port = free_port()
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(meet, f"localhost:{port}", hello(0, count), LONG, key)
        visit(port).close()
        yield port, outcome


def frame(content):
    return struct.pack(">I", len(content)) + content


def is_closed(connection):
    """Whether the other end closes it, soon."""
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(1 << 16):
            pass
    return True


def assert_the_run_begins(port, outcome, key=KEY):
    """The process that belongs to the run comes, and they hear each other."""
    lines, names = meet(f"localhost:{port}", hello(1), LONG, key)
    theirs, same = outcome.result(LONG)
    assert names == same == ["process 10 of here", "process 11 of here"]
    lines[0].send("to the hub")
    theirs[1].send("from the hub")
    assert (theirs[1].receive(LONG), lines[0].receive(LONG)) == ("to the hub", "from the hub")
    lines[0].close()
    theirs[1].close()


# -------------------------------------------------------------------- at the door

GREETING = frame(json.dumps({"protocol": "jaxnets processes 2", "nonce": "0" * 64}).encode())

#: What each sends, and whether it is sent away at once. The others may still say something.
STRANGERS = {
    "says nothing": (b"", False),
    "half a length": (b"\0\0", False),
    "half a greeting": (GREETING[:30], False),
    "half a handshake": (GREETING, False),
    "half a proof": (GREETING + frame(bytes(32))[:20], False),
    "speaks HTTP": (b"GET / HTTP/1.1\r\n\r\n", True),
    "a gigantic message": (struct.pack(">I", 0xFFFFFFFF) + bytes(1000), True),
    "no JSON": (frame(b"\xff\xfe"), True),
    "lists within lists": (frame(b"[" * 256), True),
    "another protocol": (frame(b'{"protocol": "x", "nonce": null}'), True),
    "no nonce": (frame(b'{"protocol": "jaxnets processes 2", "nonce": 5}'), True),
    "an empty message": (frame(b""), True),
    "a wrong proof": (GREETING + frame(bytes(32)), True),
    "an empty proof": (GREETING + frame(b""), True),
    "a proof without an end": (GREETING + struct.pack(">I", 1 << 20) + bytes(100), True),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_a_stranger_holds_nobody_up(name, capfd):
    data, sent_away = STRANGERS[name]
    with process_0() as (port, outcome), contextlib.closing(visit(port)) as stranger:
        stranger.sendall(data)
        if sent_away:
            assert is_closed(stranger)
        assert_the_run_begins(port, outcome)
        assert is_closed(stranger)  # whoever is still there when the run begins
    assert capfd.readouterr().err.count("is turned away") == sent_away


def test_a_stranger_who_holds_the_line_is_given_up(monkeypatch, capfd):
    monkeypatch.setattr(door, "HANDSHAKE_SECONDS", 0.05)
    with process_0() as (port, outcome):
        for _ in range(3):
            with visit(port) as stranger:
                assert is_closed(stranger)
        monkeypatch.setattr(door, "HANDSHAKE_SECONDS", LONG)
        assert_the_run_begins(port, outcome)
    said = capfd.readouterr().err
    assert said == (
        "warning: the process at 127.0.0.1 is turned away: it does not talk as a process of this "
        "version of jaxnets\n"
    )


def test_strangers_without_number_find_room_for_few(monkeypatch):
    monkeypatch.setattr(door, "_PENDING", 2)
    with process_0() as (port, outcome), contextlib.ExitStack() as crowd:
        strangers = [crowd.enter_context(visit(port)) for _ in range(20)]
        for one in strangers[:16]:  # room is for two, and one for each process
            assert is_closed(one)
        assert_the_run_begins(port, outcome)


def overheard(key=KEY):
    """What both ends have said while the processes of a run met: the guest, and the host."""
    said = {"guest": b"", "host": b""}
    with process_0(key) as (port, outcome), socket.create_server(("127.0.0.1", 0)) as middle:

        def carry(name, source, sink):
            with contextlib.suppress(OSError):
                while data := source.recv(1 << 16):
                    said[name] += data
                    sink.sendall(data)
                sink.shutdown(socket.SHUT_RDWR)

        def listen_in():
            guest, host = middle.accept()[0], visit(port)
            with guest, host, ThreadPoolExecutor(2) as pool:
                pool.submit(carry, "guest", guest, host)
                pool.submit(carry, "host", host, guest)

        listener = threading.Thread(target=listen_in)
        listener.start()
        assert_the_run_begins(middle.getsockname()[1], outcome, key)
        listener.join(LONG)
    return said


def test_what_a_process_said_does_not_let_a_stranger_in():
    said = overheard()["guest"]
    assert b"process 11 of here" in said and SECRET.encode() not in said
    with process_0() as (port, outcome), visit(port) as stranger:
        with contextlib.suppress(OSError):
            stranger.sendall(said)
        assert is_closed(stranger)
        assert not outcome.done()
        assert_the_run_begins(port, outcome)


def test_what_process_0_said_does_not_let_a_stranger_be_it():
    said = overheard()["host"]
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        victim = pool.submit(meet, f"localhost:{server.getsockname()[1]}", hello(1), LONG, KEY)
        with server.accept()[0] as connection:
            connection.sendall(said)
            with pytest.raises(UserError, match="has another JAXNETS_SECRET"):
                victim.result(LONG)


def test_who_repeats_what_one_says_is_not_believed():
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        victim = pool.submit(meet, f"localhost:{server.getsockname()[1]}", hello(1), LONG, KEY)
        with server.accept()[0] as connection:
            while data := connection.recv(1 << 16):
                connection.sendall(data)
        with pytest.raises(UserError, match="has another JAXNETS_SECRET"):
            victim.result(LONG)


# --------------------------------------------------------------- one secret, two, none

UNLIKE = {
    "another": (KEY, OTHER, "has another JAXNETS_SECRET", "has another JAXNETS_SECRET"),
    "missing": (
        KEY,
        None,
        "has a JAXNETS_SECRET and this process has none",
        "has no JAXNETS_SECRET and this process has one",
    ),
    "missing in process 0": (
        None,
        KEY,
        "has no JAXNETS_SECRET and this process has one",
        "has a JAXNETS_SECRET and this process has none",
    ),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_another_secret_is_told_to_both_and_the_run_goes_on(name, capfd):
    key, other, to_guest, to_host = UNLIKE[name]
    with process_0(key) as (port, outcome):
        for _ in range(3):
            with pytest.raises(UserError) as told:
                meet(f"localhost:{port}", hello(1), LONG, other)
            assert str(told.value) == (
                f"the coordinator at localhost:{port} {to_guest}; set the same in all processes"
            )
        assert_the_run_begins(port, outcome, key)
    assert capfd.readouterr().err == (
        f"warning: the process at 127.0.0.1 is turned away: it {to_host}; set the same in all "
        "processes\n"
    )


MALFORMED = [
    b"[" * 100_000,
    b"{",
    [],
    {},
    {"index": 2},
    {"index": -1},
    {"versions": []},
    {"config": None},
    {"seconds": float("nan")},
    {"seconds": -1.0},
    {"name": 5},
]


def test_what_is_no_process_is_not_counted_even_without_a_secret():
    whole = {**dataclasses.asdict(hello(1)), "seconds": LONG, "timeout": LONG}
    with process_0(None) as (port, outcome):
        for change in MALFORMED:
            if not isinstance(change, bytes):
                change = json.dumps({**whole, **change} if change else change).encode()
            with contextlib.closing(door.connect("localhost", port, None, LONG)) as line:
                line.send_bytes(change)
                with pytest.raises(Gone):
                    line.receive(LONG)
        assert_the_run_begins(port, outcome, None)


FLAGS = "--distributed --process-count 2 --start-timeout 1 --process-id"


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("secret", ["", "short", "15 characters.."])
def test_a_short_secret_is_refused(secret, cli, monkeypatch):
    monkeypatch.setenv("JAXNETS_SECRET", secret)
    found = cli(*CLASSIFY, *FLAGS.split(), 0, "--coordinator", "localhost:1")
    assert_one_error(found, f"JAXNETS_SECRET has {len(secret)} characters", "at least 16")


# ---------------------------------------------------------------------- without a secret

ADDRESSES = {
    True: "127.0.0.1 127.9.9.9 ::1 10.1.2.3 172.16.0.1 172.31.255.255 192.168.1.1 169.254.1.1 "
    "fd12::1 fe80::1 fe80::1%eth0 ::ffff:10.0.0.1 ::ffff:127.0.0.1",
    False: "8.8.8.8 172.32.0.1 172.15.255.255 192.169.0.1 11.0.0.1 100.64.0.1 203.0.113.9 "
    "198.18.0.1 2001:4860:4860::8888 ::ffff:8.8.8.8 2001:db8::1 64:ff9b::a00:1 2002:a00:1::1",
}


@pytest.mark.parametrize("trusted", ADDRESSES)
def test_addresses_of_private_networks_are_told_from_others(trusted):
    for address in ADDRESSES[trusted].split():
        assert door.is_trusted(address) == trusted, address


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("host", ["8.8.8.8", "[2001:4860:4860::8888]", "[::ffff:8.8.8.8]"])
def test_a_public_coordinator_needs_a_secret(host, index, cli, monkeypatch):
    monkeypatch.delenv("JAXNETS_SECRET", raising=False)
    found = cli(*CLASSIFY, *FLAGS.split(), index, "--coordinator", f"{host}:9")
    assert_one_error(found, host.strip("[]"), "is on a public network", "set JAXNETS_SECRET")


def test_without_a_secret_nobody_from_a_public_network_comes_in(monkeypatch, capfd):
    with process_0(None) as (port, outcome):
        with monkeypatch.context() as patch:
            patch.setattr(door, "_TRUSTED", [])  # as if this machine were one of those
            with visit(port) as stranger:
                stranger.sendall(GREETING)
                assert is_closed(stranger)
            with pytest.raises(OSError, match="private network"):
                door.connect("localhost", port, None, LONG)
        assert_the_run_begins(port, outcome, None)
    assert "without a JAXNETS_SECRET it needs one" in capfd.readouterr().err


@pytest.mark.parametrize(
    "host,key,warned",
    [
        ("0.0.0.0", None, True),
        ("0.0.0.0", KEY, False),
        ("localhost", None, False),
        ("8.8.8.8", KEY, False),  # with a secret a coordinator may be public
    ],
)
def test_a_network_without_a_secret_is_warned_of(host, key, warned, capfd):
    with pytest.raises(UserError, match="did not come"):
        meet(f"{host}:{free_port()}", hello(0), 0.05, key)
    said = capfd.readouterr().err
    assert said.startswith("warning: there is no JAXNETS_SECRET, so whoever") == warned
    assert len(said.splitlines()) == warned


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_a_coordinator_on_this_machine_listens_to_no_other(host):
    with contextlib.suppress(UserError), door.listen(host, free_port()) as listener:
        assert listener.getsockname()[0] == ("::1" if host == "::1" else "127.0.0.1")


def test_a_port_of_which_process_0_knows_nothing_is_no_process_0():
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        found = pool.submit(door.connect, "localhost", server.getsockname()[1], KEY, LONG)
        with server.accept()[0] as connection:
            connection.sendall(b"220 mail ESMTP\r\n")
        with pytest.raises(Stranger, match="does not talk as a process of this version"):
            found.result(LONG)
