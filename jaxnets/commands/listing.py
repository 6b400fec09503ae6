"""What there is to choose from."""

from __future__ import annotations

from pathlib import Path

from jaxnets import data, losses, models
from jaxnets.commands.configs import presets
from jaxnets.commands.configs.classify import Classify
from jaxnets.commands.configs.constraints import Swept, constraints
from jaxnets.commands.configs.generate import Generate
from jaxnets.commands.configs.use import List
from jaxnets.commands.session import Session
from jaxnets.data import augment
from jaxnets.errors import UserError
from jaxnets.files import read_json
from jaxnets.judge import scoring
from jaxnets.models.conditioning import CONDITIONING
from jaxnets.run.runs import read_run
from jaxnets.train import optimizers


def run(config: List, session: Session) -> None:
    """The command."""
    if config.runs.exists() and not config.runs.is_dir():
        raise UserError(f"--runs {config.runs} is a file; name a folder of runs")
    if not config.runs.exists() and config.runs != List.runs:
        raise UserError(f"there is no folder {config.runs}; name one with --runs")
    groups = {
        "data sets": [n + ("..." if n.endswith(":") else "") for n in data.DATA_SOURCES],
        "classifiers": models.CLASSIFIERS,
        "classifiers of sounds": models.OTHER_CLASSIFIERS["sound"],
        "classifiers of texts": models.OTHER_CLASSIFIERS["tokens"],
        "generators": models.GENERATORS,
        "discriminators": models.DISCRIMINATORS,
        "GAN presets": presets.PRESETS,
        "classification losses": losses.CLASSIFICATION_LOSSES,
        "adversarial losses": losses.ADVERSARIAL_LOSSES,
        "penalties": losses.PENALTIES,
        "GAN augmentations": augment.GAN_AUGMENTATIONS,
        "ways of classes into a discriminator": CONDITIONING,
        "scores of samples": scoring.METRICS,
        "numbers of classify to sweep": dict(constraints(Classify, Swept)),
        "numbers of generate to sweep": dict(constraints(Generate, Swept)),
        "optimizers": optimizers.OPTIMIZERS,
        "schedules": optimizers.SCHEDULES,
    }
    for name, members in groups.items():
        print(f"{name}: {', '.join(members)}")
    print(f"runs in {config.runs}:")
    runs = sorted(config.runs.glob("*/config.json"))
    for path in runs:
        print(f"  {path.parent}  {_describe(path)}")
    if not runs:
        print("  none")


def _describe(path: Path) -> str:
    try:
        made = read_run(path.parent)
        text = made["experiment"]
        if "data" in made["config"]:
            text += f" on {made['config']['data']}"
    except (UserError, OSError):
        return "(its config.json cannot be read)"
    if not (path.parent / "summary.json").exists():
        return f"{text}, unfinished"
    try:
        summary = read_json(path.parent / "summary.json")
        shown = ("test_accuracy", "classification_accuracy_score", "frechet", "auroc")
        numbers = [f"{name} {summary[name]:.4g}" for name in shown if summary.get(name) is not None]
    except (UserError, OSError, AttributeError, TypeError, ValueError):
        return f"{text} (its summary.json cannot be read)"
    return ", ".join([text, *numbers])
