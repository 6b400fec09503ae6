"""Numerical primitives in the form that is fast on each backend."""

from jaxnets.ops.convolution import Form, conv, conv_transpose, form, plain_convolutions
from jaxnets.ops.endings import Activation, Ending
from jaxnets.ops.pooling import avg_pool, max_pool
from jaxnets.ops.resampling import conv_halve, double_conv, downsample, upsample

__all__ = [
    "Activation",
    "Ending",
    "Form",
    "avg_pool",
    "conv",
    "conv_halve",
    "conv_transpose",
    "double_conv",
    "downsample",
    "form",
    "max_pool",
    "plain_convolutions",
    "upsample",
]
