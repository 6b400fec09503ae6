"""Flax linen layers over `jaxnets.ops`, with the parameters and results of flax's own.

`Conv`, `ConvTranspose` and `Dense` take the place of flax's layers of these names, and load their
checkpoints; a network that needs another of flax's options uses flax's layer. The number of spatial
axes follows from `kernel_size`. Parameters and statistics are float32 whatever the compute type
`dtype` is. What a layer must know of other devices it asks `jaxnets.devices.axis`, so a module has
no axis field that could be left unset.
"""

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import canonicalize_dtype
from flax.typing import Dtype, Initializer

from jaxnets import ops
from jaxnets.devices import axis
from jaxnets.errors import UserError
from jaxnets.nn.spectral import SpectralNorm
from jaxnets.ops import windows
from jaxnets.ops.windows import Padding
from jaxnets.typing import Array, traced

__all__ = [
    "BatchNorm",
    "ConditionalBatchNorm",
    "Conv",
    "ConvTranspose",
    "Dense",
    "Dropout",
    "global_mean",
    "he_normal",
    "scale_shift",
]

#: Variance 2 / fan_in, which keeps the signal's size through convolution and ReLU.
#: Reference: He et al. 2015, https://arxiv.org/abs/1502.01852
he_normal: Initializer = nn.initializers.he_normal()

_lecun_normal: Initializer = nn.initializers.lecun_normal()
_zeros: Initializer = nn.initializers.zeros
_ones: Initializer = nn.initializers.ones


def _spectrally_normalised(kernel: Array, train: bool | None) -> Array:
    """The kernel over its largest singular value, inside the layer that owns the kernel."""
    if train is None:
        raise ValueError("a layer with spectral_norm has to know whether it trains: pass train=")
    return SpectralNorm(name="spectral_norm")(kernel, train=train)


def _add_bias(y: Array, bias: Array) -> Array:
    return y + bias.astype(y.dtype).reshape((1,) * (y.ndim - 1) + bias.shape)


