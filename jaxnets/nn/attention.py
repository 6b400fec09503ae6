"""Self-attention over the pixels of an image."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from jaxnets.nn.layers import Conv
from jaxnets.typing import Array

__all__ = ["SelfAttention"]


class SelfAttention(nn.Module):
    """x_j + gamma v(sum_i s_ij h(x_i)) with s_ij = softmax_i(f(x_i) . g(x_j)), for each pixel j.

    f, g, h and v are 1x1 convolutions without bias, the first three to a `reduction`-th of the
    channels. gamma starts at zero, so the block starts as the identity. Its cost grows with the
    square of the number of pixels: 32x32 of them take 4 MB for each image.

    Attributes:
      reduction: by how much the pixels are compared, and passed on, in fewer channels.
      spectral_norm: of the four kernels; see `jaxnets.nn.spectral`.
      dtype: compute type; the softmax is float32.

    Reference: Zhang et al. 2019, https://arxiv.org/abs/1805.08318, eq. 1 to 3
    """

    reduction: int = 8
    spectral_norm: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps [B, *spatial, C] to the same shape."""
        channels, rank = x.shape[-1], x.ndim - 2
        inner = max(1, channels // self.reduction)
        conv = partial(
            Conv,
            kernel_size=(1,) * rank,
            use_bias=False,
            spectral_norm=self.spectral_norm,
            dtype=self.dtype,
        )

        def pixels(name: str) -> Array:
            return conv(inner, name=name)(x, train=train).reshape(x.shape[0], -1, inner)

        keys, queries, values = pixels("conv_f"), pixels("conv_g"), pixels("conv_h")
        likeness = jnp.einsum("bjc,bic->bji", queries, keys).astype(jnp.float32)
        shares = jax.nn.softmax(likeness, axis=-1).astype(self.dtype)
        seen = jnp.einsum("bji,bic->bjc", shares, values).reshape(*x.shape[:-1], inner)
        gamma = self.param("gamma", nn.initializers.zeros, (), jnp.float32)
        seen = conv(channels, name="conv_v")(seen, train=train)
        return x.astype(self.dtype) + gamma.astype(self.dtype) * seen
