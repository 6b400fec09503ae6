"""Trees of sums and counts, merged across steps and devices and computed once."""

from jaxnets.metrics.classification import Calibration, Confusion, accuracy, top_k_accuracy
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
    "top_k_accuracy",
]
