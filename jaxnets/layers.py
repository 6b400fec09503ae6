"""Flax linen layers over `jaxnets.ops`, with parameters named and shaped as flax names its own.

The number of spatial axes follows from `kernel_size`. Parameters and statistics are float32
whatever the compute type `dtype` is. What a layer must know of other devices it asks
`jaxnets.axis`, so a module has no axis field that could be left unset.
"""

from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer

from jaxnets import axis, ops
from jaxnets.errors import UserError
from jaxnets.spectral import SpectralNorm
from jaxnets.typing import Array

__all__ = [
    "BatchNorm",
    "ConditionalBatchNorm",
    "Conv",
    "ConvTranspose",
    "Dense",
    "Dropout",
    "class_weights",
    "global_mean",
    "he_normal",
    "scale_shift",
]

Padding = str | Sequence[tuple[int, int]]

#: Variance 2 / fan_in, which keeps the signal's size through convolution and ReLU.
#: Reference: He et al. 2015, https://arxiv.org/abs/1502.01852
he_normal: Initializer = nn.initializers.he_normal()

_lecun_normal: Initializer = nn.initializers.lecun_normal()
_zeros: Initializer = nn.initializers.zeros
_ones: Initializer = nn.initializers.ones


def _per_axis(value: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    if value is None or isinstance(value, int):
        return (1 if value is None else value,) * rank
    return tuple(value)


def _check_rank(x: Array, kernel_size: Sequence[int]) -> None:
    if x.ndim != len(kernel_size) + 2:
        raise ValueError(
            f"a kernel of size {tuple(kernel_size)} needs an input of {len(kernel_size) + 2} axes "
            f"(batch, spatial, channels), got shape {x.shape}"
        )


def _spectrally_normalised(kernel: Array, train: bool | None) -> Array:
    """The kernel over its largest singular value, inside the layer that owns the kernel."""
    if train is None:
        raise ValueError("a layer with spectral_norm has to know whether it trains: pass train=")
    return SpectralNorm(name="spectral_norm")(kernel, train=train)


def _add_bias(y: Array, bias: Array) -> Array:
    return y + bias.astype(y.dtype).reshape((1,) * (y.ndim - 1) + bias.shape)


class Conv(nn.Module):
    """Convolution of [B, *spatial, C_in]; parameters are those of `flax.linen.Conv`.

    Attributes:
      features: number of output channels.
      kernel_size: window along each spatial axis; its length is the rank.
      strides: one for all axes or one for each.
      padding: "SAME", "VALID" or a (low, high) pair for each spatial axis.
      dilation: spacing of the kernel's elements.
      groups: channel groups that do not see each other.
      use_bias: whether to add a bias for each output channel.
      dtype: type of the computation and of the result.
      kernel_init: initialiser of `kernel` [*kernel_size, C_in / groups, features].
      bias_init: initialiser of `bias` [features].
      spectral_norm: whether the kernel is divided by its largest singular value (see
        `jaxnets.spectral`); the layer is then called with `train`.
      resample: "double" to repeat each pixel twice along each axis before the convolution, "halve"
        to average over pairs of pixels after it, both at no cost of their own (see
        `ops.double_conv`); strides, padding, dilation and groups then keep their defaults.

    Raises:
      ValueError: for an input of another rank, channels that do not divide into groups, or options
        that do not go with `resample`.
    """

    features: int
    kernel_size: Sequence[int]
    strides: int | Sequence[int] | None = None
    padding: Padding = "SAME"
    dilation: int | Sequence[int] | None = None
    groups: int = 1
    use_bias: bool = True
    dtype: Dtype = jnp.float32
    kernel_init: Initializer = _lecun_normal
    bias_init: Initializer = _zeros
    spectral_norm: bool = False
    resample: Literal["none", "double", "halve"] = "none"

    @nn.compact
    def __call__(self, x: Array, *, train: bool | None = None) -> Array:
        _check_rank(x, self.kernel_size)
        channels, rank = x.shape[-1], len(self.kernel_size)
        if channels % self.groups or self.features % self.groups:
            raise ValueError(
                f"{channels} input and {self.features} output channels do not divide into "
                f"{self.groups} groups"
            )
        shape = (*self.kernel_size, channels // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        if self.spectral_norm:
            kernel = _spectrally_normalised(kernel, train)
        strides, dilation = _per_axis(self.strides, rank), _per_axis(self.dilation, rank)
        x = x.astype(self.dtype)
        if self.resample == "none":
            y = ops.conv(
                x,
                kernel.astype(self.dtype),
                strides=strides,
                padding=self.padding,
                dilation=dilation,
                groups=self.groups,
            )
        else:
            ones = (1,) * rank
            if (strides, self.padding, dilation, self.groups) != (ones, "SAME", ones, 1):
                raise ValueError(
                    f"a convolution with resample={self.resample!r} has no strides, padding, "
                    "dilation or groups of its own"
                )
            y = (ops.double_conv if self.resample == "double" else ops.conv_halve)(x, kernel)
        if self.use_bias:
            y = _add_bias(y, self.param("bias", self.bias_init, (self.features,), jnp.float32))
        return y


class ConvTranspose(nn.Module):
    """Transposed convolution; parameters are those of `flax.linen.ConvTranspose`.

    Attributes:
      features: number of output channels.
      kernel_size: window along each spatial axis; its length is the rank.
      strides: by how much each spatial axis grows ("SAME": exactly that factor).
      padding: "SAME", "VALID" or a (low, high) pair for each spatial axis.
      use_bias: whether to add a bias for each output channel.
      dtype: type of the computation and of the result.
      kernel_init: initialiser of `kernel` [*kernel_size, C_in, features].
      bias_init: initialiser of `bias` [features].
    """

    features: int
    kernel_size: Sequence[int]
    strides: int | Sequence[int] | None = None
    padding: Padding = "SAME"
    use_bias: bool = True
    dtype: Dtype = jnp.float32
    kernel_init: Initializer = _lecun_normal
    bias_init: Initializer = _zeros

    @nn.compact
    def __call__(self, x: Array) -> Array:
        _check_rank(x, self.kernel_size)
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        y = ops.conv_transpose(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            strides=_per_axis(self.strides, len(self.kernel_size)),
            padding=self.padding,
        )
        if self.use_bias:
            y = _add_bias(y, self.param("bias", self.bias_init, (self.features,), jnp.float32))
        return y


class Dense(nn.Module):
    """x @ kernel + bias along the last axis; parameters are those of `flax.linen.Dense`.

    Attributes:
      features: number of outputs.
      use_bias: whether to add a bias for each output.
      dtype: type of the computation and of the result.
      kernel_init: initialiser of `kernel` [inputs, features].
      bias_init: initialiser of `bias` [features].
      spectral_norm: see `Conv`.
    """

    features: int
    use_bias: bool = True
    dtype: Dtype = jnp.float32
    kernel_init: Initializer = _lecun_normal
    bias_init: Initializer = _zeros
    spectral_norm: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool | None = None) -> Array:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        if self.spectral_norm:
            kernel = _spectrally_normalised(kernel, train)
        y = x.astype(self.dtype) @ kernel.astype(self.dtype)
        if self.use_bias:
            y = _add_bias(y, self.param("bias", self.bias_init, (self.features,), jnp.float32))
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
    ones. Initialisation leaves them alone.

    Attributes:
      momentum: what the running moments keep of themselves at each training step.
      epsilon: added to the variance.
      use_scale: whether `scale` is learned (it is 1 otherwise).
      use_bias: whether `bias` is learned (it is 0 otherwise).
      scale_init: initialiser of `scale` [C].
      bias_init: initialiser of `bias` [C].
      dtype: type of the result.

    Reference: Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    scale_init: Initializer = _ones
    bias_init: Initializer = _zeros
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        channels = x.shape[-1]
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
            offset += self.param("bias", self.bias_init, (channels,), jnp.float32)
        shape = (1,) * (x.ndim - 1) + (channels,)
        y = x.astype(jnp.float32) * multiplier.reshape(shape) + offset.reshape(shape)
        return y.astype(self.dtype)


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

    rate: float

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        if not 0.0 <= self.rate < 1.0:
            raise UserError(f"dropout must be at least 0 and below 1, got {self.rate}")
        if not train or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        keys = axis.example_keys(self.make_rng("dropout"), x.shape[0])
        mask = jax.vmap(lambda key: jax.random.bernoulli(key, keep, x.shape[1:]))(keys)
        return jnp.where(mask, x / keep, jnp.zeros_like(x))


def scale_shift(x: Array, scale: Array, shift: Array) -> Array:
    """X * scale + shift for each example and channel: x [B, *spatial, C], the others [B, C]."""
    shape = (x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1])
    return x * scale.reshape(shape) + shift.reshape(shape)


def global_mean(x: Array) -> Array:
    """Mean over the spatial axes, summed in float32: [B, *spatial, C] -> [B, C] float32."""
    return x.astype(jnp.float32).mean(tuple(range(1, x.ndim - 1)))


def class_weights(label: Any, num_classes: int) -> Array:
    """Labels as weights over the classes.

    Args:
      label: [B] integers, or [B, K] probabilities (as mixup makes them), which pass through.
        An integer outside 0..K-1 gives zeros: an example without a class.
      num_classes: K.

    Returns:
      [B, K] float32.

    Raises:
      UserError: there are no labels, or they are neither of the two forms.
    """
    if label is None:
        raise UserError(
            f"this network is conditional on {num_classes} classes and got no labels; pass them, "
            "or build it with num_classes=None"
        )
    label = jnp.asarray(label)
    if label.ndim == 1 and jnp.issubdtype(label.dtype, jnp.integer):
        return jax.nn.one_hot(label, num_classes, dtype=jnp.float32)
    if label.ndim == 2 and label.shape[1] == num_classes:
        return label.astype(jnp.float32)
    raise UserError(
        f"labels must be integers [B] or probabilities [B, {num_classes}], got "
        f"{label.dtype} {list(label.shape)}"
    )
