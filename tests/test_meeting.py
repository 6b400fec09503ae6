"""How processes find each other, agree and miss each other; here they are threads of this one."""

import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from command_lines import CLASSIFY, assert_one_error, free_port
from jaxnets.errors import UserError
from jaxnets.processes import door, meeting, relay
from jaxnets.processes.meeting import meet
from jaxnets.processes.peers import Peers
from process_cases import hello, in_threads, visit


@pytest.fixture(autouse=True)
def soon_given_up(monkeypatch):
    monkeypatch.setattr(meeting, "_LATE_SECONDS", 0.5)


def lines_of(hellos, seconds=20.0):
    """What `meet` gives to each of the processes, or the UserError that it raises."""
    address = f"localhost:{free_port()}"

    def one(hello):
        try:
            return meet(address, hello, seconds)
        except UserError as error:
            return error

    return in_threads(one, hellos)


# ----------------------------------------------------------------------------- the meeting


def test_processes_meet_in_any_order():
    found = lines_of([hello(i, count=4) for i in (2, 0, 3, 1)])
    names = [f"process 1{i} of here" for i in range(4)]
    assert [sorted(lines) for lines, _ in found] == [[0], [1, 2, 3], [0], [0]]
    assert all(of_one == names for _, of_one in found)
    hub = found[1][0]
    for i, (lines, _) in zip((2, 3, 1), (found[0], found[2], found[3]), strict=True):
        lines[0].send({"from": i})
        assert hub[i].receive(5) == {"from": i}
    for lines, _ in found:
        for line in lines.values():
            line.close()


REFUSED = [
    ([hello(0), hello(1, count=3)], "0: --process-count (there 3, in process 0 2); "),
    ([hello(0, count=3), hello(1, count=3), hello(1, count=3)], "--process-id 1 (process 11 of"),
    ([hello(0), hello(1, seed=1)], "process 1 differs from process 0: seed (there 1, in process 0"),
    ([hello(0), hello(1, jaxnets="2")], "0: jaxnets (there '2', in process 0 '1'); install"),
]


@pytest.mark.parametrize("hellos,words", REFUSED, ids=["count", "id", "config", "version"])
def test_every_process_is_told_the_same_of_what_is_wrong(hellos, words):
    found = {str(one) for one in lines_of(hellos)}
    assert len(found) == 1 and words in found.pop()


def test_those_that_came_hear_who_did_not_and_within_their_time():
    found = {str(one) for one in lines_of([hello(i, count=5) for i in (0, 3)], seconds=1.5)}
    assert len(found) == 1
    assert found.pop().startswith("processes 1, 2, 4 of 5 (numbers 0 to 4) did not come")


def test_one_that_waited_for_process_0_hears_as_much():
    address = f"localhost:{free_port()}"
    with ThreadPoolExecutor(2) as pool:
        early = pool.submit(meet, address, hello(1, count=3), 2.0)
        time.sleep(1.0)
        first = pool.submit(meet, address, hello(0, count=3), 2.0)
        for one in (early, first):
            with pytest.raises(UserError, match=r"process 2 of 3 .* within 2 s"):
                one.result()


def test_a_process_that_was_started_again_is_no_second_one():
    address = f"localhost:{free_port()}"
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(meet, address, hello(0, count=3), 20.0)
        host, port = door.address_of(address)
        visit(port).close()  # as soon as it listens
        line = door.connect(host, port, None, 20.0)
        line.send(hello(1, count=3))
        time.sleep(0.2)
        line.close()  # it is ended while it waits
        again = pool.submit(meet, address, hello(1, count=3), 20.0)
        time.sleep(0.2)
        last = meet(address, hello(2, count=3), 20.0)
        for lines, _ in (first.result(), again.result(), last):
            for one in lines.values():
                one.close()


# -------------------------------------------------------------------------- of one mind


@pytest.fixture
def three(monkeypatch):
    """The three processes of a run, and what they would have said and left with."""
    last_words = []
    monkeypatch.setattr(Peers, "_leave", lambda self, *said: last_words.append((self.index, *said)))
    met = lines_of([hello(i, count=3) for i in range(3)])
    peers = [Peers(i, *found) for i, found in enumerate(met)]
    for one in peers:
        one.start()
    yield peers, last_words
    for one in peers:
        one._over.set()
        for line in one._lines.values():
            line.close()
    for thread in threading.enumerate():
        if thread.name.startswith(("line to", "heartbeat")):
            thread.join(10)  # what it finds must not end the process of the tests


def test_all_hear_what_each_gives_round_by_round(three):
    peers, said = three

    def act(one):
        return [one.gather([one.index, n, float("nan")])[2][:2] for n in range(20)]

    assert in_threads(act, peers) == [[[2, n] for n in range(20)]] * 3
    in_threads(Peers.finish, peers)
    assert said == []


@pytest.mark.parametrize("who", range(3))
def test_all_stop_at_one_point_that_none_has_passed(three, who):
    peers, said = three
    told = []
    for one in peers:
        one.on_stop = lambda signum, i=one.index: told.append((i, signum))
    barrier = threading.Barrier(3)  # what a step's collectives do: none is a step ahead

    def act(one):
        for point in range(1, 1000):
            barrier.wait(timeout=20)
            time.sleep(0.002 * one.index)
            if one.index == who and point in (5, 6):
                one.ask_to_stop(signal.SIGTERM)
            if signum := one.pass_point():
                return point, signum

    ((point, signum),) = set(in_threads(act, peers))
    assert 5 <= point < 500 and signum == signal.SIGTERM
    assert sorted(told) == [(i, signal.SIGTERM) for i in range(3)]
    in_threads(Peers.finish, peers)
    assert said == []


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


