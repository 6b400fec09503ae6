"""What the tests of models share: variables without the price of compiling, and small GANs."""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.models import make_gan, r3gan, resnet_gan, style_gan

KEY = jax.random.key(0)
SHAPE, CLASSES, LATENT = (9, 12, 2), 3, 5  # 9 is 5 doubled, and cropped
LABEL = jnp.array([0, 1, 2, 2])
SMALL = {"image_shape": SHAPE, "num_classes": CLASSES, "latent_size": LATENT, "width": 0.1}

#: The generator and the discriminator of each family.
FAMILIES: dict[str, Any] = {
    "dcgan": make_gan("dcgan", **SMALL),
    "sngan": (
        resnet_gan.Generator(SHAPE, LATENT, CLASSES, (12, 8)),
        resnet_gan.Discriminator(CLASSES, (4, 8, 8), 1),
    ),
    "r3gan": (
        r3gan.Generator(SHAPE, LATENT, CLASSES, (16, 8), blocks=1, embedding_size=4),
        r3gan.Discriminator(CLASSES, (8, 16), blocks=1),
    ),
    "stylegan2": (
        style_gan.Generator(SHAPE, LATENT, CLASSES, (8, 6), 2, 7),
        style_gan.Discriminator(CLASSES, (4, 8), 2, 6),
    ),
}


def latents(count=4, size=LATENT):
    return jax.random.normal(KEY, (count, size))


def images(shape=SHAPE):
    return jax.random.uniform(KEY, (4, *shape), minval=-1.0)


def untyped(module) -> Any:
    """The module, for type checkers: to flax, what `apply` returns is a union of all cases."""
    return module


def random_variables(module, *args):
    """Variables of the right shapes, in which nothing is zero that training would make otherwise.

    Kernels keep the size of a signal; statistics and scales lie near those of a new network.
    """
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        values = rng.normal(size=leaf.shape)
        if path[-1].key == "kernel":
            values *= np.sqrt(2 / max(1, np.prod(leaf.shape[:-1])))
        elif path[-1].key in ("scale", "var") and len(leaf.shape) == 1:
            values = 1.0 + 0.3 * np.abs(values)
        else:
            values *= 0.3
        return values.astype(leaf.dtype)

    shapes = jax.eval_shape(partial(module.init, train=False), KEY, *args)
    return jax.tree_util.tree_map_with_path(fill, shapes)


def style_variables(module, *args):
    """The same for the networks of StyleGAN2, whose kernels are scaled where they are used."""
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        name = jax.tree_util.keystr(path)
        values = rng.normal(size=leaf.shape)
        if name.endswith("'bias']") or "strength" in name or "image_bias" in name:
            values = 0.3 * values + ("affine" in name)
        return (100 * values if "mapping']['dense" in name else values).astype(np.float32)

    shapes = jax.eval_shape(partial(module.init, train=False), KEY, *args)
    return jax.tree_util.tree_map_with_path(fill, shapes)


@cache
def variables_of(family) -> Any:
    """Those of its generator and of its discriminator."""
    make = style_variables if family == "stylegan2" else random_variables
    generator, discriminator = FAMILIES[family]
    return make(generator, latents(), LABEL), make(discriminator, images(), LABEL)
