"""Runs that are interrupted on some devices and go on on others."""

from __future__ import annotations

import dataclasses
import math
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.chaos.faults import Chain, Moment, dealt, shares
from experiments.chaos.signals import Terminator
from experiments.chaos.trainee import Stage, Trainee
from experiments.chaos.undisturbed import Final, Reference, read_final

#: Greatest difference that a number of the final state, or of the training curve, may have from
#: that of the undisturbed run on one device. The order of sums over devices is another.
TOLERANCE = 1e-4

#: The same of the losses in the training curve, for a run that was near to that tolerance until
#: rounding turned the sign of a ReLU's input: the gradient jumps there, by a part in a thousand in
#: networks so small and batches of 16, and what follows is another, equally right, training. That
#: happened in one of three GANs of 108 steps; 1e-3 was the most that losses moved. A learning rate
#: that is 2% off moves them by 1e-2, another order of the images by 0.1.
LOSS_TOLERANCE = 5e-3

_LENGTH = 3
_LOSS = re.compile(r"(\w_)?loss of step \d+$")


@dataclasses.dataclass(frozen=True)
class Leg:
    """What a part of a run is computed on.

    Attributes:
      devices: how many.
      mode: "jit" or "pmap".
    """

    devices: int
    mode: str

    def __str__(self) -> str:
        return f"{self.devices} by {self.mode}"


LEGS = tuple(Leg(count, mode) for count in (1, 2, 4, 8) for mode in ("jit", "pmap"))


@dataclasses.dataclass(frozen=True)
class Change:
    """From one leg to the next.

    Attributes:
      before: where it is interrupted.
      after: where it goes on.
    """

    before: Leg
    after: Leg

    def __str__(self) -> str:
        return f"{self.before} -> {self.after}"


def plan(seed: int, count: int, runs: Sequence[str]) -> list[Chain]:
    """Which run goes from where to where: the same for the same seed.

    A run begins on one device by jit, as the undisturbed one; eight changes or more of an
    experiment see every number of devices in both modes.
    """
    chains = []
    for run, share in shares(count, runs).items():
        rng = random.Random(f"devices {run} {seed}")
        deck = dealt(LEGS, rng)
        held: list[Leg] = []  # drawn, and not of another number of devices when it was its turn
        number = 0
        while share > 0:
            leg, changes = Leg(1, "jit"), []
            for _ in range(min(_LENGTH, share)):
                following = next((x for x in held if x.devices != leg.devices), None)
                if following is not None:
                    held.remove(following)
                while following is None:
                    drawn = next(deck)
                    if drawn.devices != leg.devices:
                        following = drawn
                    else:
                        held.append(drawn)
                changes.append(Moment("train", rng.random(), Change(leg, following)))
                leg = following
            number, share = number + 1, share - len(changes)
            chains.append(Chain("devices", run, number, tuple(changes)))
    return chains


class Mover(Terminator):
    """SIGTERM on some devices, and on it goes on others.

    Attributes:
      worst: the greatest difference from the undisturbed run that was seen.
      worst_loss: the same of the losses alone.
    """

    def __init__(self, stage: Stage, reference: Reference):
        """See `Striker`."""
        super().__init__(stage, reference)
        self.worst = self.worst_loss = 0.0

    def start(self, arguments: Sequence[str], name: str, chain: Chain, done: int) -> Trainee:
        """On the devices of the leg."""
        ended = done == len(chain.faults)
        leg = chain.faults[-1].what.after if ended else chain.faults[done].what.before
        return self.stage.start(_in_mode(arguments, leg.mode), name, devices=leg.devices)

    def verdict(self, folder: Path) -> str | None:
        """What is further from the undisturbed run than it may be."""
        with self.stage.lock:
            try:
                far = differences(read_final(folder), self.reference.final)
            except (OSError, ValueError, KeyError) as error:
                return f"what it left can't be read: {type(error).__name__}: {str(error)[:200]}"
        name = farthest(far)
        loss = farthest({k: v for k, v in far.items() if _LOSS.match(k)})
        self.worst = max(self.worst, far[name])
        self.worst_loss = max(self.worst_loss, far[loss])
        self.stage.say(
            f"{folder.name}: {far[name]:.1e} from the undisturbed run, at {name}; losses "
            f"{far[loss]:.1e}"
        )
        kinks = self.reference.arguments[0] == "generate" and math.isfinite(far[name])
        if far[name] <= TOLERANCE or (kinks and far[loss] <= LOSS_TOLERANCE):
            return None
        if kinks:
            name, limit = loss, LOSS_TOLERANCE
        else:
            limit = TOLERANCE
        return f"{name} is {far[name]:.1e} from that of the undisturbed run, more than {limit:.0e}"


def _in_mode(arguments: Sequence[str], mode: str) -> list[str]:
    """A command line, with --mode as it is to be."""
    kept = list(arguments)
    if "--mode" in kept:
        at = kept.index("--mode")
        del kept[at : at + 2]
    return [*kept, "--mode", mode]


def differences(found: Final, usual: Final) -> dict[str, float]:
    """The greatest absolute difference in each array of a final state, and in a training curve.

    Returns:
      name of the array, or "KEY of step N" -> difference.

    Raises:
      ValueError: if they have not the same arrays and records, or if numbers that are no
        floating-point numbers differ.
    """
    import jax.numpy as jnp
    import numpy as np

    if found.step != usual.step or found.arrays.keys() != usual.arrays.keys():
        raise ValueError("they are not of the same step and the same arrays")
    far = {}
    for name, (kind, shape, content) in usual.arrays.items():
        kind_too, shape_too, content_too = found.arrays[name]
        if (kind, shape) != (kind_too, shape_too):
            raise ValueError(f"{name} is {kind_too}{shape_too}, not {kind}{shape}")
        if not jnp.issubdtype(jnp.dtype(kind), jnp.floating):
            if content != content_too:
                raise ValueError(f"{name} differs, and it is no floating-point number")
            continue
        a, b = (
            np.frombuffer(c, jnp.dtype(kind)).astype(np.float64) for c in (content, content_too)
        )
        far[name] = float(np.max(np.abs(a - b), initial=0.0))
    if [(r["split"], r["step"]) for r in found.curve] != [
        (r["split"], r["step"]) for r in usual.curve
    ]:
        raise ValueError("metrics.jsonl has not the same records")
    for ours, theirs in zip(found.curve, usual.curve, strict=True):
        if ours["split"] == "train":  # an accuracy jumps by one image
            for key in ours:
                if isinstance(ours[key], float) and isinstance(theirs[key], float):
                    where = f"{key} of step {ours['step']}"
                    far[where] = abs(ours[key] - theirs[key])
    return far


def farthest(differences: Mapping[str, float]) -> str:
    """The name of the greatest difference; NaN is greater than any."""
    return max(
        differences, key=lambda name: math.inf if math.isnan(far := differences[name]) else far
    )
