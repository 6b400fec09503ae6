"""Augmentations of one example: key first, differentiable, in any number of spatial axes.

An augmentation maps `(key, image)` to an image of the same shape, `image` being [*spatial, C]
float32 in [-1, 1]. `apply` maps one over a batch with a key for each global example, which is what
makes the numbers independent of how many devices share the batch. All are differentiable in the
image, so a generator can learn through them, and so can a gradient penalty.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import chex
import jax
import jax.numpy as jnp

from jaxnets.data.degrade import blur, compress, resize
from jaxnets.errors import UserError
from jaxnets.registry import Registry
from jaxnets.typing import Array, Metrics, PRNGKey, traced

__all__ = [
    "AUGMENT_PROBABILITY",
    "GAN_AUGMENTATIONS",
    "Adaptive",
    "Augmentation",
    "affine",
    "apply",
    "augmentation",
    "brightness",
    "compose",
    "contrast",
    "cutout",
    "gan_augmentation",
    "mixup",
    "random_crop",
    "random_flip",
    "saturation",
    "sometimes",
    "strong_augmentation",
    "translate",
]

Augmentation = Callable[[PRNGKey, Array], Array]

#: Name of ADA's probability in the state's `extra` and among the metrics.
AUGMENT_PROBABILITY = "augment_probability"

#: What fills the pixels of an image that was moved.
_Filling = Literal["reflect", "zero"]


def _shift(image: Array, offsets: Array, mode: _Filling) -> Array:
    """Moves the window over the image by `offsets` [rank], filling in what lies outside.

    One gather per axis. At 512 x 32 x 32 x 3 under vmap on two CPU cores: 0.9 ms forward and 4
    with the gradient; pad and dynamic_slice 1.5 and 25, one-hot matmuls 5 and 9.
    """
    if mode not in ("reflect", "zero"):
        raise UserError(f"filling mode {mode!r} is unknown; choose 'reflect' or 'zero'.")
    for axis, size in enumerate(image.shape[:-1]):
        index = jnp.arange(size) + offsets[axis]
        mirrored = (size - 1) - jnp.abs((size - 1) - jnp.abs(index))
        source = mirrored if mode == "reflect" else jnp.clip(index, 0, size - 1)
        image = jnp.take(image, source, axis=axis, mode="clip")
        if mode == "zero":
            inside = (index >= 0) & (index < size)
            column = inside.reshape([size if a == axis else 1 for a in range(image.ndim)])
            image = jnp.where(column, image, 0.0)
    return image


def random_crop(key: PRNGKey, image: Array, *, padding: int, mode: _Filling = "reflect") -> Array:
    """Pads every spatial side by so many pixels and crops the original size at a uniform place.

    The padding holds the image mirrored about its edge pixel, or 0 (grey).

    Raises:
      UserError: if `padding` is negative, or too large to mirror, or `mode` is unknown.
    """
    smallest = min(image.shape[:-1])
    if padding < 0 or (mode == "reflect" and padding >= smallest):
        raise UserError(
            f"crop padding {padding} does not fit images of {smallest} pixels; "
            f"choose 0..{smallest - 1}."
        )
    offsets = jax.random.randint(key, (image.ndim - 1,), -padding, padding + 1)
    return _shift(image, offsets, mode)


def random_flip(key: PRNGKey, image: Array) -> Array:
    """Mirrors the last spatial axis (left and right) of [*spatial, C] in one case of two."""
    return jnp.where(jax.random.bernoulli(key), jnp.flip(image, axis=-2), image)


def cutout(key: PRNGKey, image: Array, *, size: int) -> Array:
    """Sets a square (cube) of side `size` to 0 (grey), its middle uniform over the pixels.

    The square may hang over the edge, as in the paper, so that on average less is lost. An even
    side reaches one pixel further to the left of its middle than to the right.

    Raises:
      UserError: if `size` is negative, or so large that it always blanks the whole image.

    Reference:
      DeVries and Taylor 2017, arXiv:1708.04552.
    """
    largest = 2 * max(image.shape[:-1]) - 2
    if not 0 <= size <= largest:
        raise UserError(
            f"cutout size {size} is outside 0..{largest}: a larger square blanks every image whole."
        )
    keep = jnp.zeros((1,) * image.ndim, bool)
    for axis, axis_key in enumerate(jax.random.split(key, image.ndim - 1)):
        pixels = image.shape[axis]
        start = jax.random.randint(axis_key, (), 0, pixels) - size // 2
        index = jnp.arange(pixels)
        outside = (index < start) | (index >= start + size)
        keep = keep | outside.reshape([pixels if a == axis else 1 for a in range(image.ndim)])
    return jnp.where(keep, image, 0.0)


def translate(
    key: PRNGKey, image: Array, *, fraction: float = 0.125, mode: _Filling = "zero"
) -> Array:
    """Moves the image by up to `fraction` of each side, rounded to a pixel.

    The place that it leaves is filled with the image mirrored about its edge pixel, or 0 (grey).

    Raises:
      UserError: if `fraction` is outside [0, 1), or `mode` is unknown.
    """
    if not 0.0 <= fraction < 1.0:
        raise UserError(f"translation fraction {fraction} is outside [0, 1); choose one inside.")
    reach = jnp.array([int(fraction * side + 0.5) for side in image.shape[:-1]])
    offsets = jax.random.randint(key, reach.shape, -reach, reach + 1)
    return _shift(image, offsets, mode)


def affine(
    key: PRNGKey,
    image: Array,
    *,
    rotation: float = 30.0,
    shear: float = 0.3,
    scale: float = 0.2,
    fraction: float = 0.125,
) -> Array:
    """Turns, slants, stretches and moves the image about its middle, all at once.

    One bilinear look-up does it all; what lies outside has the nearest pixel of the edge.

    Args:
      key: one key.
      image: [H, W, C].
      rotation: the greatest turn, in degrees.
      shear: the greatest slant, in pixels a pixel.
      scale: the greatest change of the logarithm of either side.
      fraction: the farthest move, as a share of a side.

    Returns:
      [H, W, C].
    """
    height, width, channels = image.shape
    draws = jax.random.uniform(key, (6,), minval=-1.0)
    angle, slant = draws[0] * jnp.deg2rad(rotation), draws[1] * shear
    sizes = jnp.array([height, width], jnp.float32)
    turn = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
    matrix = turn @ jnp.array([[1.0, 0.0], [slant, 1.0]]) @ jnp.diag(jnp.exp(draws[2:4] * scale))
    middle = (sizes - 1.0) / 2.0
    offset = middle - matrix @ middle + draws[4:] * fraction * sizes
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    places = [matrix[i, 0] * rows + matrix[i, 1] * columns + offset[i] for i in range(2)]
    looked_up = [
        jax.scipy.ndimage.map_coordinates(image[..., c], places, order=1, mode="nearest")
        for c in range(channels)
    ]
    return jnp.stack(looked_up, axis=-1)


def brightness(key: PRNGKey, image: Array, *, amplitude: float = 0.5) -> Array:
    """Adds one uniform number in [-amplitude, amplitude] to all pixels; does not clip."""
    return image + jax.random.uniform(key, (), image.dtype, -amplitude, amplitude)


def saturation(key: PRNGKey, image: Array, *, low: float = 0.0, high: float = 2.0) -> Array:
    """Scales the distance to the pixel's mean over channels by a uniform number; does not clip."""
    mean = image.mean(axis=-1, keepdims=True)
    return mean + (image - mean) * jax.random.uniform(key, (), image.dtype, low, high)


