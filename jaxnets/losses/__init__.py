"""Losses and the terms that join them: one value per example; the step reduces."""

from jaxnets.losses.adversarial import ADVERSARIAL_LOSSES, AdversarialLoss, adversarial_loss
from jaxnets.losses.classification import (
    CLASSIFICATION_LOSSES,
    cross_entropy,
    focal,
)
from jaxnets.losses.path_length import PathLength, path_length_penalty
from jaxnets.losses.penalties import PENALTIES, Penalty, penalty
from jaxnets.losses.terms import Auxiliary, FeatureMatching, LeCam, Play, Side, Term, Weight

__all__ = [
    "ADVERSARIAL_LOSSES",
    "CLASSIFICATION_LOSSES",
    "PENALTIES",
    "AdversarialLoss",
    "Auxiliary",
    "FeatureMatching",
    "LeCam",
    "PathLength",
    "Penalty",
    "Play",
    "Side",
    "Term",
    "Weight",
    "adversarial_loss",
    "cross_entropy",
    "focal",
    "path_length_penalty",
    "penalty",
]
