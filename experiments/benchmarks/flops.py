"""Useful floating-point operations of a step, counted from what it computes.

A multiply and an add are two operations. Only convolutions and matrix products count, as
everywhere in this field: in these networks they are all but a few per cent of the work.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.interpreters import partial_eval

from jaxnets import ops


@dataclasses.dataclass(frozen=True)
class Flops:
    """Operations of one call.

    Attributes:
      convolutions: in convolutions and their gradients.
      products: in matrix products.
      open_loops: `while` loops that hold some, of which one turn was counted: how many turns
        they make is not to be seen.
    """

    convolutions: int = 0
    products: int = 0
    open_loops: int = 0

    @property
    def total(self) -> int:
        """All that were counted."""
        return self.convolutions + self.products

    def __add__(self, other: Flops) -> Flops:
        return Flops(
            self.convolutions + other.convolutions,
            self.products + other.products,
            self.open_loops + other.open_loops,
        )

    def __mul__(self, times: int) -> Flops:
        return Flops(self.convolutions * times, self.products * times, self.open_loops)


def count(function: Callable[..., Any], *arguments: Any) -> Flops:
    """Operations of `function(*arguments)`, written with plain convolutions, dead code left out.

    Convolutions written another way (patches, Winograd) do more or fewer operations for the same
    result, so `jaxnets.ops` is asked for the plain form, and every form of a step counts the same.

    What jax had traced before, in either form, is forgotten before and after: a cached piece would
    otherwise end up in the wrong one.
    """
    jax.clear_caches()
    try:
        with ops.plain_convolutions():
            traced: Any = jax.make_jaxpr(lambda *a: function(*a))(*arguments)
    finally:
        jax.clear_caches()
    jaxpr = _open(traced)
    jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return of_jaxpr(jaxpr)


def of_jaxpr(jaxpr: Any) -> Flops:
    """Operations of a jaxpr, closed or open, and of every one inside it.

    A scan counts times its length, a `cond` as its dearest branch, a `while` once (see
    `Flops.open_loops`), a `shard_map` on all devices.
    """
    total = Flops()
    for equation in _open(jaxpr).eqns:
        name, params = equation.primitive.name, equation.params
        if name == "conv_general_dilated":
            total += Flops(convolutions=of_convolution(equation))
        elif name == "dot_general":
            total += Flops(products=of_product(equation))
        elif name == "cond":
            total += max(map(of_jaxpr, params["branches"]), key=lambda flops: flops.total)
        else:
            inner = sum(map(of_jaxpr, _inside(params)), Flops())
            if name == "scan":
                inner *= params["length"]
            elif name == "shard_map":
                inner *= math.prod(
                    params["mesh"].shape[axis] for axis in params["newly_manual_axes"]
                )
            elif name == "while" and inner.total:
                inner += Flops(open_loops=1)
            total += inner
    return total


def of_product(equation: Any) -> int:
    """Operations of a `dot_general`: 2 x batch x rows x columns x contracted."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)


def of_convolution(equation: Any) -> int:
    """Operations of a `conv_general_dilated` on numbers that are there.

    Neither the zeros of the padding count nor those that `lhs_dilation` puts between inputs. Along
    each axis, output o, tap t and input i meet where o * stride + t * rhs_dilation - padding
    equals i * lhs_dilation. A convolution and the two that are its gradients are this one relation
    with the three in other places, so they cost the same.
    """
    params = equation.params
    left, right = (variable.aval.shape for variable in equation.invars)
    out = equation.outvars[0].aval.shape
    numbers = params["dimension_numbers"]
    axes = zip(
        [left[i] for i in numbers.lhs_spec[2:]],
        [right[i] for i in numbers.rhs_spec[2:]],
        [out[i] for i in numbers.out_spec[2:]],
        params["window_strides"],
        params["lhs_dilation"],
        params["rhs_dilation"],
        [before for before, _ in params["padding"]],
        strict=True,
    )
    meetings = math.prod(_meetings(*axis) for axis in axes)
    # With groups, of channels or of the batch, each output sees its own group's inputs only: as
    # many as the kernel has input channels.
    images, features = (out[i] for i in numbers.out_spec[:2])
    return 2 * meetings * images * features * right[numbers.rhs_spec[1]]


def _meetings(
    inputs: int, taps: int, outputs: int, stride: int, lhs: int, rhs: int, before: int
) -> int:
    """How many multiplications one axis takes."""
    places = np.arange(outputs)[:, None] * stride + np.arange(taps) * rhs - before
    return int(((places % lhs == 0) & (places >= 0) & (places < inputs * lhs)).sum())


def _open(jaxpr: Any) -> Any:
    return getattr(jaxpr, "jaxpr", jaxpr)


def _inside(params: Any) -> Iterator[Any]:
    """The jaxprs among an equation's parameters."""
    for value in params.values():
        for item in value if isinstance(value, Sequence) else (value,):
            if hasattr(_open(item), "eqns"):
                yield item
