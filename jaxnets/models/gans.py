"""Generators and discriminators by name."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from jaxnets.errors import UserError
from jaxnets.models import dcgan, r3gan, resnet_gan, style_gan
from jaxnets.models.classifiers import CLASSIFIERS, make_classifier, scale_widths
from jaxnets.models.conditioning import CONDITIONING, TrunkDiscriminator
from jaxnets.models.sizes import check_traces, with_fields
from jaxnets.registry import Registry

__all__ = ["DISCRIMINATORS", "GENERATORS", "make_discriminator", "make_gan", "make_generator"]

_MIN_SIZE, _MAX_SIZE = 8, 256
_MAX_LATENT_SIZE = 1 << 20
_MAX_WIDTH = 1 << 14
_MAX_STAGES = 8

#: family -> its module, with `Generator`, `Discriminator`, and `published(pixels)`, which gives the
#: fields of each that depend on an image's size.
_FAMILIES = {"dcgan": dcgan, "r3gan": r3gan, "sngan": resnet_gan, "stylegan2": style_gan}

#: Numbers of channels are multiples of this, by default of 4.
_MULTIPLES = {"r3gan": 8}

#: Discriminators that can be spectrally normalised.
_SPECTRAL = ("dcgan", "sngan")

#: family -> the generator's class.
GENERATORS: Registry[type[nn.Module]] = Registry(
    "generator", {name: family.Generator for name, family in _FAMILIES.items()}
)

#: name of a family, or of a classifier that serves as the trunk -> the discriminator's class.
DISCRIMINATORS: Registry[type[nn.Module]] = Registry(
    "discriminator",
    {
        **{name: family.Discriminator for name, family in _FAMILIES.items()},
        **dict.fromkeys(CLASSIFIERS, TrunkDiscriminator),
    },
)


def _check(image_shape: Sequence[int], num_classes: int | None) -> None:
    if len(image_shape) != 3:
        raise UserError(
            f"a GAN needs images of shape (height, width, channels), got {tuple(image_shape)}"
        )
    height, width = image_shape[:2]
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


def _fields(
    family: str, player: str, pixels: int, width: float, widths: Sequence[int] | None
) -> dict[str, Any]:
    """The published fields of a family's "generator" or "discriminator", with these channels."""
    multiple = _MULTIPLES.get(family, 4)
    fields: dict[str, Any] = _FAMILIES[family].published(pixels)[player]
    one = "width" in fields  # a family whose other numbers of channels follow from one
    counts = scale_widths([fields["width"]] if one else fields["widths"], width, multiple)
    if widths is not None:
        counts = tuple(map(int, widths))
        told = ", ".join(map(str, counts)) or "none"
        if not counts or not all(1 <= count <= _MAX_WIDTH for count in counts):
            raise UserError(
                f"widths must be numbers of channels in 1..{_MAX_WIDTH}, one for each stage, got "
                f"{told}"
            )
        if len(counts) > _MAX_STAGES:
            raise UserError(f"a GAN has at most {_MAX_STAGES} stages, got {len(counts)} widths")
        if one and len(counts) != 1:
            raise UserError(
                f"the channels of a {family} follow from one number, got {len(counts)}: {told}"
            )
    fields |= {"width": counts[0]} if one else {"widths": counts}
    if "style_size" in fields:
        (fields["style_size"],) = scale_widths([fields["style_size"]], width)
    if "halvings" in fields:
        fields["halvings"] = min(fields["halvings"], len(counts))
    return fields


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
    _check(image_shape, num_classes)
    if latent_size < 1:
        raise UserError(f"latent_size must be at least 1, got {latent_size}")
    if latent_size > _MAX_LATENT_SIZE:
        raise UserError(f"latent_size must be at most {_MAX_LATENT_SIZE}, got {latent_size}")
    made = GENERATORS[family](
        image_shape=tuple(image_shape),
        latent_size=latent_size,
        num_classes=num_classes,
        attention=tuple(attention),
        dtype=dtype,
        **_fields(family, "generator", min(image_shape[:2]), width, widths),
    )
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
      spectral_norm: divide every kernel by its largest singular value (see `jaxnets.nn.spectral`).
        SNGAN's discriminator does so in any case; of the others DCGAN's can.
      fields: other values of the family's own fields: `norm` and `dropout` of dcgan, `halvings` of
        sngan, `blocks` and `embedding_size` of r3gan, `mapping_layers` and `embedding_size` of
        stylegan2.
      dtype: compute type; parameters and logits are float32.

    Raises:
      UserError: a name is unknown or a size out of range.
    """
    _check(image_shape, num_classes)
    kind, around = DISCRIMINATORS[name], CONDITIONING[conditioning]
    around = None if num_classes is None else around
    classes = num_classes if around is None else None
    if spectral_norm and name not in _SPECTRAL:
        raise UserError(
            f"spectral normalisation is for the discriminators {' and '.join(_SPECTRAL)}, and not "
            f"for {name}"
        )
    if name in CLASSIFIERS:
        if widths is not None or attention:
            raise UserError(
                f"self-attention, and channels one by one, go into the networks of "
                f"{', '.join(GENERATORS)}; a classifier as a discriminator, such as {name}, has no "
                "place for them"
            )
        # Without classes the trunk's own head is not used for anything; two is the fewest.
        trunk = make_classifier(
            name, num_classes=classes or 2, image_shape=image_shape, width=width, dtype=dtype
        )
        made: nn.Module = TrunkDiscriminator(trunk, classes)
    else:
        sized = _fields(name, "discriminator", min(image_shape[:2]), width, widths)
        if name == "dcgan":
            sized["spectral_norm"] = spectral_norm
        made = kind(num_classes=classes, attention=tuple(attention), dtype=dtype, **sized)
    made = with_fields(made, fields or {}, "discriminator")
    made = made if around is None else around(made, num_classes)
    if attention or fields:
        check_traces(made, image_shape, num_classes)
    return made


def make_gan(
    family: str = "dcgan",
    *,
    discriminator: str | None = None,
    latent_size: int = 64,
    generator_options: Mapping[str, Any] | None = None,
    discriminator_options: Mapping[str, Any] | None = None,
    **both: Any,
) -> tuple[nn.Module, nn.Module]:
    """Builds a generator and the discriminator to train it against.

    Args:
      family: a key of `GENERATORS`.
      discriminator: a key of `DISCRIMINATORS`; by default the family's own.
      latent_size: length of the latent vectors.
      generator_options: further arguments of `make_generator`.
      discriminator_options: further arguments of `make_discriminator`.
      **both: arguments of the two: `image_shape`, `num_classes`, `width` and `dtype`.

    Returns:
      (generator, discriminator).

    Raises:
      UserError: a name is unknown or a size out of range.
    """
    return (
        make_generator(family, latent_size=latent_size, **both, **(generator_options or {})),
        make_discriminator(discriminator or family, **both, **(discriminator_options or {})),
    )
