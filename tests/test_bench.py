"""`bench`: what it measures, what it says of two files, and what it says of a mistake."""

import copy
import functools
import json

import jax
import pytest

from command_lines import assert_one_error
from experiments.__main__ import commands
from experiments.benchmarks import cases, measure

#: With nothing but a short window, small matrices and a small network.
TINY = "--network lenet5 --width 0.5 --batch-size 4 --image-size 8 --rounds 2 --min-seconds 0.001"


@pytest.fixture(autouse=True)
def _small_peak(monkeypatch):
    monkeypatch.setattr(measure, "PEAK_SIZES", (16, 32))


@pytest.fixture
def cli(cli):
    """Runs `bench`: (exit code, standard output, standard error)."""
    return functools.partial(cli, "bench")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A file of one case, and what the command printed is of no interest."""
    path = tmp_path_factory.mktemp("bench") / "sub" / "a.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "PEAK_SIZES", (16, 32))
        arguments = ["bench", "classifier", *TINY.split(), "--calls", "1,2", "--json", str(path)]
        assert commands.main(arguments) == 0
    return path


def test_the_file_holds_every_figure(measured):
    content = json.loads(measured.read_text())
    assert content["machine"]["jax"] == jax.__version__
    assert {"cpu", "threads", "load_average", "xla_flags", "cores"} <= set(content["machine"])
    assert content["flags"]["batch_size"] == 4
    assert content["flags"]["calls"] == "1,2"
    (case,) = content["cases"]
    assert case["case"] == {
        "kind": "classifier",
        **vars(cases.ClassifierCase(4, 8, 1, 0.5, network="lenet5")),
    }
    before = case["seconds_before_steps"]
    assert all(before[name] > 0 for name in ("trace", "lower", "compile", "first_call"))
    times = case["step_seconds"]
    assert len(times["values"]) == 2
    assert times["min"] <= times["quartiles"][0] <= times["median"] <= times["max"]
    assert case["images_per_second"] == pytest.approx(4 / times["median"])
    assert case["flops_per_second"] == pytest.approx(case["flops"]["total"] / times["median"])
    rates = case["peak"]["values"]
    shares = [case["flops"]["total"] / t / r for t, r in zip(times["values"], rates, strict=True)]
    assert case["share_of_peak"]["values"] == pytest.approx(shares)
    assert case["peak"]["size"] in (16, 32)
    assert case["donation"]["took"]
    assert case["memory"]["aliased"] >= case["donation"]["bytes"] > 0
    assert case["loop_nests"] == []
    assert case["collectives"] == {"per_step": [], "least": {}}
    assert sum(row["runs"] for row in case["paths"]) > 0
    assert set(case["calls"]) == {"1", "2"}
    assert case["calls"]["1"]["values"] == times["values"]


def test_the_table_has_its_cases(cli, monkeypatch, measured, tmp_path):
    """`bench` alone measures every case of the table; here with figures made before."""
    (known,) = json.loads(measured.read_text())["cases"]
    monkeypatch.setattr(
        measure, "measure", lambda case, config, calls: {**known, "name": case.name}
    )
    path = tmp_path / "all.json"
    code, out, _ = cli("--json", path)
    assert code == 0
    found = [case["name"] for case in json.loads(path.read_text())["cases"]]
    assert found == [
        "resnet_3x2 28x28x1 batch 128",
        "resnet_3x2 28x28x1 batch 512",
        "resnet18 32x32x3 batch 128",
        "dcgan 28x28x1 batch 128",
        "dcgan + r1 28x28x1 batch 128",
        "sngan hinge width 0.25 28x28x1 batch 64",
        "r3gan relativistic + r1_r2 width 0.0625 28x28x1 batch 64",
    ]
    last = out[out.rindex("case ") :].splitlines()
    assert [line.split("  ")[0] for line in last[2:9]] == found


MISTAKES = [
    ("classifier --network resnet", 'no classifier "resnet"', "resnet18"),
    ("gan --family stylegan", 'no generator "stylegan"', "dcgan"),
    ("gan --penalty r3", "r3", "wgan_gp"),
    ("gan --image-size 4", "8 to 256 pixels"),
    ("classifier --batch-size 0", "--batch-size must be at least 1"),
    ("classifier --width -1", "width"),
    ("classifier --width nan", "--width must be finite"),
    ("classifier --seed -1", "--seed"),
    ("classifier --batch-size 1000000000", "TB of memory", "are free"),
    ("classifier --devices 0", "--devices must be at least 1"),
    ("classifier --devices 99", "99 CPU devices were asked for and jax has 8", "XLA_FLAGS"),
    (f"classifier {TINY} --devices 3", "4 is not divisible by the 3 devices"),
    ("classifier --rounds 0", "--rounds must be at least 1"),
    ("classifier --min-seconds 0", "--min-seconds must be above 0"),
    ("gan --min-seconds nan", "--min-seconds must be finite, got nan"),
    ("classifier --steps-per-call 0", "--steps-per-call must be at least 1"),
    ("classifier --calls 1,x", "--calls", "1,x"),
    ("classifier --calls 0", "--calls"),
    ("classifier --json .", "is a folder"),
    ("--json F classifier", "write --json after the name of the subcommand"),
    ("--compare nowhere.json nowhere.json", "there is no file nowhere.json"),
]


@pytest.mark.parametrize("line,words", [(line, words) for line, *words in MISTAKES])
def test_a_mistake_is_one_sentence(line, words, cli, workplace):
    assert_one_error(cli(*line.split()), *words, after_progress=True)
    assert not list(workplace.iterdir())


def test_without_pytorch_there_is_nothing_to_compare_with(cli, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for line in ("--against torch", "gan --against torch"):
        assert_one_error(cli(*line.split()), 'pip install "jaxnets[bench]"')


@pytest.fixture
def pair(measured, tmp_path):
    """Writes the measured file twice, the second as a function has changed it."""

    def write(change):
        after = json.loads(measured.read_text())
        before = copy.deepcopy(after)
        change(before, after)
        paths = tmp_path / "before.json", tmp_path / "after.json"
        for path, content in zip(paths, (before, after), strict=True):
            path.write_text(json.dumps(content))
        return paths

    return write


def slower(factor):
    def change(before, after):
        after["cases"][0]["step_seconds"]["median"] *= factor

    return change


@pytest.mark.parametrize("factor,code", [(1.0, 0), (1.05, 0), (1.2, 1), (0.5, 0)])
def test_the_gate_closes_on_what_became_slower(factor, code, cli, pair):
    got, out, _ = cli("--compare", *pair(slower(factor)))
    assert got == code
    assert ("worse by more than 1.1 times: lenet5" in out) == bool(code)
    assert ("better" in out) == (factor < 0.9)
    assert f"{factor:.3f}" in out
    assert cli("--compare", *pair(slower(factor)), "--max-ratio", 1.3)[0] == 0


def test_between_machines_only_ratios_count(cli, pair):
    def change(before, after):
        slower(10)(before, after)
        after["machine"]["cpu"] = "another"
        for content, ratio in ((before, 1.0), (after, 1.05)):
            content["cases"][0]["against"] = {"name": "torch", "ratio": ratio}

    code, out, _ = cli("--compare", *pair(change))
    assert code == 0
    assert "different machines (cpu " in out and "another" in out
    assert "time / torch's" in out and "share of the peak" in out
    assert cli("--compare", *pair(change), "--max-ratio", 1.01)[0] == 1

    def less_of_the_peak(before, after):
        change(before, after)
        after["cases"][0]["share_of_peak"]["median"] /= 2

    code, out, _ = cli("--compare", *pair(less_of_the_peak))
    assert code == 1
    assert "share of the peak" in out.splitlines()[-1]


def test_files_that_do_not_compare_are_refused(cli, pair, tmp_path):
    def other_devices(before, after):
        after["cases"][0]["devices"] = 2

    assert_one_error(cli("--compare", *pair(other_devices)), "no case in common", "lenet5")
    good = pair(slower(1))[0]
    bad = tmp_path / "bad.json"
    for content in ("{", "[]", '{"format": "other"}', "\xff"):
        bad.write_text(content, encoding="latin-1")
        assert_one_error(cli("--compare", good, bad), "bad.json was not written by")
    assert_one_error(cli("--compare", good, good, "--max-ratio", 0), "--max-ratio")
