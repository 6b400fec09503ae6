"""What style-based networks are made of: equalised layers, a mapping, modulated convolutions.

Equalised learning rate (Karras et al. 2018, https://arxiv.org/abs/1710.10196, section 4.1): a
kernel starts as N(0, 1) and is multiplied by 1 / sqrt(fan_in) wherever it is used. Adam moves every
number by about the rate, so that all layers then learn as fast, whatever their size. A `rate` below
1 makes a layer slower still: its numbers start larger by 1 / rate, and are multiplied by it.

The authors train with Adam at a rate of 0.002 to 0.0025, b1 = 0 and b2 = 0.99. A rate that suits
other networks (0.0002) is slow for these.
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from jaxnets import ops
from jaxnets.devices import axis
from jaxnets.nn.labels import class_weights
from jaxnets.ops import windows
from jaxnets.typing import Array

__all__ = [
    "EqualisedConv",
    "EqualisedDense",
    "Mapping",
    "ModulatedConv",
    "StyledConv",
    "activate",
    "normalised",
]

#: By which the classes and latents are mapped slower than everything else learns.
MAPPING_RATE = 0.01

_EPSILON = 1e-8


def activate(x: Array) -> Array:
    """Leaky ReLU with a slope of 0.2, times sqrt(2): noise N(0, 1) keeps about its size."""
    return nn.leaky_relu(x, 0.2) * 2**0.5


def normalised(x: Array) -> Array:
    """Divides by the root mean square along the last axis."""
    return x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + _EPSILON)


def _per_channel(values: Array, like: Array) -> Array:
    """[B, C] or [C] as something that multiplies [B, *spatial, C], in its type."""
    lead = values.shape[0] if values.ndim == 2 else 1
    shape = (lead, *(1,) * (like.ndim - 2), values.shape[-1])
    return values.astype(like.dtype).reshape(shape)


class EqualisedDense(nn.Module):
    """x @ (kernel rate / sqrt(inputs)) + bias rate, in float32: [B, inputs] -> [B, features].

    Attributes:
      features: number of outputs.
      rate: factor on the learning rate.
      bias: what every bias starts with.
    """

    features: int
    rate: float = 1.0
    bias: float = 0.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        inputs = x.shape[-1]
        init = nn.initializers.normal(1 / self.rate)
        kernel = self.param("kernel", init, (inputs, self.features), jnp.float32)
        start = nn.initializers.constant(self.bias / self.rate)
        bias = self.param("bias", start, (self.features,), jnp.float32)
        x = x.astype(kernel.dtype)
        return x @ (kernel * (self.rate / inputs**0.5)) + (self.rate * bias)[None, :]


class EqualisedConv(nn.Module):
    """Convolution with kernel / sqrt(fan_in), "SAME" or, with `down`, to half the size.

    Halving, pixels are first blurred with [1, 3, 3, 1]; a window of 1 then takes every other one,
    and a larger window every other place.

    Attributes:
      features: number of output channels.
      kernel_size: window, odd along each axis.
      down: whether the size is halved; it must be even.
      use_bias: whether to add a bias for each output channel.
      dtype: compute type.
    """

    features: int
    kernel_size: Sequence[int]
    down: bool = False
    use_bias: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, *spatial, C] to [B, *spatial or half of it, features]."""
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape, jnp.float32)
        kernel = (kernel * _one_over_root_of_inputs(shape)).astype(self.dtype)
        x = x.astype(self.dtype)
        if not self.down:
            x = _conv(x, kernel)
        elif max(self.kernel_size) == 1:
            x = _conv(ops.downsample(x), kernel)
        else:
            reach = [(w // 2 - 1, w // 2) for w in self.kernel_size]
            blurred = ops.downsample(windows.pad(x, reach), factor=1)
            x = ops.conv(blurred, kernel, strides=(2,) * (x.ndim - 2), padding="VALID")
        if not self.use_bias:
            return x
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return x + _per_channel(bias, x)


def _conv(x: Array, kernel: Array) -> Array:
    """A convolution of the same size; of one tap it is a product of matrices.

    With as few channels as an image has that is 3 to 8 times faster on a CPU.
    """
    if max(kernel.shape[:-2]) == 1:
        return x @ kernel.reshape(kernel.shape[-2:])
    return ops.conv(x, kernel)


def _one_over_root_of_inputs(shape: Sequence[int]) -> float:
    return math.prod(shape[:-1]) ** -0.5


class Mapping(nn.Module):
    """Latents, classes or both, to styles: equalised layers that learn at a hundredth of the rate.

    Both are normalised to a mean square of 1; a class is embedded first, and put beside the
    latents, as in StyleGAN2-ADA (Karras et al. 2020, https://arxiv.org/abs/2006.06676).

    Attributes:
      features: length of a style, and of a class's embedding.
      layers: how many, at least 1.
      num_classes: None for a mapping without classes.
    """

    features: int
    layers: int = 8
    num_classes: int | None = None

    @nn.compact
    def __call__(self, z: Array | None, label: Array | None = None) -> Array:
        """Maps z [B, Z], or None where the class is all, to [B, features] float32."""
        parts = [] if z is None else [normalised(z.astype(jnp.float32))]
        if self.num_classes is not None:
            weights = class_weights(label, self.num_classes)
            parts.append(normalised(EqualisedDense(self.features, name="embedding")(weights)))
        x = jnp.concatenate(parts, axis=-1)
        for layer in range(1, self.layers + 1):
            dense = EqualisedDense(self.features, MAPPING_RATE, name=f"dense{layer}")
            x = activate(dense(x))
        return x


class ModulatedConv(nn.Module):
    """Convolution whose kernel is scaled, for each example, by a style.

    y = conv(x, k'), k'_tio = s_i k_tio / sqrt(sum_ti (s_i k_tio)^2 + 1e-8), with the scales s a
    linear function of the style, t the taps, i the input and o the output channels. The scales
    of the input go to x and those of the output to y, so that one ordinary convolution with
    one kernel serves the whole batch: no kernel for each example, no groups.

    Attributes:
      features: number of output channels.
      kernel_size: window.
      up: whether the size is doubled: zeros between the pixels, the convolution, a blur with
        [1, 3, 3, 1]; written as a transposed convolution, a quarter of the multiplications of a
        convolution of the doubled image.
      demodulate: whether k' is divided by its norm; without, y grows with the style.
      dtype: compute type; the norm is float32.

    Reference: Karras et al. 2020, https://arxiv.org/abs/1912.04958, eq. 1 and 3
    """

    features: int
    kernel_size: Sequence[int] = (3, 3)
    up: bool = False
    demodulate: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, style: Array) -> Array:
        """Maps x [B, *spatial, C] and styles [B, W] to [B, *spatial or twice it, features]."""
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape, jnp.float32)
        kernel = kernel * _one_over_root_of_inputs(shape)
        scale = EqualisedDense(x.shape[-1], bias=1.0, name="affine")(style)
        x = x.astype(self.dtype)
        x = x * _per_channel(scale, x)
        if self.up:
            rank = x.ndim - 2
            y = ops.conv_transpose(
                x, kernel.astype(self.dtype), strides=(2,) * rank, padding="VALID"
            )
            y = _blur(y, [2 * size for size in x.shape[1:-1]])
            # Of 2^rank pixels, one is not a zero.
            gain = 2.0**rank
        else:
            y, gain = _conv(x, kernel.astype(self.dtype)), 1.0
        if self.demodulate:
            squares = jnp.square(kernel).sum(axis=tuple(range(len(self.kernel_size))))
            norm = jax.lax.rsqrt(jnp.square(scale) @ squares + _EPSILON)
            return y * _per_channel(gain * norm, y)
        return gain * y


