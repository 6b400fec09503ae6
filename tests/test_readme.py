"""What the README tells a newcomer to type is what there is."""

import re
import shlex
from pathlib import Path

import pytest

from experiments import reproduce
from experiments.__main__ import commands

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "experiments" / "README.md"]


def command_lines():
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        program = r"(?:python -m experiments|(?:^ {4,}|`|&& )jaxnets)"
        for line in re.findall(rf"{program} ([a-z][^`\n|#]*)", text, re.MULTILINE):
            if not re.search(r"[A-Z]{3}", line):  # NAME and RUN stand for something
                yield line.strip().rstrip(".:;,")


@pytest.mark.parametrize("line", sorted(set(command_lines())))
def test_every_command_parses(line):
    assert commands.parse(shlex.split(line)) is not None


def test_there_are_commands():
    assert len(set(command_lines())) >= 20


def test_the_examples_in_python_learn(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXNETS_CACHE", str(tmp_path))
    names = {}
    printed = []
    pages = "".join(page.read_text() for page in PAGES)
    for code in re.findall(r"```python\n(.*?)```", pages, re.DOTALL):
        shorter = code.replace("range(0, 300, 10)", "range(0, 60, 10)")
        shorter = shorter.replace("range(0, 1000, 10)", "range(0, 10, 10)")
        assert shorter != code or "range(" not in code
        # One device: the example takes all there are, and eight virtual ones share two cores.
        shorter = shorter.replace("jn.make_mesh()", "jn.make_mesh(1)")
        exec(compile(shorter, "README.md", "exec"), names)
        printed.append(capsys.readouterr().out)
    accuracy = re.search(r"test accuracy ([\d.]+)%", printed[0])
    assert accuracy is not None
    assert float(accuracy[1]) > 60
    scores = [line.split(" ")[0] for line in printed[1].splitlines()]
    assert scores == ["frechet", "precision,", "recall,", "recognised"]


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
            place, _, heading = target.partition("#")
            if not target.startswith("http"):
                there = page.parent / place if place else page
                assert there.exists(), f"{page.name}: {target}"
                if heading:
                    titles = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
                    assert heading in [title.lower().replace(" ", "-") for title in titles], target


def test_every_result_has_a_command_and_a_file():
    text = PAGES[1].read_text()
    for name in reproduce.RESULTS:
        assert f"`reproduce {name}" in text
        assert (ROOT / "experiments" / "results" / f"{name}.json").exists()


def test_spreads_are_mean_and_sample_deviation():
    runs = [{"a": 1.0, "b": None, "flag": True}, {"a": 3, "b": 1.0, "flag": True}]
    found = reproduce.spreads(runs)
    assert found == {"a": {"mean": 2.0, "std": pytest.approx(2**0.5), "min": 1.0, "max": 3.0}}
