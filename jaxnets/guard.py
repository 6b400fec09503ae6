"""What a training run must be told of its own numbers: that they are not finite, or say collapse.

The compiled step counts, for each network and each term of its update, the steps in which the term
was finite (see `jaxnets.descent.descend`). Those counts come to the host with the metrics, so
finding a fault costs no further transfer.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from jaxnets.descent import FINITE

__all__ = ["Fault", "collapse_warnings", "find_faults", "members", "without_flags"]

#: In the order in which one makes the next non-finite.
_TERMS = ("penalty", "loss", "gradient", "update", "model_state")


@dataclasses.dataclass(frozen=True)
class Fault:
    """The first term of a call of the step that was not finite.

    Attributes:
      step: number of the step, from 1.
      net: the network that it was an update of.
      term: "penalty", "loss", "gradient", "update" or "model_state" (BatchNorm's statistics).
      member: of a population; "" in an ordinary run.
    """

    step: int
    net: str
    term: str
    member: str = ""

    def __str__(self) -> str:
        term = self.term.replace("_", " ")
        return f"the {self.net}'s {term} is not finite in step {self.step}"


def find_faults(values: Mapping[str, float], first: int, steps: int) -> list[Fault]:
    """The first fault of a run, or of each member of a population, in one call of the step.

    Args:
      values: the metrics of the call.
      first: number of its first step, from 0.
      steps: how many it made.
    """
    found: dict[str, tuple[Any, Fault]] = {}
    for name, share in values.items():
        head, *parts = name.split("/")
        if head != FINITE or share == 1.0:
            continue
        net, term, member = (*parts, "")[:3]
        good = math.floor(share * steps + 1e-6)
        if term == "penalty":
            # Under lazy regularisation its share is one of fewer steps; the loss contains it and
            # is there in all of them.
            whole = values.get("/".join([FINITE, net, "loss", *parts[2:]]), 0.0)
            good = max(good, math.floor(whole * steps + 1e-6))
        fault = Fault(first + good + 1, net, term, member)
        # Of one step's faults: the discriminator is updated before the generator.
        order = (fault.step, net, _TERMS.index(term))
        if member not in found or order < found[member][0]:
            found[member] = (order, fault)
    members = [fault for member, (_, fault) in found.items() if member]
    return members or [fault for _, fault in found.values()]


def members(values: Mapping[str, float]) -> set[str]:
    """The names of a population's members, by the metrics of a call; of an ordinary run, none."""
    flags = [name.split("/") for name in values]
    return {parts[3] for parts in flags if parts[0] == FINITE and len(parts) > 3}


def without_flags(values: Mapping[str, float]) -> dict[str, float]:
    """The metrics that are worth writing down."""
    return {k: v for k, v in values.items() if k.split("/")[0] != FINITE}


def collapse_warnings(values: Mapping[str, float]) -> dict[str, str]:
    """What the metrics of a GAN say of how it may fail, in plain words.

    Args:
      values: of its training (`d_sign_real`, `d_sign_fake`) or of its evaluation
        (`samples_least_class_share`, `samples_spread`).

    Returns:
      kind of trouble -> sentence.
    """
    found = {}
    real, fake = values.get("d_sign_real", 0.0), values.get("d_sign_fake", 0.0)
    if real > 0.98 and fake < -0.98:
        found["discriminator wins"] = (
            "the discriminator tells practically every image, so the generator learns little from "
            "it; a penalty (--penalty r1), augmentation (--augment) or a lower "
            "--discriminator-learning-rate helps"
        )
    if abs(real) > 0.98 and abs(fake) > 0.98 and real * fake > 0:
        found["discriminator is blind"] = (
            "the discriminator gives reals and fakes the same answer, so the generator learns "
            "nothing from it; raise --discriminator-learning-rate or lower --penalty-weight"
        )
    spread = values.get("samples_spread", math.nan)
    if spread < 0.3:
        found["mode collapse"] = (
            f"samples of a class differ by only {spread:.0%} of what real images do, as a CNN sees "
            "them: the generator makes few different images (mode collapse)"
        )
    least = values.get("samples_least_class_share", math.nan)
    if least < 0.2:
        found["missing class"] = (
            f"of one class a CNN finds only {least:.0%} of the samples that there should be: the "
            "generator leaves it out"
        )
    return found
