"""Pure functions of logits that return one value per example; the step reduces."""

from jaxnets.losses.adversarial import ADVERSARIAL_LOSSES, AdversarialLoss, adversarial_loss
from jaxnets.losses.classification import (
    CLASSIFICATION_LOSSES,
    classification_loss,
    cross_entropy,
    focal,
)
from jaxnets.losses.path_length import PathLength, path_length_penalty, path_lengths
from jaxnets.losses.penalties import (
    PENALTIES,
    consistency,
    dragan,
    gradient_penalty,
    logits_and_r1,
    penalty,
    r1,
    r2,
)
from jaxnets.losses.regularisers import FeatureMatching, LeCam, feature_distance, lecam

__all__ = [
    "ADVERSARIAL_LOSSES",
    "CLASSIFICATION_LOSSES",
    "PENALTIES",
    "AdversarialLoss",
    "FeatureMatching",
    "LeCam",
    "PathLength",
    "adversarial_loss",
    "classification_loss",
    "consistency",
    "cross_entropy",
    "dragan",
    "feature_distance",
    "focal",
    "gradient_penalty",
    "lecam",
    "logits_and_r1",
    "path_length_penalty",
    "path_lengths",
    "penalty",
    "r1",
    "r2",
]
