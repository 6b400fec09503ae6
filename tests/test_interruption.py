"""Signals: the state is saved and the run leaves, whatever it was doing; nothing stays behind."""

import os
import signal
import subprocess
import threading

import pytest

from jaxnets.processes import distributed
from jaxnets.run.interruption import Cut, Interruption
from signals_sent import BOTH, NAMES, python, send


def words(signum):
    return "last words"


def interruption(grace=60.0):
    return Interruption(grace, words)


def watchdogs():
    return [thread for thread in threading.enumerate() if thread.name == "signal watchdog"]


def left_behind():
    """Handlers, the file that signals are written to, and watchdogs of this process."""
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    return [signal.getsignal(number) for number in BOTH], wakeup, len(watchdogs())


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    before = left_behind()
    yield
    for thread in watchdogs():
        thread.join(5.0)
    assert left_behind() == before


# ---------------------------------------------------------------------------------- in a block


@pytest.mark.parametrize("numbers", [BOTH[:1], BOTH[1:], BOTH[1:] * 2], ids=str)
def test_signals_are_noted_and_work_goes_on(numbers):
    with interruption() as heard:
        for number in numbers:
            send(number)
        assert heard.caught == numbers


@pytest.mark.parametrize("first", BOTH, ids=NAMES)
def test_a_ctrl_c_after_a_signal_interrupts_at_once(first):
    reached = []

    def work():
        with interruption():
            send(first)
            reached.append("after the first")
            send(signal.SIGINT)
            reached.append("after the second")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["after the first"]


@pytest.mark.parametrize("number", BOTH, ids=NAMES)
def test_work_that_may_be_cut_is_left_at_its_next_pause(number):
    reached = []

    def evaluate(heard):
        with heard.cuttable(words):
            reached.append("its beginning")
            send(number)
            distributed.pause()
            reached.append("what comes after a pause")

    with interruption() as heard:
        with pytest.raises(Cut):
            evaluate(heard)
        assert heard.caught == [number]
        with pytest.raises(Cut):  # and is not begun again
            evaluate(heard)
    assert reached == ["its beginning"]


def test_what_comes_after_work_that_may_be_cut_is_not_cut():
    with interruption() as heard:
        with heard.cuttable(words):
            pass
        send(signal.SIGTERM)
        distributed.pause()
        assert heard.caught == [signal.SIGTERM]


def test_an_error_in_the_block_leaves_nothing_behind():
    with pytest.raises(ZeroDivisionError), interruption():
        raise ZeroDivisionError


def test_blocks_leave_no_files_open():
    before = len(os.listdir("/proc/self/fd"))
    for number in BOTH * 10:
        with interruption():
            send(number)
    for thread in watchdogs():
        thread.join(5.0)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_handlers_of_others_come_back():
    def theirs(signum, frame):
        raise AssertionError("not while the block lasts")

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = [signal.signal(number, theirs) for number in BOTH]
    wakeup = signal.set_wakeup_fd(writer)
    try:
        with interruption() as heard:
            send(signal.SIGINT)
            assert heard.caught == [signal.SIGINT]
        assert [signal.getsignal(number) for number in BOTH] == [theirs] * 2
        assert signal.set_wakeup_fd(wakeup) == writer
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in zip(BOTH, before, strict=True):
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)


def test_outside_the_main_thread_it_does_nothing():
    found = {}

    def work():
        before = [signal.getsignal(number) for number in BOTH]
        with interruption() as heard:
            found["same"] = [signal.getsignal(number) for number in BOTH] == before
            with heard.cuttable(words):
                found["watchdogs"] = len(watchdogs())
        found["caught"] = heard.caught

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == {"same": True, "watchdogs": 0, "caught": []}


# -------------------------------------------------------------------------------- the watchdog

BLOCKED = """
import hashlib, signal, sys, time
from jaxnets.run.interruption import Interruption

def last_words(signum):
    {words}

with Interruption(0.3, last_words):
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # one call that Python can't leave
"""

TWICE = """
import time
from jaxnets.run.interruption import Interruption, Watchdog

with Watchdog(0.0, lambda signum: "the command's words"):
    with Interruption(60.0, lambda signum: "the loop's") as heard:
        print("ready", flush=True)
        while not heard.caught:
            time.sleep(0.01)
        print("noted", flush=True)
        time.sleep(60)
"""

IN_TIME = """
import os, signal, time
from jaxnets.run.interruption import Interruption

signal.signal(signal.SIGUSR1, lambda *_: None)
with Interruption(0.3, lambda signum: "last words"):
    os.kill(os.getpid(), signal.SIGUSR1)  # none of its business
    time.sleep(0.6)
    os.kill(os.getpid(), signal.SIGTERM)  # saved, and left, in time
time.sleep(0.6)
print("alive")
"""


def outcome(code, *signals):
    """Exit code and output of a process that gets one of the signals after each line it prints."""
    with python(code, stderr=subprocess.PIPE) as process:
        for number in signals:
            assert process.stdout.readline()
            process.send_signal(number)
        out, err = process.communicate(timeout=100)
    return process.returncode, out, err


@pytest.mark.parametrize("number", BOTH, ids=NAMES)
def test_a_call_that_does_not_end_is_ended(number):
    words = 'return f"too long for signal {int(signum)}"'
    said = f"too long for signal {int(number)}\n"
    assert outcome(BLOCKED.format(words=words), number) == (128 + number, "", said)


@pytest.mark.parametrize("number", BOTH, ids=NAMES)
def test_a_second_ctrl_c_ends_a_command_at_once(number):
    assert outcome(TWICE, number, signal.SIGINT) == (130, "", "the command's words\n")


def test_who_leaves_in_time_is_not_ended():
    assert outcome(IN_TIME) == (0, "alive\n", "")


def test_a_signal_that_was_ignored_before_is_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruption() as heard:
            send(signal.SIGINT)
            send(signal.SIGTERM)
            assert heard.caught == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("words", ["return 'said to no one'", "raise ZeroDivisionError"])
def test_it_ends_whether_or_not_its_last_words_can_be_said(words):
    reader, writer = os.pipe()
    os.close(reader)  # the terminal is gone: who writes there gets an error
    try:
        with python(BLOCKED.format(words=words), stderr=writer) as process:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=100)
    finally:
        os.close(writer)
    assert process.returncode == 128 + signal.SIGTERM
