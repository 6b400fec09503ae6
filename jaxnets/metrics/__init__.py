"""How good a network is: a mean that merges across steps and devices, and functions on the host.

Those of generated images take features or logits of a judge, whole.
"""

from jaxnets.metrics.classification import balanced_accuracy as balanced_accuracy
from jaxnets.metrics.classification import calibration_error as calibration_error
from jaxnets.metrics.collapse import least_class_share as least_class_share
from jaxnets.metrics.collapse import mean_squared_distance as mean_squared_distance
from jaxnets.metrics.collapse import relative_spread as relative_spread
from jaxnets.metrics.detection import BoxesFound as BoxesFound
from jaxnets.metrics.detection import BoxesThere as BoxesThere
from jaxnets.metrics.detection import coco_scores as coco_scores
from jaxnets.metrics.detection import overlaps as overlaps
from jaxnets.metrics.detection import voc_average_precision as voc_average_precision
from jaxnets.metrics.frechet import estimate_note as estimate_note
from jaxnets.metrics.frechet import frechet_distance as frechet_distance
from jaxnets.metrics.judgement import Judgement as Judgement
from jaxnets.metrics.kernel import KernelDistance as KernelDistance
from jaxnets.metrics.kernel import kernel_distance as kernel_distance
from jaxnets.metrics.manifold import Manifold as Manifold
from jaxnets.metrics.manifold import manifold_note as manifold_note
from jaxnets.metrics.manifold import manifold_scores as manifold_scores
from jaxnets.metrics.mean import Mean as Mean
from jaxnets.metrics.neighbours import Memorisation as Memorisation
from jaxnets.metrics.neighbours import Neighbours as Neighbours
from jaxnets.metrics.neighbours import memorisation as memorisation
from jaxnets.metrics.neighbours import nearest_neighbours as nearest_neighbours
from jaxnets.metrics.ranking import auroc as auroc
from jaxnets.metrics.ranking import average_precision as average_precision
from jaxnets.metrics.ranking import per_region_overlap as per_region_overlap
from jaxnets.metrics.scores import IntraClassFrechet as IntraClassFrechet
from jaxnets.metrics.scores import Recognised as Recognised
from jaxnets.metrics.scores import check_classes as check_classes
from jaxnets.metrics.scores import inception_note as inception_note
from jaxnets.metrics.scores import inception_score as inception_score
from jaxnets.metrics.scores import intra_class_frechet as intra_class_frechet
from jaxnets.metrics.scores import recognised as recognised
