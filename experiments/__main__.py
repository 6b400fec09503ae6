"""`python -m experiments <command>`: the commands of jaxnets, and the evidence for what it says."""

from __future__ import annotations

from experiments import configs
from experiments.benchmarks import bench
from experiments.chaos import chaos
from experiments.studies.configs import StudyCommand
from jaxnets.commands.program import COMMANDS, Program

commands = Program(
    "python -m experiments",
    {
        **COMMANDS,
        "reproduce": (configs.Reproduce, "experiments.reproduce"),
        "families": (configs.Families, "experiments.families"),
        "study": (StudyCommand, "experiments.studies"),
        "judges": (configs.Judges, "experiments.judges"),
        "bench": (bench.Bench, "experiments.benchmarks.bench"),
        "chaos": (chaos.Chaos, "experiments.chaos.chaos"),
    },
)

if __name__ == "__main__":
    commands.process()