@pytest.mark.parametrize("who", range(3))
def test_a_death_is_told_by_every_survivor(three, who):
    peers, said = three
    for one in peers:
        one.hint = lambda: "go on with: x"
    peers[who].send = lambda other, **message: None  # the dead say nothing
    for line in peers[who]._lines.values():
        line.close()  # what the kernel does when a process dies
    others = set(range(3)) - {who}
    wait_for(lambda: {i for i, *_ in said} >= others)
    for i, sentence, code in said:
        if i in others:
            assert code == 1 and sentence.endswith("so this one ends too; go on with: x")
            assert sentence.startswith(f"error: process {who} of 3 (process 1{who} of here) has d")


@pytest.mark.parametrize(
    "what", [b"\0\0\0\x02{{", b"\x7f\xff\xff\xff"], ids=["no JSON", "too long"]
)
def test_what_is_no_message_ends_the_run_in_a_sentence(what, three):
    peers, said = three
    os.write(peers[1]._lines[0]._connection.fileno(), what)
    wait_for(lambda: len(said) == 2)
    why = "does not talk as a process of this version of jaxnets, so this one ends too"
    assert {(sentence, code) for _, sentence, code in said} == {
        (f"error: process 1 of 3 (process 11 of here) {why}", 1)
    }


def test_an_error_in_one_process_ends_the_others_with_its_sentence(three, monkeypatch):
    monkeypatch.setattr("jaxnets.processes.peers._OWN_WORDS_SECONDS", 0.1)
    peers, said = three
    peers[1].fail(2, "error: the disk is full")
    wait_for(lambda: len(said) >= 2)
    expected = "process 1 of 3 has stopped: error: the disk is full"
    assert sorted(said)[:2] == [(0, expected, 2), (2, expected, 2)]


# ------------------------------------------------------------------------------ the flags


SEVERAL = "--distributed --process-count 2 --start-timeout 1"
MISTAKES = [
    ("--distributed", "finds no cluster", "--coordinator, --process-count and --process-id"),
    ("--process-id 1", "--process-id is for several processes", "--distributed"),
    (f"{SEVERAL} --process-id 2 --coordinator localhost:1", "--process-id", "0..1", "got 2"),
    ("--distributed --process-count 0 --process-id 0 --coordinator localhost:1", "at least 1"),
    (f"{SEVERAL} --process-id 1 --coordinator localhost", "HOST:PORT", "'localhost'"),
    (f"{SEVERAL} --process-id 1 --coordinator localhost:99999", "1..65535"),
    (f"{SEVERAL} --process-id 1 --coordinator nowhere.invalid:9", "nowhere.invalid:9"),
    (f"{SEVERAL} --process-id 1 --coordinator localhost:1 --mode pmap", "--mode jit"),
    (f"{SEVERAL} --process-id 1 --coordinator localhost:1 --start-timeout 0", "above 0"),
]


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("flags,words", [(flags, words) for flags, *words in MISTAKES])
def test_flags_that_make_no_processes_are_one_sentence(flags, words, cli):
    assert_one_error(cli(*CLASSIFY, *flags.split()), *words)


@pytest.mark.usefixtures("workplace")
def test_a_coordinator_that_is_not_there_and_a_port_that_is_taken(cli):
    at = ["--coordinator", f"localhost:{free_port()}"]
    found = cli(*CLASSIFY, *SEVERAL.split(), "--process-id", 1, *at)
    assert_one_error(found, f"no coordinator at {at[1]}: within 1 s", "Connection refused")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        at = ["--coordinator", f"localhost:{taken.getsockname()[1]}"]
        found = cli(*CLASSIFY, *SEVERAL.split(), "--process-id", 0, *at)
        assert_one_error(found, "cannot listen on port", "Address already in use")
        found = cli(*CLASSIFY, *SEVERAL.split(), "--process-id", 1, *at)
        assert_one_error(found, "no coordinator", "was no process 0 that waits")


def test_the_relay_keeps_from_jax_that_the_coordinator_has_gone(monkeypatch):
    monkeypatch.setattr(Peers, "_leave", lambda self, *said: None)
    (peers, guests) = (
        Peers(i, *met) for i, met in enumerate(lines_of([hello(i) for i in range(2)]))
    )
    with (
        relay.relayed(peers, 20.0) as service,
        relay.relayed(guests, 20.0) as way,
        socket.socket(socket.AF_UNIX) as server,
        socket.socket(socket.AF_UNIX) as near,
    ):
        guests.start()
        near.connect(way.removeprefix("unix:"))
        near.sendall(b"ping")  # before process 0 listens to its lines, or jax there to anyone
        peers.start()
        time.sleep(0.2)
        server.bind(service.removeprefix("unix:"))
        server.listen()
        far, _ = server.accept()
        assert far.recv(4) == b"ping"
        far.sendall(b"pong")
        assert near.recv(4) == b"pong"
        far.close()
        near.settimeout(0.5)
        with pytest.raises(TimeoutError):
            near.recv(1)
    in_threads(Peers.finish, [peers, guests])
    for one in (peers, guests):
        for line in one._lines.values():
            line.close()


def test_silence_after_the_end_is_no_loss(three, monkeypatch):
    monkeypatch.setattr("jaxnets.processes.peers._SILENCE_SECONDS", 0.05)
    peers, said = three
    in_threads(Peers.finish, peers)
    time.sleep(0.3)
    assert said == []