class Conv(nn.Module):
    """Convolution of [*batch, *spatial, C_in]; parameters are those of `flax.linen.Conv`.

    Attributes:
      features: number of output channels.
      kernel_size: window along each spatial axis, one to three of them; an integer is one axis.
      strides: one for all axes or one for each.
      padding: "SAME", "VALID" or numbers, see `ops.conv`.
      kernel_dilation: spacing of the kernel's elements.
      feature_group_count: channel groups that do not see each other.
      use_bias: whether to add a bias for each output channel.
      dtype: type of the computation and of the result; by default that of input and parameters.
      kernel_init: initialiser of `kernel` [*kernel_size, C_in / groups, features].
      spectral_norm: whether the kernel is divided by its largest singular value (see
        `jaxnets.nn.spectral`); the layer is then called with `train`.
      resample: "double" to repeat each pixel twice along each axis before the convolution, "halve"
        to average over pairs of pixels after it, both at no cost of their own (see
        `ops.double_conv`); strides, padding, dilation and groups then keep their defaults.

    Raises:
      ValueError: for an input of too few axes, channels that do not divide into groups, unknown
        padding, or options that do not go with `resample`.
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] | None = 1
    padding: Padding = "SAME"
    kernel_dilation: int | Sequence[int] | None = 1
    feature_group_count: int = 1
    use_bias: bool = True
    dtype: Dtype | None = None
    kernel_init: Initializer = _lecun_normal
    spectral_norm: bool = False
    resample: Literal["none", "double", "halve"] = "none"

    @nn.compact
    def __call__(
        self, x: Array, *, train: bool | None = None, ending: ops.Ending | None = None
    ) -> Array:
        """`ending` follows a convolution without bias or resampling, see `ops.conv`."""
        window = windows.per_axis(self.kernel_size, 1)
        rank, channels, groups = len(window), x.shape[-1], self.feature_group_count
        x, batch = windows.one_batch(x, rank)
        if channels % groups or self.features % groups:
            raise ValueError(
                f"{channels} input and {self.features} output channels do not divide into "
                f"{groups} groups"
            )
        if ending is not None and (self.use_bias or self.resample != "none"):
            raise ValueError("an ending follows a convolution without bias or resampling")
        shape = (*window, channels // groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        if self.spectral_norm:
            kernel = _spectrally_normalised(kernel, train)
        dtype = canonicalize_dtype(x, kernel, dtype=self.dtype)
        options = {
            "strides": windows.per_axis(self.strides, rank),
            "padding": self.padding,
            "kernel_dilation": windows.per_axis(self.kernel_dilation, rank),
            "groups": groups,
        }
        x = x.astype(dtype)
        if self.resample == "none":
            y = ops.conv(x, kernel.astype(dtype), **options, ending=ending)
        else:
            ones = (1,) * rank
            if tuple(options.values()) != (ones, "SAME", ones, 1):
                raise ValueError(
                    f"a convolution with resample={self.resample!r} has no strides, padding, "
                    "dilation or groups of its own"
                )
            y = (ops.double_conv if self.resample == "double" else ops.conv_halve)(x, kernel)
        if self.use_bias:
            y = _add_bias(y, self.param("bias", _zeros, (self.features,), jnp.float32))
        return y.reshape(*batch, *y.shape[1:])


class ConvTranspose(nn.Module):
    """Transposed convolution; parameters are those of `flax.linen.ConvTranspose`.

    Attributes:
      features: number of output channels.
      kernel_size: see `Conv`.
      strides: by how much each spatial axis grows ("SAME": exactly that factor).
      padding: "SAME", "VALID" or numbers, see `ops.conv_transpose`.
      use_bias: see `Conv`, as for the rest.

    Raises:
      ValueError: see `Conv`.
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] | None = None
    padding: Padding = "SAME"
    use_bias: bool = True
    dtype: Dtype | None = None
    kernel_init: Initializer = _lecun_normal

    @nn.compact
    def __call__(self, x: Array) -> Array:
        window = windows.per_axis(self.kernel_size, 1)
        x, batch = windows.one_batch(x, len(window))
        shape = (*window, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        dtype = canonicalize_dtype(x, kernel, dtype=self.dtype)
        y = ops.conv_transpose(
            x.astype(dtype),
            kernel.astype(dtype),
            strides=windows.per_axis(self.strides, len(window)),
            padding=self.padding,
        )
        if self.use_bias:
            y = _add_bias(y, self.param("bias", _zeros, (self.features,), jnp.float32))
        return y.reshape(*batch, *y.shape[1:])


class Dense(nn.Module):
    """x @ kernel + bias along the last axis; parameters are those of `flax.linen.Dense`.

    Attributes:
      features: number of outputs.
      kernel_init: initialiser of `kernel` [inputs, features].
      spectral_norm: see `Conv`, as for the other fields.
    """

    features: int
    use_bias: bool = True
    dtype: Dtype | None = None
    kernel_init: Initializer = _lecun_normal
    spectral_norm: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool | None = None) -> Array:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        if self.spectral_norm:
            kernel = _spectrally_normalised(kernel, train)
        dtype = canonicalize_dtype(x, kernel, dtype=self.dtype)
        y = jnp.matmul(x.astype(dtype), kernel.astype(dtype))
        if self.use_bias:
            y = _add_bias(y, self.param("bias", _zeros, (self.features,), jnp.float32))
        return y


def _batch_moments(x: Array, origin: Array) -> tuple[Array, Array]:
    """Mean and variance [C] over every axis but the last and over every device.

    `E[x^2] - E[x]^2` needs one pass over the data and one all-reduce between devices, but loses
    every digit where the mean is large against the deviation. So x is counted from `origin`
    [C], anything near the mean that all devices know: with a mean of 100 deviations the error
    of the variance falls from 2% to rounding.
    """
    x = x.astype(jnp.float32) - origin.reshape((1,) * (x.ndim - 1) + origin.shape)
    axes = tuple(range(x.ndim - 1))
    with jax.named_scope(axis.MOMENTS):
        moments = axis.pmean(jnp.stack([x.mean(axes), jnp.square(x).mean(axes)]))
    # Rounding can leave a constant channel with a variance just below zero.
    return origin + moments[0], jnp.maximum(moments[1] - jnp.square(moments[0]), 0.0)


