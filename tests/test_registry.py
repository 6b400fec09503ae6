"""Things by name: an unknown name is one sentence, with what there is and what was meant."""

import pytest

from jaxnets import losses, models
from jaxnets.commands.configs import presets
from jaxnets.data import augment
from jaxnets.errors import UserError
from jaxnets.judge import evaluate
from jaxnets.models.conditioning import CONDITIONING
from jaxnets.registry import Registry, check_name
from jaxnets.train import optimizers

REGISTRIES = {
    "augmentations": augment.GAN_AUGMENTATIONS,
    "classifiers": models.CLASSIFIERS,
    "conditioning": CONDITIONING,
    "discriminators": models.DISCRIMINATORS,
    "generators": models.GENERATORS,
    "losses": losses.CLASSIFICATION_LOSSES,
    "adversarial losses": losses.ADVERSARIAL_LOSSES,
    "optimizers": optimizers.OPTIMIZERS,
    "penalties": losses.PENALTIES,
    "presets": presets.PRESETS,
    "schedules": optimizers.SCHEDULES,
    "views": evaluate.VIEWS,
}


def test_a_name_that_is_almost_there_is_proposed():
    fruits = Registry("fruit", {"pear": 1, "fig": 2})
    assert fruits["fig"] == 2 and list(fruits) == ["pear", "fig"] and "plum" not in fruits
    with pytest.raises(UserError) as error:
        fruits["pera"]
    said = 'there is no fruit "pera"; choose from pear, fig; did you mean pear?'
    assert str(error.value) == said
    with pytest.raises(UserError, match=r'no fruit "xyz"; choose from pear, fig$'):
        check_name("fruit", "xyz", fruits)
    check_name("fruit", "pear", fruits)


@pytest.mark.parametrize("name", REGISTRIES)
def test_every_registry_lists_its_names(name):
    registry = REGISTRIES[name]
    first = next(iter(registry))
    with pytest.raises(UserError) as error:
        registry[first + "x"]
    said = str(error.value)
    assert said.startswith("there is no ") and ", ".join(registry) in said
    assert said.endswith("?") and "did you mean" in said
