"""Losses and the terms that join them: one value per example; the step reduces."""

from jaxnets.losses.adversarial import ADVERSARIAL_LOSSES as ADVERSARIAL_LOSSES
from jaxnets.losses.adversarial import AdversarialLoss as AdversarialLoss
from jaxnets.losses.adversarial import adversarial_loss as adversarial_loss
from jaxnets.losses.classification import CLASSIFICATION_LOSSES as CLASSIFICATION_LOSSES
from jaxnets.losses.classification import balanced_softmax as balanced_softmax
from jaxnets.losses.classification import cross_entropy as cross_entropy
from jaxnets.losses.classification import effective_weights as effective_weights
from jaxnets.losses.classification import focal as focal
from jaxnets.losses.classification import inverse_weights as inverse_weights
from jaxnets.losses.path_length import PathLength as PathLength
from jaxnets.losses.path_length import path_length_penalty as path_length_penalty
from jaxnets.losses.penalties import PENALTIES as PENALTIES
from jaxnets.losses.penalties import Penalty as Penalty
from jaxnets.losses.penalties import penalty as penalty
from jaxnets.losses.terms import Auxiliary as Auxiliary
from jaxnets.losses.terms import Distillation as Distillation
from jaxnets.losses.terms import FeatureMatching as FeatureMatching
from jaxnets.losses.terms import LeCam as LeCam
from jaxnets.losses.terms import Play as Play
from jaxnets.losses.terms import Side as Side
from jaxnets.losses.terms import Term as Term
from jaxnets.losses.terms import Weight as Weight
