"""The pieces of `chaos`: what it plans, what it does to files, and that it sees what is lost.

Its real runs are in test_chaos_runs.py.
"""

import dataclasses
import json
import signal
from pathlib import Path

import numpy as np
import pytest

from command_lines import assert_one_error
from experiments.chaos import chaos, corruption, devices, signals, storage, undisturbed
from experiments.chaos.faults import Chain, Fault, Moment, last_line, lose
from experiments.chaos.striking import Striker
from experiments.chaos.trainee import RUNS, Stage, Stuck, Timing, Trainee

BOTH = tuple(RUNS)
TIMING = Timing(cold=4.0, start=1.0, train=1.0, save=0.1, end=0.5)

# -------------------------------------------------------------------------------------- plans

PLANS = {
    "kills": signals.plan_kills,
    "terms": signals.plan_terms,
    "devices": devices.plan,
    "corruptions": corruption.plan,
    "storage": lambda *args: storage.plan(*args, ["limit", "full", "deleted"]),
}


@pytest.mark.parametrize("kind", PLANS)
def test_a_seed_is_a_plan(kind):
    plan = PLANS[kind]
    assert plan(3, 17, BOTH) == plan(3, 17, BOTH) != plan(4, 17, BOTH)
    per_run = dict.fromkeys(BOTH, 0)
    for one in plan(3, 17, BOTH):
        per_run[one.run] += 1 if kind == "corruptions" else len(one.faults)
    assert per_run == {"classify": 9, "generate": 8}
    assert plan(3, 0, BOTH) == []


# ------------------------------------------------------------------------------------ verdicts


def final(**changes):
    arrays = {"w": ("float32", (2,), np.float32([1, 2]).tobytes())}
    arrays["key"] = ("uint32", (2,), bytes(8))
    curve = [{"split": "train", "step": 8, "loss": 0.5}, {"split": "eval", "step": 8, "score": 1.0}]
    values = {"step": 8, "arrays": arrays, "sums": {"w": ["float32", [2], "ab"]}, "curve": curve}
    return undisturbed.Final(**{**values, **changes})


def test_every_difference_from_the_undisturbed_run_is_seen():
    usual = final()
    assert undisturbed.difference(final(), usual) is None
    other = {**usual.arrays, "w": ("float32", (2,), np.float32([1, 2.0000002]).tobytes())}
    cases = {
        "step 6, not 8": final(step=6),
        "1 of 2 arrays differ, the first is w": final(arrays=other),
        "other arrays": final(arrays={"w": usual.arrays["w"]}),
        "checksums are not": final(sums={}),
        "metrics.jsonl differs": final(curve=usual.curve[:1]),
    }
    for words, found in cases.items():
        assert words in undisturbed.difference(found, usual)


@dataclasses.dataclass
class Act:
    """What a pretended process does."""

    code: int = 0
    err: str = ""
    out: str = "run folder: x\n"
    struck: bool = True
    took: float = 0.0
    hangs: bool = False


class Pretended(Trainee):
    """A process that there is not."""

    age = 1.0
    out = property(lambda self: self.act.out)
    err = property(lambda self: self.act.err)

    def __init__(self, act, arguments, clock):
        self.act, self.arguments, self.pid, self.clock = act, list(arguments), 0, clock
        self.folder = Path(arguments[arguments.index("--run-dir") + 1])
        self.sent = []

    def wait_for(self, moment, usual, share=1.0):
        return self.act.struck

    def send(self, number):
        self.sent.append(number)

    def wait(self):
        self.clock[0] += self.act.took
        if self.act.hangs:
            raise Stuck("it hung for 240 s")
        return -signal.SIGKILL if self.sent == [signal.SIGKILL] else self.act.code


class PretendedStage(Stage):
    """Starts one act after the other."""

    def __init__(self, folder, acts, monkeypatch):
        super().__init__(folder, lambda text: None)
        self.acts, self.started, self.clock = list(acts), [], [100.0]
        monkeypatch.setattr(signals.time, "monotonic", lambda: self.clock[0])

    def start(self, arguments, name, **environment):
        self.started.append((list(arguments), environment))
        (self.folder / name.rsplit(".", 1)[0]).mkdir(exist_ok=True)
        return Pretended(self.acts.pop(0), arguments, self.clock)


