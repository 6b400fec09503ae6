"""What a training run must be told of its own numbers: that they are not finite, or say collapse.

The compiled step counts, for each network and each term of its update, the steps in which the term
was finite (see `jaxnets.train.descent.descend`). Those counts come to the host with the metrics, so
finding a fault costs no further transfer.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

from jaxnets.train.descent import FINITE

__all__ = [
    "CollapseWatch",
    "Fault",
    "collapse_warnings",
    "find_faults",
    "members",
    "without_flags",
]

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
    first_of: dict[str, tuple[Any, Fault]] = {}
    for name, share in values.items():
        head, *parts = name.split("/")
        if head != FINITE or share == 1.0:
            continue
        net, term, member = (*parts, "")[:3]
        good = math.floor(share * steps + 1e-6)
        if term == "penalty":
            # Under lazy regularisation its share is one of fewer steps; the loss contains it and
            # is there in all of them.
            of_loss = values.get("/".join([FINITE, net, "loss", *parts[2:]]), 0.0)
            good = max(good, math.floor(of_loss * steps + 1e-6))
        fault = Fault(first + good + 1, net, term, member)
        # Of one step's faults: the discriminator is updated before the generator.
        order = (fault.step, net, _TERMS.index(term))
        if member not in first_of or order < first_of[member][0]:
            first_of[member] = (order, fault)
    members = [fault for member, (_, fault) in first_of.items() if member]
    return members or [fault for _, fault in first_of.values()]


def members(values: Mapping[str, float]) -> set[str]:
    """The names of a population's members, by the metrics of a call; of an ordinary run, none."""
    flags = [name.split("/") for name in values]
    return {parts[3] for parts in flags if parts[0] == FINITE and len(parts) > 3}


def without_flags(values: Mapping[str, float]) -> dict[str, float]:
    """The metrics that are worth writing down."""
    return {k: v for k, v in values.items() if k.split("/")[0] != FINITE}


#: A mean sign of logits beyond which a discriminator is as good as certain: of the 256 images of a
#: usual call (4 steps of 64), at most two are on the other side.
_SURE = 0.98
#: Spread of samples, to that of real images, below which they are few different images. On digits,
#: GANs that had learned came to 0.9, without classes to 1.3 (pixel by pixel: 0.9 both); an
#: untrained one to 0.02, and one that a learning rate of 0.5 had thrown off to 0.00 to 0.01.
_NARROW = 0.3
#: Share of a class, to its share of real images, below which it counts as left out. Chance alone
#: does not come so low (see `jaxnets.metrics.collapse.ENOUGH`); on digits it ended at 0.97, without
#: classes at 0.70.
_MISSING = 0.2


def collapse_warnings(values: Mapping[str, float]) -> dict[str, str]:
    """What the metrics of a GAN say of how it may fail, in plain words.

    Args:
      values: of its training (`d_sign_real`, `d_sign_fake`) or of its evaluation
        (`samples_least_class_share`, `samples_spread`, `samples_pixel_spread`; see
        `jaxnets.metrics.collapse`). One that is NaN is not known, and says nothing.

    Returns:
      kind of trouble -> sentence.
    """
    warnings = {}
    real, fake = values.get("d_sign_real", 0.0), values.get("d_sign_fake", 0.0)
    if real > _SURE and fake < -_SURE:
        warnings["discriminator wins"] = (
            "the discriminator tells practically every image, so the generator learns little from "
            "it; a penalty (--penalty r1), augmentation (--augment) or a lower "
            "--discriminator-learning-rate helps"
        )
    if abs(real) > _SURE and abs(fake) > _SURE and real * fake > 0:
        warnings["discriminator is blind"] = (
            "the discriminator gives reals and fakes the same answer, so the generator learns "
            "nothing from it; raise --discriminator-learning-rate or lower --penalty-weight"
        )
    views = {"samples_spread": "as a CNN sees them", "samples_pixel_spread": "pixel by pixel"}
    for name, view in views.items():
        spread = values.get(name, math.nan)
        if spread < _NARROW:
            warnings["mode collapse"] = (
                f"samples of a class differ by only {spread:.0%} of what real images do, {view}: "
                "the generator makes few different images (mode collapse)"
            )
    least = values.get("samples_least_class_share", math.nan)
    if least < _MISSING:
        warnings["missing class"] = (
            f"of one class a CNN finds only {least:.0%} of the samples that there should be: the "
            "generator leaves it out"
        )
    return warnings


