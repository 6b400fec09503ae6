"""Trees of sums and counts, merged across steps and devices and computed once."""

from jaxnets.metrics.classification import Calibration, Confusion, accuracy, top_k_accuracy
from jaxnets.metrics.collapse import (
    least_class_share,
    mean_squared_distance,
    recognised_share,
    relative_spread,
)
from jaxnets.metrics.frechet import Moments, estimate_note, frechet_distance
from jaxnets.metrics.mean import Mean

__all__ = [
    "Calibration",
    "Confusion",
    "Mean",
    "Moments",
    "accuracy",
    "estimate_note",
    "frechet_distance",
    "least_class_share",
    "mean_squared_distance",
    "recognised_share",
    "relative_spread",
    "top_k_accuracy",
]
