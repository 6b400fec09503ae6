"""The CNNs that come with jaxnets as judges, made anew."""

from __future__ import annotations

from pathlib import Path

from experiments.configs import Judges
from jaxnets.commands import classify, judging
from jaxnets.commands.configs.classify import Classify
from jaxnets.commands.session import Session
from jaxnets.files import check_writable, write_files
from jaxnets.run.export import export_safetensors
from jaxnets.run.load import load_run

#: Data set -> what `classify` is told beyond its defaults. Both files together stay below 3 MB.
_TRAININGS = {"digits": {"width": 0.25}, "fashion_mnist": {}}


def run(config: Judges, session: Session) -> None:
    """The command."""
    for data, options in _TRAININGS.items():
        place = judging.shipped_cnn(data)
        out = place if config.out is None else config.out / place.name
        check_writable(out, "--out")
        folder = (config.run_dir or Path("runs") / "judges") / data
        classify.run(Classify(data=data, run_dir=folder, **options), session)
        write_files({out: export_safetensors(load_run(folder))})
        print(f"  weights: {out}")