def struck(kind, faults, acts, tmp_path, monkeypatch, ends="the same"):
    """The faults of a chain on pretended processes, and the stage."""
    stage = PretendedStage(tmp_path, acts, monkeypatch)
    reference = undisturbed.Reference(("classify",), tmp_path, TIMING, final())
    monkeypatch.setattr(
        "experiments.chaos.striking.judge",
        lambda stage, folder, usual: None if ends == "the same" else ends,
    )
    maker = {"kills": signals.Killer, "terms": signals.Terminator, "storage": storage.Meddler}[kind]
    striker: Striker = maker(stage, reference)
    chain = Chain(kind, "classify", 1, tuple(faults))
    return striker.strike(chain), stage


KILLS = [Moment("start", 0.5), Moment("train", 0.5)]


def test_kills_are_survived_when_the_run_ends_with_the_bits(tmp_path, monkeypatch):
    faults, stage = struck("kills", KILLS, [Act(), Act(), Act()], tmp_path, monkeypatch)
    assert [fault.outcome for fault in faults] == ["killed", "killed"]
    assert last_line(faults) == "2 faults, 2 survived, 0 lost"
    assert len({tuple(arguments) for arguments, _ in stage.started}) == 1  # the same command
    assert not (tmp_path / "kills-classify-1-1").exists()


def test_all_kills_of_a_run_that_ends_otherwise_are_lost(tmp_path, monkeypatch):
    acts = [Act(), Act(), Act()]
    faults, _ = struck("kills", KILLS, acts, tmp_path, monkeypatch, ends="array w differs")
    assert last_line(faults) == "2 faults, 0 survived, 2 lost"
    assert {fault.lost for fault in faults} == {"array w differs"}
    assert faults[0].folder == tmp_path / "kills-classify-1-1"
    assert faults[0].folder.is_dir()  # kept, to be looked at
    assert faults[0].as_json()["survived"] is False


@pytest.mark.parametrize(
    "last,words",
    [
        (Act(code=2, err="error: no checkpoint is good\n"), "exit code 2; last words: error: no"),
        (Act(hangs=True), "it hung"),
        (Act(err="Traceback (most recent call last):\nKeyError: 1\n"), "a traceback (KeyError: 1)"),
        (Act(err="Exception ignored in: x\nOSError\n"), "a traceback (OSError)"),
    ],
)
def test_a_run_that_does_not_go_on_is_lost(last, words, tmp_path, monkeypatch):
    faults, _ = struck("kills", KILLS, [Act(), Act(), last], tmp_path, monkeypatch)
    assert len(faults) == 2 and all(words in fault.lost for fault in faults)


def test_a_run_that_ends_too_early_is_made_anew_and_struck_sooner(tmp_path, monkeypatch):
    acts = [Act(struck=False), Act(), Act()]
    faults, stage = struck("kills", KILLS[:1], acts, tmp_path, monkeypatch)
    assert [fault.what for fault in faults] == ["start 0.25"]
    assert stage.started[0] != stage.started[1] == stage.started[2]  # another run folder


GO_ON = "go on with:\n  python -m experiments classify --run-dir there\n"
STEP = "lenet5 on digits: 10 epochs, 224 steps; compiled in 2 s\n"
SAVED = f"{STEP}interrupted by SIGTERM and saved at step 4; {GO_ON}"


