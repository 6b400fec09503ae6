"""What `classify` can be told of learning from few labels; no jax is imported."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar, Literal

from jaxnets.commands.configs.constraints import (
    COUNT,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    SWEPT,
    Needs,
)

#: Values of the fields that are None, with --few-labels.
PRESET: dict[str, Any] = {
    "batch_size": 32,
    "learning_rate": 0.1,
    # A smoothed network is never as sure as a pseudo-label has to be.
    "label_smoothing": 0.0,
}

_LABELS = Needs(
    "--labels-per-class N, of how many images the labels are used",
    lambda c: c.labels_per_class is not None,
)
_METHOD = Needs("--few-labels pseudo, fixmatch or gan", lambda c: c.few_labels != "none")
_SURE = Needs("--few-labels pseudo or fixmatch", lambda c: c.few_labels in ("pseudo", "fixmatch"))
_GAN = Needs("--few-labels gan", lambda c: c.few_labels == "gan")


@dataclasses.dataclass(frozen=True)
class FewLabelOptions:
    """What is learned from training images whose labels are not used."""

    GROUP: ClassVar[str] = "few labels"

    few_labels: Annotated[Literal["none", "pseudo", "fixmatch", "gan"], _LABELS] = "none"
    """What is done with all training images but --labels-per-class of each class, without their
    labels: none; pseudo (learn what the network is sure of); fixmatch (the same, on strongly
    changed images); gan (the classifier is a GAN's discriminator too; images alone). An epoch is
    then a pass over them, and --batch-size counts labelled ones."""
    unlabelled_ratio: Annotated[int, COUNT, _METHOD] = 4
    """Unlabelled examples for each labelled one of a batch."""
    unlabelled_weight: Annotated[float, NOT_NEGATIVE, _METHOD, SWEPT] = 1.0
    """Weight of their part of the loss."""
    threshold: Annotated[float, SHARE, _SURE, SWEPT] = 0.95
    """Least probability at which a class is taken for a label."""
    entropy_weight: Annotated[float, NOT_NEGATIVE, _GAN, SWEPT] = 0.0
    """Weight of the entropy of what the classifier says of unlabelled images."""
    gan_learning_rate: Annotated[float, POSITIVE, _GAN, SWEPT] = 5e-4
    """Of the generator, for Adam."""
    gan_width: Annotated[float, POSITIVE, _GAN] = 0.5
    """Factor on the channels of the generator, a DCGAN's."""
    strong_augment: bool = False
    """Change labelled images strongly too (turned, slanted, brightness, contrast, cutout)."""
