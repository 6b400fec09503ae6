"""What strangers can do where the processes of a run meet; all over real sockets."""

import contextlib
import os
import pickle
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

import pytest

from command_lines import CLASSIFY, assert_one_error, free_port
from jaxnets.errors import UserError
from jaxnets.processes import door, lines, meeting
from jaxnets.processes.lines import Gone, OtherSecret, Stranger
from jaxnets.processes.meeting import meet
from process_cases import LONG, SECRET, hello, visit

OTHER = b"another horse battery staple"
TURNED_AWAY = "warning: the process at 127.0.0.1 is turned away: it "


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """Silent strangers are not given up by the time; who waits for one of them waits for good."""
    monkeypatch.setattr(door, "HANDSHAKE_SECONDS", 10 * LONG)
    monkeypatch.setattr(meeting, "HANDSHAKE_SECONDS", 10 * LONG)
    monkeypatch.setattr(meeting, "_LATE_SECONDS", 0.0)
    door.warn.cache_clear()


@contextlib.contextmanager
def process_0(secret=SECRET, count=2):
    """Process 0 as it waits: where, and what will come of it."""
    port = free_port()
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(meet, f"localhost:{port}", hello(0, count), LONG, secret)
        visit(port).close()
        yield port, outcome


def frame(content):
    return struct.pack(">i", len(content)) + content


def is_closed(connection):
    """Whether the other end closes it, soon."""
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(1 << 16):
            pass
    return True


def assert_the_run_begins(port, outcome, secret=SECRET):
    """The process that belongs to the run comes, and they hear each other."""
    mine, names = meet(f"localhost:{port}", hello(1), LONG, secret)
    theirs, same = outcome.result(LONG)
    assert names == same == ["process 10 of here", "process 11 of here"]
    mine[0].send("to the hub")
    theirs[1].send("from the hub")
    assert (theirs[1].receive(LONG), mine[0].receive(LONG)) == ("to the hub", "from the hub")
    mine[0].close()
    theirs[1].close()


# -------------------------------------------------------------------- at the door

GREETING = frame(lines._WITH_SECRET)

