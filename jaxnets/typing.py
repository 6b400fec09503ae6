"""Names for the arrays and trees that cross module boundaries."""

from collections.abc import Mapping
from typing import Any

import jax

__all__ = ["DATA_AXIS", "Array", "Batch", "Metrics", "PRNGKey", "PyTree"]

Array = jax.Array
PRNGKey = jax.Array
PyTree = Any

#: `inputs` [B, *spatial, C] float32 in [-1, 1], `target` [B] int32, `mask` [B] (False on padding).
Batch = Mapping[str, jax.Array]

#: Name -> `jaxnets.metrics.Mean` (a sum and a count), so that steps and devices merge exactly.
Metrics = Mapping[str, Any]

#: The mesh axis, and the pmap axis, along which the examples of a batch are spread.
DATA_AXIS = "data"
