"""What the tests of models share: variables without the price of compiling an initialiser."""

from functools import partial
from typing import Any

import jax
import numpy as np

KEY = jax.random.key(0)


def untyped(module) -> Any:
    """The module, for type checkers: to flax, what `apply` returns is a union of all cases."""
    return module


def random_variables(module, *args):
    """Variables of the right shapes, in which nothing is zero that training would make otherwise.

    Kernels keep the size of a signal; statistics and scales lie near those of a new network.
    """
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        values = rng.normal(size=leaf.shape)
        if path[-1].key == "kernel":
            values *= np.sqrt(2 / max(1, np.prod(leaf.shape[:-1])))
        elif path[-1].key in ("scale", "var") and len(leaf.shape) == 1:
            values = 1.0 + 0.3 * np.abs(values)
        else:
            values *= 0.3
        return values.astype(leaf.dtype)

    shapes = jax.eval_shape(partial(module.init, train=False), KEY, *args)
    return jax.tree_util.tree_map_with_path(fill, shapes)
