"""What `generate` can be told of a CNN that teaches."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from jaxnets.commands.configs.constraints import NOT_NEGATIVE, SWEPT, Needs
from jaxnets.errors import UserError

_TEACHER = Needs("a CNN: name its run with --teacher", lambda config: config.teacher is not None)
_WEIGHED = Needs(
    "a CNN whose features join a loss: --teacher, with --teach distil or match",
    lambda config: config.teacher is not None and config.teach != "project",
)

#: What a way of teaching sets where nothing else is asked for.
VALUES: dict[str, dict[str, Any]] = {
    "distil": {"teacher_weight": 5.0},
    "match": {"teacher_weight": 1.0},
    "project": {
        "loss": "hinge",
        "penalty": "none",
        "discriminator_widths": None,
        "discriminator_fields": None,
    },
}


@dataclasses.dataclass(frozen=True)
class TeacherOptions:
    """How a trained CNN, which stays as it is, helps."""

    GROUP: ClassVar[str] = "teacher"

    teacher: Path | None = None
    """A CNN whose features help: the folder of a `classify` run on images, of whatever size and
    classes, or imagenet (EfficientNet-Lite0). Images are resized to what it takes; imagenet takes
    them as they are."""
    teach: Annotated[Literal["distil", "match", "project"] | None, _TEACHER] = None
    """distil: the discriminator learns the CNN's features of real images beside its own task.
    match: the generator pulls the mean features of samples towards those of real images. project:
    in place of the discriminator, small heads on the CNN's features. By default distil."""
    teacher_weight: Annotated[float | None, NOT_NEGATIVE, _WEIGHED, SWEPT] = None
    """Weight of what --teach adds to a loss; of distil and match."""


def values(config: Any) -> dict[str, Any]:
    """What fills the fields that are None, before a preset does."""
    if config.teacher is None:
        return {}
    teach = config.teach or "distil"
    return {"teach": teach, **VALUES[teach]}


def check(config: Any) -> None:
    """Fails for what does not go with heads on a CNN's features; of a resolved config."""
    if config.teacher is None or config.teach != "project":
        return
    others = {
        "--discriminator": config.discriminator != config.generator,
        "--discriminator-widths": config.discriminator_widths is not None,
        "--discriminator-fields": config.discriminator_fields is not None,
        "--discriminator-attention": config.discriminator_attention != (),
        "--spectral-norm": config.spectral_norm,
        "--conditioning": config.conditioning != "projection",
        "--penalty": config.penalty != "none",
        "--lecam-weight": config.lecam_weight > 0,
    }
    for flag, given in others.items():
        if given:
            raise UserError(
                f"--teach project puts heads on the teacher's features in place of a "
                f"discriminator, and {flag} is of one: leave it out, or choose --teach distil"
            )
