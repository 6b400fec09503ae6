"""Generators and discriminators by name."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from jaxnets.errors import UserError
from jaxnets.models import dcgan, r3gan, resnet_gan, style_gan
from jaxnets.models.classifiers import CLASSIFIERS, make_classifier, scale_widths
from jaxnets.models.conditioning import CONDITIONING
from jaxnets.models.sizes import check_traces, with_fields
from jaxnets.models.trunk import TrunkDiscriminator
from jaxnets.registry import Registry

__all__ = ["DISCRIMINATORS", "GENERATORS", "make_discriminator", "make_gan", "make_generator"]

_MIN_SIZE, _MAX_SIZE = 8, 256
_MAX_LATENT_SIZE = 1 << 20
_MAX_WIDTH = 1 << 14
_MAX_STAGES = 8

#: Images of fewer pixels along the shorter side get a smaller StyleGAN2.
_MANY_PIXELS = 64


@dataclasses.dataclass(frozen=True)
class _Size:
    """What the builders of both networks are told.

    Attributes:
      image_shape: (H, W, C).
      num_classes: None for a network without classes.
      width: factor on the published numbers of channels.
      widths: channels of each stage instead of those; None for the published ones.
      dtype: compute type.
      attention: the stages after which self-attention follows.
      spectral_norm: whether a discriminator's kernels are spectrally normalised.
    """

    image_shape: tuple[int, int, int]
    num_classes: int | None
    width: float
    widths: tuple[int, ...] | None
    dtype: Dtype
    attention: tuple[int, ...]
    spectral_norm: bool = False

    @property
    def pixels(self) -> int:
        """Along the shorter side."""
        return min(self.image_shape[:2])

    def channels(self, published: Sequence[int], multiple: int = 1) -> tuple[int, ...]:
        """Those of each stage: the ones given, or a share of the published, in such multiples."""
        if self.widths is None:
            shares = scale_widths([size // multiple for size in published], self.width)
            return tuple(multiple * share for share in shares)
        return self.widths

    @property
    def fields(self) -> dict[str, Any]:
        """Of the module of any family, by name."""
        return {"attention": self.attention, "dtype": self.dtype}

    def one_channel_count(self, published: int, family: str) -> int:
        """For a family whose other numbers of channels follow from one."""
        channels = self.channels([published])
        if len(channels) != 1:
            raise UserError(
                f"the channels of a {family} follow from one number, got {len(channels)}: "
                f"{', '.join(map(str, channels))}"
            )
        return channels[0]


def _dcgan_generator(size: _Size, latent_size: int) -> nn.Module:
    channels = size.one_channel_count(64, "dcgan")
    return dcgan.Generator(size.image_shape, latent_size, size.num_classes, channels, **size.fields)


def _dcgan_discriminator(size: _Size) -> nn.Module:
    channels = size.one_channel_count(64, "dcgan")
    return dcgan.Discriminator(
        size.num_classes, channels, spectral_norm=size.spectral_norm, **size.fields
    )


def _sngan_generator(size: _Size, latent_size: int) -> nn.Module:
    widths = size.channels(resnet_gan.sngan_widths(size.pixels)[0])
    return resnet_gan.Generator(
        size.image_shape, latent_size, size.num_classes, widths, **size.fields
    )


def _sngan_discriminator(size: _Size) -> nn.Module:
    _, published, halvings = resnet_gan.sngan_widths(size.pixels)
    widths = size.channels(published)
    halvings = min(halvings, len(widths))
    return resnet_gan.Discriminator(size.num_classes, widths, halvings, **size.fields)


def _r3gan_generator(size: _Size, latent_size: int) -> nn.Module:
    widths = size.channels(r3gan.r3gan_widths(size.pixels), multiple=2)
    return r3gan.Generator(size.image_shape, latent_size, size.num_classes, widths, **size.fields)


def _r3gan_discriminator(size: _Size) -> nn.Module:
    widths = size.channels(r3gan.r3gan_widths(size.pixels)[::-1], multiple=2)
    return r3gan.Discriminator(size.num_classes, widths, **size.fields)


def _stylegan2_widths(size: _Size) -> tuple[list[int], int]:
    """Published widths of the stages, and layers of a mapping."""
    small = size.pixels < _MANY_PIXELS
    # The authors' CIFAR-10 networks have 512 channels at every size, and as shallow a mapping.
    # With a fourth of that at 32 pixels a step takes a sixth of the operations.
    return style_gan.stylegan2_widths(size.pixels, 4096 if small else 16384), 2 if small else 8


def _stylegan2_generator(size: _Size, latent_size: int) -> nn.Module:
    published, layers = _stylegan2_widths(size)
    widths = size.channels(published)
    (style_size,) = scale_widths([512], size.width)
    return style_gan.Generator(
        size.image_shape,
        latent_size,
        size.num_classes,
        widths,
        layers,
        style_size,
        **size.fields,
    )


def _stylegan2_discriminator(size: _Size) -> nn.Module:
    published, layers = _stylegan2_widths(size)
    return style_gan.Discriminator(
        size.num_classes, size.channels(published[::-1]), layers, **size.fields
    )


def _trunk_discriminator(trunk: str) -> Callable[[_Size], nn.Module]:
    def build(size: _Size) -> nn.Module:
        if size.widths is not None:
            raise UserError(
                f"the channels of {trunk} as a discriminator are set by the width, and not one by "
                "one"
            )
        if size.attention:
            raise UserError(
                f"self-attention goes into the networks of {', '.join(GENERATORS)}; a classifier "
                f"as a discriminator, such as {trunk}, has no place for it"
            )
        # Without classes the trunk's own head is not used for anything; two is the fewest.
        classifier = make_classifier(
            trunk,
            num_classes=size.num_classes or 2,
            image_shape=size.image_shape,
            width=size.width,
            dtype=size.dtype,
        )
        return TrunkDiscriminator(classifier, size.num_classes)

    return build


#: family -> function of a `_Size` and the length of the latents.
GENERATORS: Registry[Callable[[_Size, int], nn.Module]] = Registry(
    "generator",
    {
        "dcgan": _dcgan_generator,
        "r3gan": _r3gan_generator,
        "sngan": _sngan_generator,
        "stylegan2": _stylegan2_generator,
    },
)

#: name -> function of a `_Size`.
DISCRIMINATORS: Registry[Callable[[_Size], nn.Module]] = Registry(
    "discriminator",
    {
        "dcgan": _dcgan_discriminator,
        "r3gan": _r3gan_discriminator,
        "sngan": _sngan_discriminator,
        "stylegan2": _stylegan2_discriminator,
        **{name: _trunk_discriminator(name) for name in CLASSIFIERS},
    },
)

#: Discriminators that can be spectrally normalised.
_SPECTRAL = ("dcgan", "sngan")


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


def _check_widths(widths: Sequence[int] | None) -> tuple[int, ...] | None:
    if widths is None:
        return None
    counts = tuple(int(width) for width in widths)
    if not counts or not all(1 <= width <= _MAX_WIDTH for width in counts):
        raise UserError(
            f"widths must be numbers of channels in 1..{_MAX_WIDTH}, one for each stage, got "
            f"{', '.join(map(str, counts)) or 'none'}"
        )
    if len(counts) > _MAX_STAGES:
        raise UserError(f"a GAN has at most {_MAX_STAGES} stages, got {len(counts)} widths")
    return counts


def make_generator(
    family: str = "dcgan",
    *,
    image_shape: Sequence[int],
    num_classes: int | None = None,
    latent_size: int = 64,
    width: float = 1.0,
    widths: Sequence[int] | None = None,
    attention: Sequence[int] = (),
    fields: Mapping[str, Any] | None = None,
    dtype: Dtype = jnp.float32,
) -> nn.Module:
    """Builds a generator: `(latents, label, *, train) -> (images in [-1, 1], features)`.

    Those of R3GAN and StyleGAN2 lie around [-1, 1], and can go beyond.

    Args:
      family: a key of `GENERATORS`.
      image_shape: (H, W, C), sides of 8 to 256 pixels.
      num_classes: K, or None for a generator without classes.
      latent_size: length of the latent vectors, N(0, I); at most 2**20.
      width: factor on the published numbers of channels.
      widths: channels of each stage instead, from the fewest pixels to the image; their number
        less one says how often the size is doubled. DCGAN takes one number, the last stage's.
      attention: the stages, of 0, 1, ..., after which self-attention follows; stage 0 has the
        fewest pixels.
      fields: other values of the family's own fields: `embedding_size` of dcgan and r3gan, `blocks`
        of r3gan, `mapping_layers`, `style_size` and `mixing` of stylegan2.
      dtype: compute type; parameters and images are float32.

    Raises:
      UserError: the name is unknown or a size out of range.
    """
    shape = _check(image_shape, num_classes)
    if latent_size < 1:
        raise UserError(f"latent_size must be at least 1, got {latent_size}")
    if latent_size > _MAX_LATENT_SIZE:
        raise UserError(f"latent_size must be at most {_MAX_LATENT_SIZE}, got {latent_size}")
    size = _Size(shape, num_classes, width, _check_widths(widths), dtype, tuple(attention))
    made = GENERATORS[family](size, latent_size)
    made = with_fields(made, fields or {}, "generator")
    if attention or fields:
        check_traces(made, (latent_size,), num_classes)
    return made


def make_discriminator(
    name: str = "dcgan",
    *,
    image_shape: Sequence[int],
    num_classes: int | None = None,
    width: float = 1.0,
    widths: Sequence[int] | None = None,
    conditioning: str = "projection",
    attention: Sequence[int] = (),
    spectral_norm: bool = False,
    fields: Mapping[str, Any] | None = None,
    dtype: Dtype = jnp.float32,
) -> nn.Module:
    """Builds a discriminator: `(images, label, *, train) -> (logits [B], features)`.

    Args:
      name: a key of `DISCRIMINATORS`: a GAN family, or a classifier to serve as the trunk.
      image_shape: (H, W, C), sides of 8 to 256 pixels.
      num_classes: K, or None for a discriminator without classes.
      width: factor on the published numbers of channels.
      widths: channels of each stage instead, from the image on, of a GAN family's discriminator;
        DCGAN takes one number, the first stage's.
      conditioning: how classes come in, a key of `CONDITIONING`: "projection" (or a family's own
        way), "concatenated" to the image, or "auxiliary", which names them instead.
      attention: the stages, of 1, 2, ..., after which self-attention follows; stage 1 has the
        most pixels. Of a GAN family's discriminator.
      spectral_norm: divide every kernel by its largest singular value (see `jaxnets.spectral`).
        SNGAN's discriminator does so in any case; of the others DCGAN's can.
      fields: other values of the family's own fields: `norm` and `dropout` of dcgan, `halvings` of
        sngan, `blocks` and `embedding_size` of r3gan, `mapping_layers` and `embedding_size` of
        stylegan2.
      dtype: compute type; parameters and logits are float32.

    Raises:
      UserError: a name is unknown or a size out of range.
    """
    shape = _check(image_shape, num_classes)
    around = CONDITIONING[conditioning]
    around = None if num_classes is None else around
    classes = num_classes if around is None else None
    build = DISCRIMINATORS[name]
    if spectral_norm and name not in _SPECTRAL:
        raise UserError(
            f"spectral normalisation is of the discriminators {' and '.join(_SPECTRAL)}, and not "
            f"of {name}"
        )
    made = build(
        _Size(shape, classes, width, _check_widths(widths), dtype, tuple(attention), spectral_norm)
    )
    made = with_fields(made, fields or {}, "discriminator")
    made = made if around is None else around(made, num_classes)
    if attention or fields:
        check_traces(made, shape, num_classes)
    return made


def make_gan(
    family: str = "dcgan",
    *,
    image_shape: Sequence[int],
    num_classes: int | None = None,
    latent_size: int = 64,
    width: float = 1.0,
    generator_widths: Sequence[int] | None = None,
    discriminator: str | None = None,
    discriminator_widths: Sequence[int] | None = None,
    conditioning: str = "projection",
    generator_attention: Sequence[int] = (),
    discriminator_attention: Sequence[int] = (),
    spectral_norm: bool = False,
    generator_fields: Mapping[str, Any] | None = None,
    discriminator_fields: Mapping[str, Any] | None = None,
    dtype: Dtype = jnp.float32,
) -> tuple[nn.Module, nn.Module]:
    """Builds a generator and the discriminator to train it against.

    Args:
      family: a key of `GENERATORS`.
      image_shape: see `make_generator`, as for the following.
      num_classes: K, or None.
      latent_size: length of the latent vectors.
      width: factor on the published numbers of channels of both networks.
      generator_widths: `widths` of `make_generator`.
      discriminator: a key of `DISCRIMINATORS`; by default the family's own.
      discriminator_widths: `widths` of `make_discriminator`.
      conditioning: see `make_discriminator`.
      generator_attention: `attention` of `make_generator`.
      discriminator_attention: `attention` of `make_discriminator`.
      spectral_norm: see `make_discriminator`.
      generator_fields: `fields` of `make_generator`.
      discriminator_fields: `fields` of `make_discriminator`.
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
        widths=generator_widths,
        attention=generator_attention,
        fields=generator_fields,
        dtype=dtype,
    )
    opponent = make_discriminator(
        family if discriminator is None else discriminator,
        image_shape=image_shape,
        num_classes=num_classes,
        width=width,
        widths=discriminator_widths,
        conditioning=conditioning,
        attention=discriminator_attention,
        spectral_norm=spectral_norm,
        fields=discriminator_fields,
        dtype=dtype,
    )
    return generator, opponent