def contrast(key: PRNGKey, image: Array, *, low: float = 0.5, high: float = 1.5) -> Array:
    """Scales the distance to the image's mean by a uniform number; does not clip."""
    mean = image.mean()
    return mean + (image - mean) * jax.random.uniform(key, (), image.dtype, low, high)


@dataclasses.dataclass(frozen=True)
class _Composed:
    functions: tuple[Augmentation, ...]

    def __call__(self, key: PRNGKey, image: Array) -> Array:
        for place, function in enumerate(self.functions):
            image = function(jax.random.fold_in(key, place), image)
        return image


def compose(*functions: Augmentation) -> Augmentation:
    """One augmentation after another, each with its own key; none at all is the identity."""
    return _Composed(functions)


def sometimes(function: Augmentation, probability: Array | float) -> Augmentation:
    """An augmentation of a share of the images, which may be traced; composed ones draw apart."""
    if isinstance(function, _Composed):
        return compose(*(sometimes(part, probability) for part in function.functions))

    def drawn(key: PRNGKey, image: Array) -> Array:
        draw_key, own_key = jax.random.split(key)
        return jnp.where(
            jax.random.bernoulli(draw_key, probability), function(own_key, image), image
        )

    return drawn


@dataclasses.dataclass(frozen=True)
class Adaptive:
    """ADA: how often to augment a GAN's images follows how sure the discriminator is of reals.

    Where it takes nearly all real training images for real, it begins to know them by heart; the
    probability rises, and falls again where it is in doubt. Moved at every update, by the sign of
    the batch's own mean, where the authors' code waits for the mean of four.

    Attributes:
      target: of the mean sign of the logits of real images.
      images: how many it takes for the probability to go from 0 to 1.
      start: the probability at first.

    Reference:
      Karras et al. 2020, Training Generative Adversarial Networks with Limited Data,
      arXiv:2006.06676, section 3.1.
    """

    target: float = 0.6
    images: float = 500_000.0
    start: float = 0.0

    @property
    def extra(self) -> dict[str, float]:
        """What it keeps in the state, as that begins."""
        return {AUGMENT_PROBABILITY: self.start}

    def after(self, extra: Mapping[str, Array], metrics: Metrics) -> dict[str, Array]:
        """The next probability, in [0, 1], by the step's `d_sign_real`."""
        signs = metrics["d_sign_real"]
        moved = jnp.sign(signs.on_device() - self.target) * signs.count / self.images
        return {AUGMENT_PROBABILITY: jnp.clip(extra[AUGMENT_PROBABILITY] + moved, 0.0, 1.0)}


