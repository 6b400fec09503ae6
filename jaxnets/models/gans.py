"""Generators and discriminators by name."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from jaxnets.errors import UserError
from jaxnets.models import dcgan, r3gan, resnet_gan, style_gan
from jaxnets.models.classifiers import CLASSIFIERS, make_classifier, scale_widths
from jaxnets.models.conditioning import CONDITIONING
from jaxnets.models.trunk import TrunkDiscriminator

__all__ = ["DISCRIMINATORS", "GENERATORS", "make_discriminator", "make_gan", "make_generator"]

_MIN_SIZE, _MAX_SIZE = 8, 256
_MAX_LATENT_SIZE = 1 << 20

#: Images of fewer pixels along the shorter side get a smaller StyleGAN2.
_MANY_PIXELS = 64


def _dcgan_generator(
    *,
    image_shape: tuple[int, int, int],
    num_classes: int | None,
    latent_size: int,
    width: float,
    dtype: Dtype,
) -> nn.Module:
    (channels,) = scale_widths([64], width)
    return dcgan.Generator(image_shape, latent_size, num_classes, channels, dtype=dtype)


def _dcgan_discriminator(
    *, image_shape: tuple[int, int, int], num_classes: int | None, width: float, dtype: Dtype
) -> nn.Module:
    (channels,) = scale_widths([64], width)
    return dcgan.Discriminator(num_classes, channels, dtype=dtype)


def _sngan_generator(
    *,
    image_shape: tuple[int, int, int],
    num_classes: int | None,
    latent_size: int,
    width: float,
    dtype: Dtype,
) -> nn.Module:
    widths, _, _ = resnet_gan.sngan_widths(min(image_shape[:2]))
    widths = scale_widths(widths, width)
    return resnet_gan.Generator(image_shape, latent_size, num_classes, widths, dtype=dtype)


def _sngan_discriminator(
    *, image_shape: tuple[int, int, int], num_classes: int | None, width: float, dtype: Dtype
) -> nn.Module:
    _, widths, halvings = resnet_gan.sngan_widths(min(image_shape[:2]))
    widths = scale_widths(widths, width)
    return resnet_gan.Discriminator(num_classes, widths, halvings, dtype=dtype)


def _r3gan_widths(image_shape: tuple[int, int, int], width: float) -> tuple[int, ...]:
    """Multiples of 8, as its groups of channels want them."""
    halves = [size // 2 for size in r3gan.r3gan_widths(min(image_shape[:2]))]
    return tuple(2 * size for size in scale_widths(halves, width))


def _r3gan_generator(
    *,
    image_shape: tuple[int, int, int],
    num_classes: int | None,
    latent_size: int,
    width: float,
    dtype: Dtype,
) -> nn.Module:
    widths = _r3gan_widths(image_shape, width)
    return r3gan.Generator(image_shape, latent_size, num_classes, widths, dtype=dtype)


def _r3gan_discriminator(
    *, image_shape: tuple[int, int, int], num_classes: int | None, width: float, dtype: Dtype
) -> nn.Module:
    widths = _r3gan_widths(image_shape, width)[::-1]
    return r3gan.Discriminator(num_classes, widths, dtype=dtype)


def _stylegan2_sizes(
    image_shape: tuple[int, int, int], width: float
) -> tuple[tuple[int, ...], int, int]:
    """Widths of the stages, layers of a mapping, and length of a style."""
    size = min(image_shape[:2])
    small = size < _MANY_PIXELS
    # The authors' CIFAR-10 networks have 512 channels at every size, and as shallow a mapping.
    # With a fourth of that at 32 pixels a step takes a sixth of the operations.
    published = style_gan.stylegan2_widths(size, 4096 if small else 16384)
    *widths, style_size = scale_widths([*published, 512], width)
    return tuple(widths), 2 if small else 8, style_size


def _stylegan2_generator(
    *,
    image_shape: tuple[int, int, int],
    num_classes: int | None,
    latent_size: int,
    width: float,
    dtype: Dtype,
) -> nn.Module:
    widths, layers, style_size = _stylegan2_sizes(image_shape, width)
    return style_gan.Generator(
        image_shape, latent_size, num_classes, widths, layers, style_size, dtype=dtype
    )


def _stylegan2_discriminator(
    *, image_shape: tuple[int, int, int], num_classes: int | None, width: float, dtype: Dtype
) -> nn.Module:
    widths, layers, _ = _stylegan2_sizes(image_shape, width)
    return style_gan.Discriminator(num_classes, widths[::-1], layers, dtype=dtype)


def _trunk_discriminator(trunk: str) -> Callable[..., nn.Module]:
    def build(
        *, image_shape: tuple[int, int, int], num_classes: int | None, width: float, dtype: Dtype
    ) -> nn.Module:
        # Without classes the trunk's own head is not used for anything; two is the fewest.
        classifier = make_classifier(
            trunk,
            num_classes=num_classes or 2,
            image_shape=image_shape,
            width=width,
            dtype=dtype,
        )
        return TrunkDiscriminator(classifier, num_classes)

    return build


#: family -> function of image_shape, num_classes, latent_size, width, dtype (all keywords).
GENERATORS: dict[str, Callable[..., nn.Module]] = {
    "dcgan": _dcgan_generator,
    "r3gan": _r3gan_generator,
    "sngan": _sngan_generator,
    "stylegan2": _stylegan2_generator,
}

#: name -> function of image_shape, num_classes, width, dtype (all keywords).
DISCRIMINATORS: dict[str, Callable[..., nn.Module]] = {
    "dcgan": _dcgan_discriminator,
    "r3gan": _r3gan_discriminator,
    "sngan": _sngan_discriminator,
    "stylegan2": _stylegan2_discriminator,
    **{name: _trunk_discriminator(name) for name in CLASSIFIERS},
}


def _look_up(kind: str, name: str, registry: dict[str, Any]) -> Any:
    if name not in registry:
        raise UserError(f"unknown {kind} {name!r}; known are {', '.join(sorted(registry))}")
    return registry[name]


def _check(image_shape: Sequence[int], num_classes: int | None) -> tuple[int, int, int]:
    if len(image_shape) != 3:
        raise UserError(
            f"a GAN needs images of shape (height, width, channels), got {tuple(image_shape)}"
        )
    height, width, channels = image_shape
    if not _MIN_SIZE <= min(height, width) <= max(height, width) <= _MAX_SIZE:
        raise UserError(
            f"a GAN needs images of {_MIN_SIZE} to {_MAX_SIZE} pixels a side, got "
            f"{height}x{width}; resize them"
        )
    if num_classes is not None and num_classes < 2:
        raise UserError(
            f"a conditional GAN needs at least 2 classes, got {num_classes}; leave num_classes "
            "at None for one without classes"
        )
    return height, width, channels


def make_generator(
    family: str = "dcgan",
    *,
    image_shape: Sequence[int],
    num_classes: int | None = None,
    latent_size: int = 64,
    width: float = 1.0,
    dtype: Dtype = jnp.float32,
) -> nn.Module:
    """Builds a generator: `(latents, label, *, train) -> (images in [-1, 1], features)`.

    Those of R3GAN and StyleGAN2 lie around [-1, 1], and can go beyond.

    Args:
      family: a key of `GENERATORS`.
      image_shape: (H, W, C), sides of 8 to 256 pixels.
      num_classes: K, or None for a generator without classes.
      latent_size: length of the latent vectors, N(0, I); at most 2**20.
      width: factor on the number of channels.
      dtype: compute type; parameters and images are float32.

    Raises:
      UserError: the name is unknown or a size out of range.
    """
    shape = _check(image_shape, num_classes)
    if latent_size < 1:
        raise UserError(f"latent_size must be at least 1, got {latent_size}")
    if latent_size > _MAX_LATENT_SIZE:
        raise UserError(f"latent_size must be at most {_MAX_LATENT_SIZE}, got {latent_size}")
    return _look_up("generator", family, GENERATORS)(
        image_shape=shape,
        num_classes=num_classes,
        latent_size=latent_size,
        width=width,
        dtype=dtype,
    )


def make_discriminator(
    name: str = "dcgan",
    *,
    image_shape: Sequence[int],
    num_classes: int | None = None,
    width: float = 1.0,
    conditioning: str = "projection",
    dtype: Dtype = jnp.float32,
) -> nn.Module:
    """Builds a discriminator: `(images, label, *, train) -> (logits [B], features)`.

    Args:
      name: a key of `DISCRIMINATORS`: a GAN family, or a classifier to serve as the trunk.
      image_shape: (H, W, C), sides of 8 to 256 pixels.
      num_classes: K, or None for a discriminator without classes.
      width: factor on the number of channels.
      conditioning: how classes come in, a key of `CONDITIONING`: "projection" (or a family's own
        way), "concatenated" to the image, or "auxiliary", which names them instead.
      dtype: compute type; parameters and logits are float32.

    Raises:
      UserError: a name is unknown or a size out of range.
    """
    shape = _check(image_shape, num_classes)
    around = _look_up("conditioning", conditioning, CONDITIONING)
    around = None if num_classes is None else around
    made = _look_up("discriminator", name, DISCRIMINATORS)(
        image_shape=shape,
        num_classes=num_classes if around is None else None,
        width=width,
        dtype=dtype,
    )
    return made if around is None else around(made, num_classes)


def make_gan(
    family: str = "dcgan",
    *,
    image_shape: Sequence[int],
    num_classes: int | None = None,
    latent_size: int = 64,
    width: float = 1.0,
    discriminator: str | None = None,
    conditioning: str = "projection",
    dtype: Dtype = jnp.float32,
) -> tuple[nn.Module, nn.Module]:
    """Builds a generator and the discriminator to train it against.

    Args:
      family: a key of `GENERATORS`.
      image_shape: see `make_generator`, as for the following.
      num_classes: K, or None.
      latent_size: length of the latent vectors.
      width: factor on the number of channels of both networks.
      discriminator: a key of `DISCRIMINATORS`; by default the family's own.
      conditioning: see `make_discriminator`.
      dtype: compute type.

    Returns:
      (generator, discriminator).

    Raises:
      UserError: a name is unknown or a size out of range.
    """
    generator = make_generator(
        family,
        image_shape=image_shape,
        num_classes=num_classes,
        latent_size=latent_size,
        width=width,
        dtype=dtype,
    )
    opponent = make_discriminator(
        family if discriminator is None else discriminator,
        image_shape=image_shape,
        num_classes=num_classes,
        width=width,
        conditioning=conditioning,
        dtype=dtype,
    )
    return generator, opponent