class BatchNorm(nn.Module):
    """y = (x - mean) / sqrt(var + epsilon) * scale + bias, for each channel.

    Training takes the moments of the *global* batch, over every device, in float32, and moves
    the running ones in the collection "batch_stats" towards them; evaluation uses the running
    ones, within the convolution before it if it is given one. Initialisation leaves them alone.

    Attributes:
      momentum: what the running moments keep of themselves at each training step.
      epsilon: added to the variance.
      use_scale: whether `scale` is learned (it is 1 otherwise).
      use_bias: whether `bias` is learned (it is 0 otherwise).
      scale_init: initialiser of `scale` [C].
      dtype: type of the result.

    Reference: Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    scale_init: Initializer = _ones
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Array,
        *,
        train: bool,
        conv: Conv | None = None,
        add: Array | None = None,
        act: ops.Activation = None,
    ) -> Array:
        """Returns act(y + add), y that of x, or of conv(x); what is not given is left out."""
        if train and conv is not None:
            x, conv = conv(x), None
        channels = x.shape[-1] if conv is None else conv.features
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        if train:
            mean, var = _batch_moments(x, jax.lax.stop_gradient(running_mean.value))
            if not self.is_initializing():
                keep = self.momentum
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_var.value = keep * running_var.value + (1 - keep) * var
        else:
            mean, var = running_mean.value, running_var.value

        # Everything that is known for a channel is folded first: one multiply-add per element.
        multiplier = jax.lax.rsqrt(var + self.epsilon)
        if self.use_scale:
            multiplier *= self.param("scale", self.scale_init, (channels,), jnp.float32)
        offset = -mean * multiplier
        if self.use_bias:
            offset += self.param("bias", _zeros, (channels,), jnp.float32)
        if conv is not None:
            return conv(x, ending=ops.Ending(multiplier, offset, add, act)).astype(self.dtype)
        shape = (1,) * (x.ndim - 1) + (channels,)
        y = x.astype(jnp.float32) * multiplier.reshape(shape) + offset.reshape(shape)
        y = y.astype(self.dtype)
        y = y if add is None else add + y
        return y if act is None else act(y)


class ConditionalBatchNorm(nn.Module):
    """Batch normalisation whose scale and shift are learned for each class.

    y = norm(x) * (sum_k p_k scale_k) + sum_k p_k bias_k, with `weights` p [B, K].

    Attributes:
      momentum: see `BatchNorm`.
      epsilon: see `BatchNorm`.
      dtype: type of the result.

    Reference: Dumoulin et al. 2017, https://arxiv.org/abs/1610.07629
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, weights: Array, *, train: bool) -> Array:
        shape = (weights.shape[-1], x.shape[-1])
        # The scale is kept as a difference from 1: an example without a class is then plainly
        # normalised, and weight decay pulls towards doing so.
        scale = 1.0 + weights @ self.param("scale", _zeros, shape, jnp.float32)
        bias = weights @ self.param("bias", _zeros, shape, jnp.float32)
        norm = BatchNorm(
            self.momentum, self.epsilon, use_scale=False, use_bias=False, dtype=jnp.float32
        )
        return scale_shift(norm(x, train=train), scale, bias).astype(self.dtype)


class Dropout(nn.Module):
    """Zeroes elements with probability `rate` and scales the rest by 1 / (1 - rate).

    Each example of the *global* batch has its own key, so the masks are the same on any number
    of devices. Under `pmap`, pass the same "dropout" key to each of them.

    Reference: Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html
    """

    rate: Array | float

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        if not traced(self.rate) and not 0.0 <= self.rate < 1.0:
            raise UserError(f"dropout must be at least 0 and below 1, got {self.rate}")
        if not train or (not traced(self.rate) and self.rate == 0.0):
            return x
        keep = 1.0 - self.rate
        keys = axis.example_keys(self.make_rng("dropout"), x.shape[0])
        mask = jax.vmap(lambda key: jax.random.bernoulli(key, keep, x.shape[1:]))(keys)
        return jnp.where(mask, x / keep, jnp.zeros_like(x))


def scale_shift(x: Array, scale: Array, shift: Array) -> Array:
    """Returns x * scale + shift: x [B, *spatial, C], scale and shift [B, C]."""
    shape = (x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1])
    return x * scale.reshape(shape) + shift.reshape(shape)


def global_mean(x: Array) -> Array:
    """Mean over the spatial axes, summed in float32: [B, *spatial, C] -> [B, C] float32."""
    return x.astype(jnp.float32).mean(tuple(range(1, x.ndim - 1)))