class CollapseWatch:
    """Says what `collapse_warnings` finds, where it is more than a passing state; a `Task.warn`.

    Every GAN looks like a failure at first: samples of an untrained generator hardly differ, and
    any discriminator tells them. A warning is said once, so one that came too early would take the
    place of the true one.
    """

    def __init__(self, after_epochs: float, records: int = 3, *, usual: Collection[str] = ()):
        """Sets it up.

        Args:
          after_epochs: before so many, nothing is said.
          records: of training, in a row, that must agree. Each is about the images of one call of
            the step, and a discriminator may well know all of those. An evaluation is of many
            samples, and is believed at once.
          usual: kinds of trouble that are none here, as "discriminator wins" of a Wasserstein
            critic, which is to tell all images.
        """
        self._after, self._records, self._usual = after_epochs, records, frozenset(usual)
        self._agreed: dict[str, int] = {}

    def __call__(self, values: Mapping[str, float]) -> dict[str, str]:
        """What is to be said of one record.

        Args:
          values: as `collapse_warnings` takes them, and the `epoch`; of a population, those of its
            members, `name/member`.
        """
        if values.get("epoch", math.inf) < self._after:
            return {}
        warnings = {}
        for member in sorted({name.partition("/")[2] for name in values if "/" in name}) or [""]:
            ending = f"/{member}" if member else ""
            own = {k.removesuffix(ending): v for k, v in values.items() if k.endswith(ending)}
            head = f"{member}: " if member else ""
            seen = collapse_warnings(own)
            warnings |= {head + k: head + text for k, text in seen.items() if k not in self._usual}
        if not any(name.startswith("d_sign_") for name in values):
            return warnings
        self._agreed = {kind: self._agreed.get(kind, 0) + 1 for kind in warnings}
        return {k: text for k, text in warnings.items() if self._agreed[k] >= self._records}


#: Accuracy on training images above which, and lead over that on test images beyond which, a
#: classifier has learned its training images by heart. An untroubled one leads by 0.05 or less.
_BY_HEART, _LEAD = 0.9, 0.15


class LearningWatch:
    """Says where a classifier learns nothing, or its training images alone; a `Task.warn`."""

    def __init__(self, guessing: float, count: int, after_epochs: float, last_epoch: float):
        """Sets it up.

        Args:
          guessing: accuracy on test images of always answering the most frequent class.
          count: of the test images.
          after_epochs: before so many, nothing is said.
          last_epoch: where the run ends; over-fitting is told there.
        """
        self._chance = guessing + 2 * math.sqrt(guessing * (1 - guessing) / max(1, count))
        self._after, self._last = after_epochs, last_epoch
        self._train, self._best = math.nan, 0.0

    def __call__(self, values: Mapping[str, float]) -> dict[str, str]:
        """What is to be said of a record of the training (`accuracy`) or an evaluation."""
        self._train = values.get("accuracy", self._train)
        test, epoch = values.get("test_accuracy", math.nan), values.get("epoch", math.inf)
        if not math.isfinite(test):
            return {}
        warnings = {}
        self._best = max(self._best, test)
        if test <= self._chance and (epoch >= self._after or self._best > 2 * self._chance):
            fell = f", after {self._best:.0%} before" if self._best > 2 * self._chance else ""
            warnings["chance"] = (
                f"the test accuracy is {test:.0%}{fell}: no better than guessing; lower "
                "--learning-rate, to a third say, or train for more --epochs"
            )
        # A record of training is of the images of one call, in which there may be few.
        elif self._train > max(_BY_HEART, test + _LEAD) and epoch >= 0.99 * self._last:
            warnings["by heart"] = (
                f"{self._train:.0%} of the training images are right and {test:.0%} of the test "
                "images: it knows the former by heart. More images help, trained weights (for "
                "colour images --network efficientnet_lite0 --init-from imagenet), or --mixup 0.3, "
                "--cutout, and --flip where a mirrored image is of the same class"
            )
        return warnings
