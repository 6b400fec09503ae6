"""Numerical primitives in the form that is fast on each backend."""

from jaxnets.ops.convolution import conv, conv_transpose, plain_convolutions
from jaxnets.ops.pooling import avg_pool, max_pool

__all__ = ["avg_pool", "conv", "conv_transpose", "max_pool", "plain_convolutions"]
