"""`study NAME`: what a CNN and a GAN do for each other, beside plain methods, as one table."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from experiments.studies.configs import FewLabels, Inspection, RareClasses, Spot, Teacher
from jaxnets.commands.configs import constraints
from jaxnets.commands.session import Session

#: config -> the module whose `run(config, session)` is the study.
STUDIES: dict[type, str] = {
    FewLabels: "few_labels",
    RareClasses: "rare_classes",
    Spot: "spot",
    Teacher: "teacher",
    Inspection: "inspect",
}


def run(config: Any, session: Session) -> Path:
    """The command; gives the JSON file with the table."""
    constraints.check(config)
    return importlib.import_module(f"{__name__}.{STUDIES[type(config)]}").run(config, session)