#: What each sends, and whether it is sent away at once. The others may still say something.
STRANGERS = {
    "says nothing": (b"", False),
    "half a length": (b"\0\0", False),
    "half a greeting": (GREETING[:30], False),
    "half a handshake": (GREETING, False),
    "half a proof": (GREETING + frame(bytes(16))[:9], False),
    "speaks HTTP": (b"GET / HTTP/1.1\r\n\r\n", True),
    "a gigantic message": (struct.pack(">iQ", -1, 1 << 60) + bytes(1000), True),
    "another protocol": (frame(b"\xff\xfe"), True),
    "an empty message": (frame(b""), True),
    "a wrong proof": (GREETING + frame(bytes(16)), True),
    "an empty proof": (GREETING + frame(b""), True),
    "a proof without an end": (GREETING + struct.pack(">i", 1 << 20) + bytes(100), True),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_a_stranger_holds_nobody_up(name, capfd):
    data, sent_away = STRANGERS[name]
    with process_0() as (port, outcome), contextlib.closing(visit(port)) as stranger:
        stranger.sendall(data)
        if sent_away:
            assert is_closed(stranger)
        assert_the_run_begins(port, outcome)
    assert capfd.readouterr().err.count("is turned away") == sent_away


def test_strangers_who_hold_the_line_are_given_up_and_leave_room_for_others(monkeypatch):
    monkeypatch.setattr(door, "_PLACES", 0)
    monkeypatch.setattr(door, "HANDSHAKE_SECONDS", 0.3)
    with process_0() as (port, outcome), contextlib.ExitStack() as crowd:
        slow, *silent = [crowd.enter_context(visit(port)) for _ in range(5)]
        with contextlib.suppress(OSError):
            for byte in GREETING[:-1]:
                slow.sendall(bytes([byte]))
                time.sleep(0.03)
            raise AssertionError("nobody has closed it")
        assert all(map(is_closed, silent))
        monkeypatch.setattr(door, "HANDSHAKE_SECONDS", LONG)
        assert_the_run_begins(port, outcome)


def test_a_false_process_0_cannot_let_one_process_prove_what_another_asks():
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(2) as pool:
        where = server.getsockname()[1]
        victims, false = [], []
        for _ in range(2):
            victims.append(pool.submit(door.connect, "localhost", where, SECRET, LONG))
            false.append(Connection(server.accept()[0].detach()))
            assert false[-1].recv_bytes() == lines._WITH_SECRET
            false[-1].send_bytes(lines._WITH_SECRET)
        false[0].send_bytes(b"#CHALLENGE#" + bytes(20))
        false[0].recv_bytes()
        false[0].send_bytes(b"#WELCOME#")
        false[1].send_bytes(false[0].recv_bytes())
        false[0].send_bytes(false[1].recv_bytes())
        false[1].close()
        with pytest.raises(OtherSecret):
            victims[0].result(LONG)
        with pytest.raises(Gone):
            victims[1].result(LONG)
        false[0].close()


def test_a_port_of_which_process_0_knows_nothing_is_no_process_0():
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        found = pool.submit(door.connect, "localhost", server.getsockname()[1], SECRET, LONG)
        with server.accept()[0] as connection:
            connection.sendall(b"220 mail ESMTP\r\n")
            with pytest.raises(Stranger, match="does not talk as a process of this version"):
                found.result(LONG)


# --------------------------------------------------------------- one secret, two, none

UNLIKE = {
    "another": (SECRET, OTHER, "has another JAXNETS_SECRET", "has another JAXNETS_SECRET"),
    "missing": (
        SECRET,
        None,
        "has a JAXNETS_SECRET and this process has none",
        "has no JAXNETS_SECRET and this process has one",
    ),
    "missing in process 0": (
        None,
        SECRET,
        "has no JAXNETS_SECRET and this process has one",
        "has a JAXNETS_SECRET and this process has none",
    ),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_another_secret_is_told_to_both_and_the_run_goes_on(name, capfd):
    secret, other, to_guest, to_host = UNLIKE[name]
    with process_0(secret) as (port, outcome):
        for _ in range(3):
            with pytest.raises(UserError) as told:
                meet(f"localhost:{port}", hello(1), LONG, other)
            assert str(told.value) == (
                f"the coordinator at localhost:{port} {to_guest}; set the same in all processes"
            )
        assert_the_run_begins(port, outcome, secret)
    assert capfd.readouterr().err == f"{TURNED_AWAY}{to_host}; set the same in all processes\n"


class Harmful:
    """Whoever unpickles it makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


MALFORMED = [b"[" * 100_000, b"{", b"{}", {"index": 2}, {"index": -1}, {"setup": None}]
MALFORMED += [{"name": 5}, {"setup": {"x": "y" * (1 << 20)}}]


def test_what_is_no_process_is_not_counted_even_without_a_secret(tmp_path, capfd):
    made = tmp_path / "made"
    with process_0(None) as (port, outcome):
        for what in (*MALFORMED, pickle.dumps(Harmful(made))):
            with contextlib.closing(door.connect("localhost", port, None, LONG)) as line:
                if isinstance(what, bytes):
                    line._connection.send_bytes(what)
                else:
                    with contextlib.suppress(Gone):
                        line.send(hello(1)._replace(**what))
                with pytest.raises(Gone):
                    line.receive(LONG)
        assert_the_run_begins(port, outcome, None)
    assert not made.exists()
    said = "does not talk as a process of this version of jaxnets\n"
    assert capfd.readouterr().err == TURNED_AWAY + said


FLAGS = "--distributed --process-count 2 --start-timeout 1 --process-id"


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("secret", ["", "short", "15 characters.."])
def test_a_short_secret_is_refused(secret, cli, monkeypatch):
    monkeypatch.setenv("JAXNETS_SECRET", secret)
    found = cli(*CLASSIFY, *FLAGS.split(), 0, "--coordinator", "localhost:1")
    assert_one_error(found, f"JAXNETS_SECRET has {len(secret)} characters", "at least 16")


# ---------------------------------------------------------------------- without a secret

ADDRESSES = {
    True: "127.0.0.1 ::1 10.1.2.3 172.31.255.255 192.168.1.1 fd12::1 fe80::1%eth0 ::ffff:10.0.0.1",
    False: "8.8.8.8 172.32.0.1 100.64.0.1 2001:4860:4860::8888 ::ffff:8.8.8.8",
}


@pytest.mark.parametrize("trusted", ADDRESSES)
def test_addresses_of_private_networks_are_told_from_others(trusted):
    assert {door.is_trusted(address) for address in ADDRESSES[trusted].split()} == {trusted}


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("host", ["8.8.8.8", "[::ffff:8.8.8.8]"])
def test_a_public_coordinator_needs_a_secret(host, index, cli, monkeypatch):
    monkeypatch.delenv("JAXNETS_SECRET", raising=False)
    found = cli(*CLASSIFY, *FLAGS.split(), index, "--coordinator", f"{host}:9")
    assert_one_error(found, host.strip("[]"), "is on a public network", "set JAXNETS_SECRET")


def test_without_a_secret_nobody_from_a_public_network_comes_in(monkeypatch, capfd):
    with process_0(None) as (port, outcome):
        with monkeypatch.context() as patch:
            patch.setattr(door, "is_trusted", lambda address: False)  # as if this were one
            with visit(port) as stranger:
                stranger.sendall(GREETING)
                assert is_closed(stranger)
            with pytest.raises(UserError, match="is on a public network"):
                door.connect("localhost", port, None, LONG)
        assert_the_run_begins(port, outcome, None)
    assert "without a JAXNETS_SECRET it needs one" in capfd.readouterr().err


@pytest.mark.parametrize(
    "host,secret,warned",
    [
        ("0.0.0.0", None, True),
        ("0.0.0.0", SECRET, False),
        ("localhost", None, False),
        ("8.8.8.8", SECRET, False),  # with a secret a coordinator may be public
    ],
)
def test_a_network_without_a_secret_is_warned_of(host, secret, warned, capfd):
    with pytest.raises(UserError, match="did not come"):
        meet(f"{host}:{free_port()}", hello(0), 0.05, secret)
    said = capfd.readouterr().err
    assert said.startswith("warning: there is no JAXNETS_SECRET, so whoever") == warned
    assert len(said.splitlines()) == warned


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_a_coordinator_on_this_machine_listens_to_no_other(host):
    with contextlib.suppress(UserError), door.listen(host, free_port(), None) as listener:
        assert listener.getsockname()[0] == ("::1" if host == "::1" else "127.0.0.1")
