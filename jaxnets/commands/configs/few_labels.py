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

#: Values of the fields that are None, with --few-labels, and by method where they differ. Each was
#: chosen by single trainings: pseudo-labels of 0.8 fell to 55% on digits with 5 labels a class.
PRESET: dict[str, Any] = {
    "batch_size": 64,
    "learning_rate": 0.4,
    # A smoothed network is never as sure as a pseudo-label has to be.
    "label_smoothing": 0.0,
}
METHODS: dict[str, dict[str, Any]] = {
    "pseudo": {"threshold": 0.95},
    # On one draw of Fashion-MNIST with 100, 13.0% errors after 700 steps; with 0.8, 13.4%.
    "fixmatch": {"threshold": 0.5},
    "gan-fixmatch": {"threshold": 0.5},
}

#: Methods in which the classifier is a GAN's discriminator, and those that take what the network is
#: sure of for a label.
GANS, SURE = ("gan", "gan-fixmatch"), ("pseudo", "fixmatch", "gan-fixmatch")

_LABELS = Needs(
    "--labels-per-class N, of how many images the labels are used",
    lambda c: c.labels_per_class is not None,
)
_METHOD = Needs("--few-labels pseudo, fixmatch or gan", lambda c: c.few_labels != "none")
_SURE = Needs("--few-labels pseudo or fixmatch", lambda c: c.few_labels in SURE)
_GAN = Needs("--few-labels gan", lambda c: c.few_labels in GANS)


@dataclasses.dataclass(frozen=True)
class FewLabelOptions:
    """What is learned from training images whose labels are not used."""

    GROUP: ClassVar[str] = "few labels"

    few_labels: Annotated[Literal["none", "pseudo", "fixmatch", "gan", "gan-fixmatch"], _LABELS] = (
        "none"
    )
    """What is done with all training images but --labels-per-class of each class, without their
    labels: none; pseudo (learn what the network is sure of); fixmatch (the same, on strongly
    changed images); gan (the classifier is a GAN's discriminator too; images alone); gan-fixmatch
    (both). An epoch is then a pass over them, and --batch-size counts labelled ones."""
    unlabelled_ratio: Annotated[int, COUNT, _METHOD] = 2
    """Unlabelled examples for each labelled one of a batch."""
    threshold: Annotated[float | None, SHARE, _SURE, SWEPT] = None
    """Least probability at which a class is taken for a label; by default 0.95 for pseudo, else
    0.5."""
    unlabelled_weight: Annotated[float, NOT_NEGATIVE, _SURE, SWEPT] = 1.0
    """Weight of what is learned of such labels."""
    adversarial_weight: Annotated[float, NOT_NEGATIVE, _GAN, SWEPT] = 0.1
    """Weight of telling real images from generated ones."""
    entropy_weight: Annotated[float, NOT_NEGATIVE, _GAN, SWEPT] = 0.3
    """Weight of the entropy of what the classifier says of unlabelled images."""
    gan_learning_rate: Annotated[float, POSITIVE, _GAN, SWEPT] = 1e-3
    """Of the generator, for Adam."""
    gan_width: Annotated[float, POSITIVE, _GAN] = 0.5
    """Factor on the channels of the generator, a DCGAN's."""
    strong_augment: bool = False
    """Change labelled images strongly too (turned, slanted, brightness, contrast, cutout)."""
