"""Projected GAN: a discriminator that looks at images through a frozen CNN."""

from collections.abc import Callable, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from jaxnets import ops
from jaxnets.models.dcgan import project
from jaxnets.nn.labels import class_weights
from jaxnets.nn.layers import BatchNorm, Conv, Dense
from jaxnets.typing import Array

__all__ = ["ProjectedDiscriminator"]

#: A head halves what it sees until no side is longer than this.
_LAST_SIDE = 4

_mixing_init = nn.initializers.he_normal()
_leaky_init = nn.initializers.variance_scaling(2 / (1 + 0.2**2), "fan_in", "truncated_normal")


class ProjectedDiscriminator(nn.Module):
    """Images [B, H, W, C], and labels, to logits [B, S], one for each scale of a frozen CNN.

    The CNN's features of S sizes are mixed by random convolutions that never learn: across channels
    by one of 1x1, then across sizes from the smallest to the largest, each joined by what is below
    it, enlarged, through one of 3x3. So no head can rest on the few channels that tell reals from
    fakes most easily. Each head is a small CNN with spectral and batch normalisation, as in the
    authors' code; a class adds the dot product of its embedding with the head's last features.

    Features: "scale1", ... (mixed) and "penultimate" [B, F] float32, those of all heads. The mixing
    lies in the collection "mixing", so it is part of a checkpoint and follows from the key that the
    network is initialised with.

    Attributes:
      features: images -> features [B, h, w, c], ..., the largest first. Its weights are constants.
      num_classes: None for a discriminator without classes.
      width: channels of the mixed features and of the heads.
      dtype: compute type of the heads.

    Reference:
      Sauer et al. 2021, Projected GANs Converge Faster, arXiv:2111.01007.
    """

    features: Callable[[Array], Sequence[Array]]
    num_classes: int | None = None
    width: int = 64
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, label: Array | None = None, *, train: bool
    ) -> tuple[Array, dict[str, Array]]:
        seen = self.features(x)
        mixed: list[Array] = []
        for scale, one in reversed(list(enumerate(seen, start=1))):
            y = self._mix(one, (1, 1), f"channels{scale}")
            if mixed:  # the sum of two has the size of one
                below = jax.image.resize(mixed[0], (*y.shape[:3], self.width), "bilinear")
                y = (y + self._mix(below, (3, 3), f"sizes{scale}")) * 2**-0.5
            mixed.insert(0, y)
        heads = [self._head(y, scale, train) for scale, y in enumerate(mixed, start=1)]
        weights = None if self.num_classes is None else class_weights(label, self.num_classes)
        logits = []
        for scale, phi in enumerate(heads, start=1):
            head = Dense(1, spectral_norm=True, name=f"scale{scale}_head")
            logit = head(phi, train=train)[:, 0]
            if weights is not None:
                of_class = partial(project, name=f"scale{scale}_projection", spectral_norm=True)
                logit += of_class(phi, weights, train=train)
            logits.append(logit)
        features = {f"scale{scale}": y for scale, y in enumerate(mixed, start=1)}
        return jnp.stack(logits, axis=1), {**features, "penultimate": jnp.concatenate(heads, 1)}

    def _mix(self, x: Array, window: tuple[int, int], name: str) -> Array:
        """A convolution with random weights that stay as they are."""
        shape = (*window, x.shape[-1], self.width)
        kernel = self.variable(
            "mixing", name, lambda: _mixing_init(self.make_rng("params"), shape, jnp.float32)
        )
        return ops.conv(x, kernel.value.astype(x.dtype))

    def _head(self, x: Array, scale: int, train: bool) -> Array:
        """Features [B, F] float32 of one scale."""
        for stage in range(1, 9):
            halve = max(x.shape[1:3]) > _LAST_SIDE
            conv = Conv(
                self.width,
                (4, 4) if halve else (3, 3),
                2 if halve else 1,
                kernel_init=_leaky_init,
                dtype=self.dtype,
                spectral_norm=True,
                use_bias=False,
                name=f"scale{scale}_conv{stage}",
            )
            norm = BatchNorm(dtype=self.dtype, name=f"scale{scale}_norm{stage}")
            x = nn.leaky_relu(norm(conv(x, train=train), train=train), 0.2)
            if not halve:
                break
        return x.reshape(len(x), -1).astype(jnp.float32)
