"""Classifiers, generators and discriminators."""

from jaxnets.models.classifiers import (
    CLASSIFIERS,
    OTHER_CLASSIFIERS,
    ClassifierSpec,
    classifier_of,
    make_classifier,
)
from jaxnets.models.gans import (
    DISCRIMINATORS,
    GENERATORS,
    make_discriminator,
    make_gan,
    make_generator,
)

__all__ = [
    "CLASSIFIERS",
    "DISCRIMINATORS",
    "GENERATORS",
    "OTHER_CLASSIFIERS",
    "ClassifierSpec",
    "classifier_of",
    "make_classifier",
    "make_discriminator",
    "make_gan",
    "make_generator",
]
