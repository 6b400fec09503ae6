"""Numerical primitives in the form that is fast on each backend."""

from jaxnets.ops.convolution import Form as Form
from jaxnets.ops.convolution import conv as conv
from jaxnets.ops.convolution import conv_transpose as conv_transpose
from jaxnets.ops.convolution import form as form
from jaxnets.ops.convolution import plain_convolutions as plain_convolutions
from jaxnets.ops.endings import Activation as Activation
from jaxnets.ops.endings import Ending as Ending
from jaxnets.ops.pooling import avg_pool as avg_pool
from jaxnets.ops.pooling import max_pool as max_pool
from jaxnets.ops.resampling import conv_halve as conv_halve
from jaxnets.ops.resampling import double_conv as double_conv
from jaxnets.ops.resampling import downsample as downsample
from jaxnets.ops.resampling import upsample as upsample