def test_a_process_that_is_told_to_end_saves_and_says_how_to_go_on(tmp_path, monkeypatch):
    acts = [Act(143, SAVED, took=9.5), Act()]
    faults, stage = struck("terms", [Moment("compile", 0.5)], acts, tmp_path, monkeypatch)
    assert [fault.lost for fault in faults] == [None] and faults[0].seconds == 9.5
    assert stage.started[1][0] == ["classify", "--run-dir", "there"]  # as it was told
    assert stage.started[0][1] == {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    assert chaos.seconds_of_terms(faults)["greatest"] == 9.5


@pytest.mark.parametrize(
    "first,words",
    [
        (Act(143, SAVED, took=10.5), "gone after 10.5 s only"),
        (Act(1, SAVED), "the exit code was 1"),
        (Act(143, f"{STEP}terminated; {GO_ON}"), "it did not save"),
        (Act(143, "terminated\n"), "it did not say how to go on"),
        (Act(143, f"Exception ignored in: <f>\nTerminated\n{SAVED}"), "a traceback"),
        (Act(hangs=True), "it hung"),
    ],
)
def test_a_process_that_does_not_end_well_is_lost(first, words, tmp_path, monkeypatch):
    faults, _ = struck("terms", [Moment("train", 0.5)], [first, Act()], tmp_path, monkeypatch)
    assert [words in fault.lost for fault in faults] == [True]


@pytest.mark.parametrize(
    "first,lost",
    [
        (Act(2, "error: the checkpoint could not be saved\n"), None),
        (Act(0), None),
        (Act(1, ""), "the exit code was 1"),
        (Act(2, ""), "it stopped with 0 sentences"),
        (Act(2, "error: a\nerror: b\n"), "it stopped with 2 sentences"),
        (Act(2, "Traceback (most recent call last):\nX\nerror: a\n"), "it printed a traceback"),
    ],
)
def test_a_run_stops_with_one_sentence_where_it_cannot_write(first, lost, tmp_path, monkeypatch):
    undone = []
    monkeypatch.setitem(storage._DO, "limit", lambda trainee: lambda: undone.append(trainee))
    planned = [Moment("train", 0.5, "limit")]
    (fault,), _ = struck("storage", planned, [first, Act()], tmp_path, monkeypatch)
    assert len(undone) == 1
    assert (fault.lost is None) if lost is None else (lost in fault.lost)


# ---------------------------------------------------------------------------------- the command


def test_what_is_lost_is_explained_and_counted(cli, workplace, monkeypatch):
    def strike(stage, config, counts, runs, faults, notes):
        faults += [Fault("kills", "classify", "train 0.1"), Fault("terms", "generate", "end 0.2")]
        faults[1].seconds = 11.0
        lose(faults[1:], "it was gone after 11.0 s only", stage.folder / "terms-generate-1-1")

    monkeypatch.setattr(chaos, "_strike", strike)
    code, out, _ = cli("chaos", "--folder", "runs", "--json", "out/chaos.json")
    assert code == 1
    *before, explained, last = out.splitlines()
    assert last == "2 faults, 1 survived, 1 lost"
    assert "terms of generate, end 0.2: it was gone" in explained
    assert "terms-generate-1-1" in explained
    left = json.loads((workplace / "out" / "chaos.json").read_text())
    assert left["result"] == last and left["seconds_after_sigterm"]["greatest"] == 11.0
    assert [fault["survived"] for fault in left["faults"]] == [True, False]
    assert left["machine"]["jax"] and left["seed"] == 0


@pytest.mark.parametrize(
    "flags,words",
    [
        (["--only", "kills,floods"], ["--only takes kills, terms", "'floods'"]),
        (["--of", "cnn"], ["--of takes classify, generate, got 'cnn'"]),
        (["--kills", -1], ["--kills must be at least 0, got -1"]),
        (["--only", "terms", "--kills", 3], ["--kills 3", "contradict"]),
        (["--only", "terms", "--terms", 0], ["there is no fault to do"]),
        (["--jobs", 0], ["--jobs must be at least 1"]),
        (["--seed", -1], ["--seed must be in 0"]),
        (["--json", "."], ["--json . is a folder"]),
        (["--folder", "full"], ["--folder full is not empty"]),
    ],
)
def test_mistakes_are_one_sentence(flags, words, cli, workplace):
    (workplace / "full").mkdir()
    (workplace / "full" / "thesis.tex").write_text("")
    assert_one_error(cli("chaos", *flags), *words)
