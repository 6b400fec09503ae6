"""Names for the arrays and trees that cross module boundaries."""

from collections.abc import Mapping
from typing import Any, Protocol

import jax
from jax.core import Tracer

__all__ = ["DATA_AXIS", "Array", "Batch", "Feeder", "Metrics", "PRNGKey", "PyTree", "traced"]

Array = jax.Array
PRNGKey = jax.Array
PyTree = Any

#: `inputs` [B, ...] and, of labelled examples, `target` [B, ...], as their columns decode them, and
#: `mask` [B] (False on padding). Images are [B, H, W, C] float32 in [-1, 1], classes [B] int32.
Batch = Mapping[str, jax.Array]

#: Name -> `jaxnets.metrics.Mean` (a sum and a count), so that steps and devices merge exactly.
Metrics = Mapping[str, Any]

#: The mesh axis, and the pmap axis, along which the examples of a batch are spread.
DATA_AXIS = "data"


def traced(number: Any) -> bool:
    """Whether a compiled program is to take any value of it, so that none can be looked at."""
    return isinstance(number, Tracer)


class Feeder(Protocol):
    """What the loop asks of training data (see `jaxnets.data.pipeline`).

    Of several processes each is fed its own rows of every batch; the order is that of all of them,
    so that the batches are those of one process.
    """

    batch_size: int

    @property
    def num_examples(self) -> int:
        """Size of the split: with the batch size, how many steps an epoch takes."""
        ...

    @property
    def source(self) -> PyTree:
        """Arrays that stay on the devices during the run."""
        ...

    def feed(self, first_step: int, steps: int) -> PyTree:
        """What is sent for some consecutive steps, leaves [steps, B, ...]."""
        ...

    def fetch(self, source: PyTree, feed: PyTree) -> Batch:
        """The batch of one step, inside the compiled program."""
        ...

    def check_classes(self, num_classes: int) -> None:
        """Fails for a label outside 0 .. K - 1, where labels can be looked at before training."""
        ...

    def close(self) -> None:
        """Ends reader threads."""
        ...
