"""Classifiers, generators and discriminators."""

from jaxnets.models.classifiers import CLASSIFIERS as CLASSIFIERS
from jaxnets.models.classifiers import OTHER_CLASSIFIERS as OTHER_CLASSIFIERS
from jaxnets.models.classifiers import ClassifierSpec as ClassifierSpec
from jaxnets.models.classifiers import classifier_of as classifier_of
from jaxnets.models.classifiers import make_classifier as make_classifier
from jaxnets.models.detectors import make_detector as make_detector
from jaxnets.models.gans import DISCRIMINATORS as DISCRIMINATORS
from jaxnets.models.gans import GENERATORS as GENERATORS
from jaxnets.models.gans import make_discriminator as make_discriminator
from jaxnets.models.gans import make_gan as make_gan
from jaxnets.models.gans import make_generator as make_generator
from jaxnets.models.inspectors import make_inspector as make_inspector
