"""How good a network is: a mean that merges across steps and devices, and functions on the host.

Those of generated images take features or logits of a judge, whole.
"""

from jaxnets.metrics.classification import balanced_accuracy, calibration_error
from jaxnets.metrics.collapse import (
    least_class_share,
    mean_squared_distance,
    relative_spread,
)
from jaxnets.metrics.frechet import Moments, estimate_note, frechet_distance
from jaxnets.metrics.judgement import Judgement
from jaxnets.metrics.kernel import KernelDistance, kernel_distance
from jaxnets.metrics.manifold import Manifold, manifold_note, manifold_scores
from jaxnets.metrics.mean import Mean
from jaxnets.metrics.neighbours import Memorisation, Neighbours, memorisation, nearest_neighbours
from jaxnets.metrics.scores import (
    IntraClassFrechet,
    Recognised,
    check_classes,
    inception_note,
    inception_score,
    intra_class_frechet,
    recognised,
)

__all__ = [
    "IntraClassFrechet",
    "Judgement",
    "KernelDistance",
    "Manifold",
    "Mean",
    "Memorisation",
    "Moments",
    "Neighbours",
    "Recognised",
    "balanced_accuracy",
    "calibration_error",
    "check_classes",
    "estimate_note",
    "frechet_distance",
    "inception_note",
    "inception_score",
    "intra_class_frechet",
    "kernel_distance",
    "least_class_share",
    "manifold_note",
    "manifold_scores",
    "mean_squared_distance",
    "memorisation",
    "nearest_neighbours",
    "recognised",
    "relative_spread",
]
