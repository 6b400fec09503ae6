"""Flags for classes of few training images."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from jaxnets.commands.configs.constraints import COUNT, DECAY, Needs

_EFFECTIVE = Needs("--balance effective", lambda config: config.balance == "effective")
_SAMPLES = Needs(
    "samples to add: name a run of `generate` with --add-samples",
    lambda config: config.add_samples is not None,
)


@dataclasses.dataclass(frozen=True)
class BalanceOptions:
    """What makes up for classes of few training images."""

    GROUP: ClassVar[str] = "balance"

    balance: Literal["none", "weights", "effective", "oversample", "softmax"] = "none"
    """weights: weigh examples by the inverse frequency of their class; effective: by its effective
    number of examples (Cui 2019); oversample: show all classes equally often; softmax: train with
    the classes' shares in the logits (balanced softmax, Ren 2020)."""
    balance_beta: Annotated[float, DECAY, _EFFECTIVE] = 0.999
    """Of effective: 0 weighs all classes alike, towards 1 by their inverse frequency."""
    add_samples: Path | None = None
    """Folder of a run of `generate` on the same training images. Its samples join them: of each
    class as many as it lacks."""
    per_class: Annotated[int | None, COUNT, _SAMPLES] = None
    """Training images that each class is filled up to with samples; by default as many as the
    largest class has."""
    keep_by: Annotated[Path | None, _SAMPLES] = None
    """Folder of a run of `classify` on the same training images. Only those samples join that it
    takes for their class, and whose features are as near to a real image of the class as real
    images are to each other, but for the farthest 5 of 100."""
