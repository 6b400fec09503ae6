"""Where a classifier looks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import models
from jaxnets.errors import UserError
from jaxnets.judge.grad_cam import grad_cam
from jaxnets.models import CLASSIFIERS


class Linear(nn.Module):
    """Maps of a convolution, their means, a linear layer: Grad-CAM is known in closed form."""

    @nn.compact
    def __call__(self, x, *, train):
        maps = nn.Conv(3, (3, 3), name="maps")(x)
        return nn.Dense(2, name="head")(maps.mean(axis=(1, 2))), {}


def test_it_is_the_weighted_sum_of_the_maps_where_only_means_follow():
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
    variables = Linear().init(jax.random.key(1), images, train=False)
    labels = jnp.array([0, 1, 1, 0])
    heat = np.asarray(grad_cam(Linear(), variables, images, labels))
    kernel = np.asarray(variables["params"]["head"]["kernel"])
    maps = nn.Conv(3, (3, 3)).apply({"params": variables["params"]["maps"]}, images)
    for image, label, got in zip(np.asarray(maps), labels, heat, strict=True):
        expected = np.maximum((image * kernel[:, label]).sum(axis=-1), 0)
        np.testing.assert_allclose(got, expected / expected.max(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_classifier_has_places_to_look_at(name):
    model = models.make_classifier(name, num_classes=3, image_shape=(32, 32, 3), width=0.1)
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    variables = model.init(jax.random.key(1), images, train=False)
    heat = grad_cam(model, variables, images, jnp.array([0, 2]))
    assert heat.shape == (2, 32, 32) and 0 <= heat.min() <= heat.max() <= 1


def test_a_network_without_maps_is_refused():
    class Flat(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return nn.Dense(2)(x.reshape(len(x), -1)), {}

    images = jnp.zeros((1, 8, 8, 1))
    variables = Flat().init(jax.random.key(0), images, train=False)
    with pytest.raises(UserError, match="none of the network's layers"):
        grad_cam(Flat(), variables, images, jnp.zeros(1, jnp.int32))
