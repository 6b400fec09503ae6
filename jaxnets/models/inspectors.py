"""Networks that say how unusual a picture is, and where: PaDiM, PatchCore and f-AnoGAN.

Each maps images to `(scores [B], {"map": [B, H, W]})`. What was learnt of faultless pictures is
among its variables, in the collection "memory", so that it is saved and loaded as any network is.
All of them look at a picture in evaluation mode, whatever else is in the batch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import ScopeParamShapeError

from jaxnets import ops
from jaxnets.columns import Image
from jaxnets.data.sources.inspection import starts
from jaxnets.errors import UserError
from jaxnets.models.classifiers import classifier_of
from jaxnets.models.gans import make_discriminator, make_generator
from jaxnets.registry import Registry
from jaxnets.typing import Array

__all__ = [
    "METHODS",
    "Embedding",
    "Encoder",
    "FAnoGan",
    "Inspector",
    "Padim",
    "PatchCore",
    "layers_of",
    "make_inspector",
]

#: Rows of the memory bank that patches are compared with at a time.
_BLOCK = 1024


class Embedding(nn.Module):
    """What a frozen CNN sees around each position of a picture.

    The features of some layers, each averaged over a window of 3x3 positions and brought to one
    grid, side by side.

    Attributes:
      network: a classifier, `(images, train) -> (logits, features)`.
      layers: names of features that have places, [B, h, w, C].
      grid: (h, w) positions.
    """

    network: nn.Module
    layers: Sequence[str]
    grid: tuple[int, int]

    def __call__(self, images: Array) -> Array:
        """Maps [B, H, W, C] to [B, h, w, D] float32."""
        features = self.network(images, train=False)[1]  # type: ignore[operator]
        parts = []
        for layer in self.layers:
            x = ops.avg_pool(features[layer].astype(jnp.float32), (3, 3), 1, "SAME")
            parts.append(jax.image.resize(x, (len(x), *self.grid, x.shape[-1]), "linear"))
        return jnp.concatenate(parts, axis=-1)


class Padim(nn.Module):
    """A Gaussian for each position; the map is the Mahalanobis distance from it.

    Attributes:
      embedding: what is seen at each position.
      size: D, of the embedding.
      channels: d of them, chosen by chance, are looked at.

    Reference:
      Defard et al. 2020, PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and
      Localization, arXiv:2011.08785.
    """

    embedding: Embedding
    size: int
    channels: int

    def setup(self) -> None:
        """Declares the Gaussians' means and the inverses of their covariances' roots."""
        (height, width), d = self.embedding.grid, self.channels
        self.chosen = self.variable("memory", "channels", jnp.arange, d, dtype=jnp.int32)
        self.mean = self.variable("memory", "mean", jnp.zeros, (height * width, d))
        self.root = self.variable("memory", "root", jnp.zeros, (height * width, d, d))

    def embed(self, images: Array) -> Array:
        """The chosen channels, [B, h w, d]."""
        seen = self.embedding(images)[..., self.chosen.value]
        return seen.reshape(len(images), -1, self.channels)

    def __call__(self, images: Array) -> tuple[None, Array]:
        """Maps [B, H, W, C] to distances [B, h, w]."""
        apart = self.embed(images) - self.mean.value[None]
        scaled = jnp.einsum("bpd,ped->bpe", apart, self.root.value)
        return None, jnp.linalg.norm(scaled, axis=-1).reshape(-1, *self.embedding.grid)


class PatchCore(nn.Module):
    """A bank of faultless patches; the map is the distance to the nearest of them.

    Patches are compared after a linear map, which whitens them, beside their place in the picture.
    The score is the greatest distance d, times `1 - exp(d) / sum exp(d_i)` over its distances to
    the neighbours in the bank of its nearest patch: less where the bank is sparse.

    Attributes:
      embedding: what is seen at each position.
      size: D, of the embedding.
      bank: how many patches are kept.
      neighbours: of the nearest patch, itself among them.
      place: how much a step from one side of the picture to the other counts, in standard
        deviations of each feature; 0 compares patches of any place.

    Reference:
      Roth et al. 2022, Towards Total Recall in Industrial Anomaly Detection, arXiv:2106.08265.
    """

    embedding: Embedding
    size: int
    bank: int
    neighbours: int = 9
    place: float = 1.0

    def setup(self) -> None:
        """Declares the bank and the whitening."""
        self.mean = self.variable("memory", "mean", jnp.zeros, (self.size,))
        self.root = self.variable("memory", "root", jnp.zeros, (self.size, self.size))
        self.kept = self.variable("memory", "bank", jnp.zeros, (self.bank, self.size + 2))

    def see(self, images: Array) -> Array:
        """Patches as the network gives them, [B, h w, D]."""
        return self.embedding(images).reshape(len(images), -1, self.size)

    def embed(self, images: Array) -> Array:
        """Whitened patches and their places, [B, h w, D + 2]."""
        height, width = self.embedding.grid
        white = (self.see(images) - self.mean.value[None, None]) @ self.root.value.T
        places = np.stack(np.meshgrid(*map(_unit, (height, width)), indexing="ij"), axis=-1)
        places = (self.place * self.size**0.5 * places.reshape(-1, 2)).astype(np.float32)
        places = jnp.broadcast_to(places, (len(white), *places.shape))
        return jnp.concatenate([white, places], axis=-1)

    def __call__(self, images: Array) -> tuple[Array, Array]:
        """Maps [B, H, W, C] to scores [B] and distances [B, h, w]."""
        patches, bank = self.embed(images), self.kept.value
        squares, nearest = _nearest(patches.reshape(-1, bank.shape[-1]), bank)
        squares, nearest = (x.reshape(patches.shape[:2]) for x in (squares, nearest))
        worst = squares.argmax(axis=1)[:, None]
        patch = jnp.take_along_axis(patches, worst[..., None], axis=1)[:, 0]
        member = bank[jnp.take_along_axis(nearest, worst, axis=1)[:, 0]]
        count = min(self.neighbours, self.bank)
        around = bank[jax.lax.top_k(-_squares(member, bank), count)[1]]
        distances = jnp.linalg.norm(patch[:, None] - around, axis=-1)
        distance = jnp.sqrt(jnp.take_along_axis(squares, worst, axis=1)[:, 0])
        share = jnp.exp(distance - jax.nn.logsumexp(distances, axis=1))
        scores = distance * (1 - share if count > 1 else 1.0)
        return scores, jnp.sqrt(squares).reshape(-1, *self.embedding.grid)


def _unit(count: int) -> np.ndarray:
    return (np.arange(count) + 0.5) / count


def _squares(x: Array, bank: Array) -> Array:
    """Squared distances [N, M] of rows [N, D] to those of a bank [M, D]."""
    of_both = jnp.square(x).sum(axis=1)[:, None] + jnp.square(bank).sum(axis=1)[None]
    return jnp.maximum(of_both - 2 * x @ bank.T, 0)


def _nearest(x: Array, bank: Array) -> tuple[Array, Array]:
    """The least squared distances [N] of rows to a bank, and of which row; block by block."""
    count = -(-len(bank) // _BLOCK)
    blocks = jnp.pad(bank, [(0, count * _BLOCK - len(bank)), (0, 0)], mode="edge")

    def look(best: tuple[Array, Array], block: tuple[Array, Array]) -> Any:
        squares = _squares(x, block[0])
        least, place = squares.min(axis=1), squares.argmin(axis=1) + block[1]
        closer = least < best[0]
        return (jnp.where(closer, least, best[0]), jnp.where(closer, place, best[1])), None

    first = jnp.full(len(x), jnp.inf), jnp.zeros(len(x), jnp.int32)
    offsets = jnp.arange(count, dtype=jnp.int32) * _BLOCK
    (squares, place), _ = jax.lax.scan(look, first, (blocks.reshape(count, _BLOCK, -1), offsets))
    return squares, jnp.minimum(place, len(bank) - 1)


class Encoder(nn.Module):
    """Images [B, H, W, C] to latents [B, Z].

    Attributes:
      network: whose "penultimate" features are mapped to latents, as a discriminator's.
      latent_size: Z.
    """

    network: nn.Module
    latent_size: int

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, dict[str, Array]]:
        """Latents, and no features."""
        seen = self.network(x, train=train)[1]["penultimate"]  # type: ignore[operator]
        return nn.Dense(self.latent_size, name="latents")(seen), {}


class FAnoGan(nn.Module):
    """How badly a GAN of faultless patches can make a patch: f-AnoGAN.

    The map is the squared residual of pixels, averaged where patches overlap. A patch's score is
    `|x - G(E x)|^2 / n + kappa |f(x) - f(G(E x))|^2 / n_f`, f being the discriminator's
    "penultimate" features; a picture's is the greatest of its patches.

    Attributes:
      generator: latents to patches.
      discriminator: whose features f are.
      encoder: patches to latents.
      patch: side of a patch.
      kappa: weight of the features.

    Reference:
      Schlegl et al. 2019, f-AnoGAN: Fast unsupervised anomaly detection with generative adversarial
      networks, Medical Image Analysis 54.
    """

    generator: nn.Module
    discriminator: nn.Module
    encoder: nn.Module
    patch: int
    kappa: float = 1.0

    def residuals(self, patches: Array) -> tuple[Array, Array]:
        """Scores [B], and squared residuals [B, s, s], of patches [B, s, s, C]."""
        networks: Any = self.encoder, self.generator, self.discriminator
        encoder, generator, discriminator = networks
        made = generator(encoder(patches, train=False)[0], None, train=False)[0]
        pixels = jnp.square(patches - made).mean(axis=-1)
        seen, again = (
            discriminator(x, None, train=False)[1]["penultimate"] for x in (patches, made)
        )
        scores = pixels.mean(axis=(1, 2)) + self.kappa * jnp.square(seen - again).mean(axis=-1)
        return scores, pixels

    def __call__(self, images: Array) -> tuple[Array, Array]:
        """Maps [B, H, W, C] to scores [B] and residuals [B, H, W]."""
        size, shape = self.patch, images.shape[:3]
        rows, columns = (starts(side, size, size // 2) for side in shape[1:])
        corners = jnp.array([(y, x) for y in rows for x in columns], jnp.int32)
        part = (shape[0], size, size)

        def cut(corner: Array) -> Array:
            start = (0, corner[0], corner[1], 0)
            return jax.lax.dynamic_slice(images, start, (*part, images.shape[-1]))

        patches = jax.vmap(cut)(corners)  # [n, B, s, s, C]
        scores, pixels = self.residuals(patches.reshape(-1, *patches.shape[2:]))
        pixels = pixels.reshape(-1, *part)

        def add(i: Array, sums: Array) -> Array:
            start = (0, corners[i, 0], corners[i, 1])
            both = jnp.stack([pixels[i], jnp.ones(part)])
            there = jax.lax.dynamic_slice(sums, (0, *start), both.shape)
            return jax.lax.dynamic_update_slice(sums, there + both, (0, *start))

        # A loop, because so many additions one by one take minutes to compile.
        total, count = jax.lax.fori_loop(0, len(corners), add, jnp.zeros((2, *shape)))
        return scores.reshape(-1, shape[0]).max(axis=0), total / count


class Inspector(nn.Module):
    """A method, with the map brought to the picture's size and blurred, and the threshold.

    Attributes:
      method: `images -> (scores [B] or None, map [B, h, w])`. Where it gives no scores, they are
        the greatest values of the blurred maps.
      sigma: standard deviation of the blur, in pixels.
    """

    method: nn.Module
    sigma: float = 4.0

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> tuple[Array, dict[str, Array]]:
        """Maps [B, H, W, C] in [-1, 1] to scores [B] and {"map": [B, H, W]}."""
        del train
        self.variable("memory", "threshold", jnp.zeros, ())
        self.variable("memory", "levels", jnp.zeros, (2,))
        scores, small = self.method(images)  # type: ignore[operator]
        down, across = (
            _spread(few, many, self.sigma)
            for few, many in zip(small.shape[1:], images.shape[1:3], strict=True)
        )
        large = jnp.einsum("Hh,bhw,Ww->bHW", down, small, across)
        return large.max(axis=(1, 2)) if scores is None else scores, {"map": large}


def _spread(few: int, many: int, sigma: float) -> Array:
    """[many, few]: linear interpolation along an axis, then a Gaussian blur within its ends."""
    places = np.arange(many, dtype=np.float32)
    blur = np.exp(-0.5 * np.square((places[:, None] - places) / sigma))
    blur /= blur.sum(axis=1, keepdims=True)
    return blur @ jax.image.resize(jnp.eye(few), (many, few), "linear")


def _embedding(fields: dict[str, Any], column: Image) -> Embedding:
    network = dict(fields.pop("backbone"))
    height, width = fields.pop("backbone_size") or column.shape[:2]
    shape = Image((height, width, column.shape[-1]))
    made = classifier_of(network.pop("name"), shape, **network)
    return Embedding(made, tuple(fields.pop("layers")), tuple(fields.pop("grid")))


def _f_anogan(fields: dict[str, Any], column: Image) -> FAnoGan:
    size, latents, width = (fields.pop(name) for name in ("patch", "latent_size", "width"))
    shape = (size, size, column.shape[-1])
    discriminator = make_discriminator("dcgan", image_shape=shape, width=width)
    generator = make_generator("dcgan", image_shape=shape, latent_size=latents, width=width)
    encoder = Encoder(make_discriminator("dcgan", image_shape=shape, width=width), latents)
    return FAnoGan(generator, discriminator, encoder, size, **fields)


#: Name of a method -> (its fields, column of pictures) -> the method.
METHODS: Registry[Any] = Registry(
    "method",
    {
        "padim": lambda fields, column: Padim(_embedding(fields, column), **fields),
        "patchcore": lambda fields, column: PatchCore(_embedding(fields, column), **fields),
        "f-anogan": _f_anogan,
    },
)


def make_inspector(name: str, column: Image, **fields: Any) -> Inspector:
    """Builds an inspector of pictures.

    Args:
      name: a key of `METHODS`.
      column: of the pictures.
      **fields: those of the method; `num_classes` is None. PaDiM and PatchCore have, in place of an
        embedding, `backbone` (arguments of `classifier_of`), `backbone_size` (the (height, width)
        that it was built for; None for the pictures' own), `layers` and `grid`; f-AnoGAN has
        `latent_size` and `width` in place of its three networks.

    Raises:
      UserError: for an unknown name.
    """
    fields.pop("num_classes", None)
    return Inspector(METHODS[name](fields, column))


def layers_of(
    network: nn.Module, variables: Mapping[str, Any], shape: Sequence[int]
) -> Mapping[str, tuple[int, ...]]:
    """The features of a network that have places: name -> (h, w, C), the largest maps first.

    Args:
      network: `(images, train) -> (output, features)`.
      variables: its own.
      shape: (H, W, C) of its images.

    Raises:
      UserError: if it takes no images of this size, or none of its features has places.
    """
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)

    def features(x: Array) -> Any:
        outputs: Any = network.apply(variables, x, train=False)
        return outputs[1]

    try:
        shapes = jax.eval_shape(features, images)
    except ScopeParamShapeError as error:
        raise UserError(f"the network takes no pictures of {shape[0]}x{shape[1]}") from error
    places = {name: x.shape[1:] for name, x in shapes.items() if x.ndim == 4 and x.shape[1] > 1}
    if not places:
        raise UserError("none of the network's features has places, so that it can't be inspected")
    return dict(sorted(places.items(), key=lambda item: -item[1][0] * item[1][1]))
