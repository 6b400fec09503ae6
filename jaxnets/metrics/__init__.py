"""Trees of sums and counts, merged across steps and devices and computed once.

Where every pair of images counts (`kernel`, `manifold`, `neighbours`), functions of features that
go through the pairs block by block.
"""

from jaxnets.metrics.classification import Calibration, Confusion, accuracy
from jaxnets.metrics.collapse import (
    least_class_share,
    mean_squared_distance,
    recognised_share,
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
    "Calibration",
    "Confusion",
    "IntraClassFrechet",
    "Judgement",
    "KernelDistance",
    "Manifold",
    "Mean",
    "Memorisation",
    "Moments",
    "Neighbours",
    "Recognised",
    "accuracy",
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
    "recognised_share",
    "relative_spread",
]
