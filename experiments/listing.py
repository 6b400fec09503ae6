"""What there is to choose from."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class List:
    """List data sets, networks, losses, and the runs made so far."""

    runs: Path = Path("runs")
    """Folder in which to look for runs."""


def run(config: List) -> None:
    """The command."""
    from jaxnets import augment, data, losses, models, optimizers

    groups = {
        "data sets": [n + ("..." if n.endswith(":") else "") for n in data.DATA_SOURCES],
        "classifiers": models.CLASSIFIERS,
        "generators": models.GENERATORS,
        "discriminators": models.DISCRIMINATORS,
        "classification losses": losses.CLASSIFICATION_LOSSES,
        "adversarial losses": losses.ADVERSARIAL_LOSSES,
        "penalties": losses.PENALTIES,
        "GAN augmentations": augment.GAN_AUGMENTATIONS,
        "optimizers": optimizers.OPTIMIZERS,
        "schedules": optimizers.SCHEDULES,
    }
    for name, members in groups.items():
        print(f"{name}: {', '.join(members)}")
    print(f"runs in {config.runs}:")
    found = sorted(config.runs.glob("*/config.json"))
    for path in found:
        print(f"  {path.parent}  {_describe(path)}")
    if not found:
        print("  none")


def _describe(path: Path) -> str:
    try:
        made = json.loads(path.read_text())
        text = f"{made['experiment']} on {made['config'].get('data', '?')}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "(its config.json cannot be read)"
    try:
        summary = json.loads((path.parent / "summary.json").read_text())
    except (OSError, ValueError):
        return f"{text}, unfinished"
    shown = ("test_accuracy", "classification_accuracy_score", "frechet")
    numbers = [f"{name} {summary[name]:.4g}" for name in shown if summary.get(name) is not None]
    return ", ".join([text, *numbers])