def apply(function: Augmentation, keys: Array, images: Array) -> Array:
    """Maps an augmentation over images [B, ...]; for keys [B] see `jaxnets.devices.axis`."""
    chex.assert_shape(keys, (images.shape[0],))
    return jax.vmap(function)(keys, images)


def augmentation(
    crop_padding: int = 0, flip: bool = False, cutout_size: int = 0, degrading: float = 0.0
) -> Augmentation:
    """What is done to a classifier's images: crop, flip, cutout, each off by default.

    With the probability `degrading` each, they are first blurred, resized and compressed, as
    pictures are that have been passed on.

    Reference: Wang et al. 2020, CNN-generated images are surprisingly easy to spot... for now,
      arXiv:1912.11035
    """
    functions: list[Augmentation] = []
    if crop_padding:
        functions.append(lambda key, image: random_crop(key, image, padding=crop_padding))
    if flip:
        functions.append(random_flip)
    if degrading:
        functions += [sometimes(change, degrading) for change in (blur, resize, compress)]
    if cutout_size:
        functions.append(lambda key, image: cutout(key, image, size=cutout_size))
    return compose(*functions)


def strong_augmentation(weak: Augmentation) -> Augmentation:
    """A weak augmentation of images, then RandAugment's kinds of changes, each to a half of them.

    Turned by up to 10 degrees, slanted and moved a little; brighter or darker; more or less
    contrast; and in any case a square of half the side blanked out. None needs colour. Turned by 30
    degrees, FixMatch had 12.2% errors on a draw of Fashion-MNIST with 100 labels a class, and so
    11.9%.

    Reference:
      Cubuk et al. 2020, RandAugment, arXiv:1909.13719; with cutout as in Sohn et al. 2020,
      FixMatch, arXiv:2001.07685.
    """
    changes = compose(partial(affine, rotation=10.0, shear=0.1), brightness, contrast)
    return compose(weak, sometimes(changes, 0.5), _half_cutout)


def mixup(
    keys: Array, images: Array, labels: Array, *, alpha: Array | float
) -> tuple[Array, Array]:
    """Blends neighbours: `l x_a + (1 - l) x_b` and `l x_b + (1 - l) x_a`, `l ~ Beta(alpha, alpha)`.

    Partners are examples 2j and 2j + 1 of the batch, which has been shuffled already: a random
    partner could sit on another device. Their l comes from the key of the first; the smaller
    `alpha`, the closer it is to 0 or 1. Labels are [B, K] probabilities, and mixed as images are.

    Raises:
      UserError: if B is odd or `alpha` is not above 0.

    Reference:
      Zhang et al. 2018, mixup: Beyond Empirical Risk Minimization, arXiv:1710.09412.
    """
    batch = images.shape[0]
    if traced(alpha):
        alpha = jnp.maximum(alpha, 1e-6)  # as good as 0, which mixes nothing
    elif alpha <= 0.0:
        raise UserError(f"mixup alpha={alpha} is not above 0; choose about 0.2, or leave it off.")
    if batch % 2:
        raise UserError(f"mixup pairs examples, but a device has {batch}; choose an even batch.")
    chex.assert_rank(labels, 2)
    chex.assert_equal_shape_prefix([keys, images, labels], 1)
    share = jax.vmap(lambda key: jax.random.beta(key, alpha, alpha, dtype=jnp.float32))(keys[::2])

    def mix(values: Array) -> Array:
        pairs = values.reshape(batch // 2, 2, -1)
        own = share[:, None, None].astype(values.dtype)
        return (own * pairs + (1.0 - own) * pairs[:, ::-1]).reshape(values.shape)

    return mix(images), mix(labels)


def _half_cutout(key: PRNGKey, image: Array) -> Array:
    return cutout(key, image, size=int(0.5 * min(image.shape[:-1]) + 0.5))


#: What a policy of `gan_augmentation` may name, with the strengths of DiffAugment; "shift" is its
#: translation, filled as StyleGAN2-ADA's.
GAN_AUGMENTATIONS: Registry[Augmentation] = Registry(
    "GAN augmentation",
    {
        "color": compose(brightness, saturation, contrast),
        "translation": translate,
        "shift": partial(translate, mode="reflect"),
        "cutout": _half_cutout,
        "flip": random_flip,
    },
)


def gan_augmentation(policy: str) -> Augmentation:
    """A GAN's augmentation, for reals and fakes alike, such as "color,translation,cutout".

    The policy has names of `GAN_AUGMENTATIONS`, applied in that order; "" is the identity.

    Raises:
      UserError: if a name is unknown.

    Reference:
      Zhao et al. 2020, Differentiable Augmentation for Data-Efficient GAN Training,
      arXiv:2006.10738.
    """
    names = [name.strip() for name in policy.split(",") if name.strip()]
    return compose(*(GAN_AUGMENTATIONS[name] for name in names))