def _blur(x: Array, size: Sequence[int]) -> Array:
    """[1, 3, 3, 1] over what a transposed convolution makes, to so many pixels in its middle."""
    x = ops.downsample(x, factor=1)  # x[i] is then the mean around i - 1/2
    start = (0, *((1,) * len(size)), 0)
    return jax.lax.slice(x, start, (x.shape[0], *(1 + n for n in size), x.shape[-1]))


class StyledConv(nn.Module):
    """activate(modulated convolution + strength * noise + bias).

    In training each pixel of each example has noise N(0, 1) of its own, from the example's own key
    under the "dropout" stream: the same on any number of devices. In evaluation the noise of a
    layer is one picture for all examples, always the same one (the authors' "constant noise"), so
    that an image depends on its latents alone.

    Attributes:
      features: number of output channels.
      place: of the layer in its network, from 0; no two have the same constant noise.
      up: see `ModulatedConv`.
      dtype: compute type.
    """

    features: int
    place: int
    up: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, style: Array, *, train: bool) -> Array:
        """Maps x [B, *spatial, C] and styles [B, W] to [B, *spatial or twice it, features]."""
        y = ModulatedConv(self.features, (3,) * (x.ndim - 2), self.up, dtype=self.dtype)(x, style)
        strength = self.param("noise_strength", nn.initializers.zeros, (), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        shape = (*y.shape[1:-1], 1)
        if train:
            keys = axis.example_keys(self.make_rng("dropout"), len(y))
            noise = jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)
        else:
            noise = jax.random.normal(jax.random.key(self.place), (1, *shape), jnp.float32)
        y = y + (strength * noise).astype(y.dtype)
        return activate(y + _per_channel(bias, y))
