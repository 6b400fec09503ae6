"""The order of examples, and where every random number of the data comes from."""

import threading
from collections import OrderedDict
from typing import Any

import numpy as np

from jaxnets.errors import UserError

__all__ = ["Order", "generator"]

EPOCHS_KEPT = 3


def generator(seed: int, stream: int) -> np.random.Generator:
    """Numpy's counter-based Philox generator for `stream` of `seed`.

    Every pair is a key of its own, so streams need no warming up, no state is stored, and the
    thousandth epoch costs what the first does.
    """
    key = np.array([seed % 2**64, stream % 2**64], np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


class Order:
    """Which example stands where in the endless stream.

    Epoch `e` is a permutation drawn by NumPy's Philox generator under the key (seed, e). Safe to
    call from several threads.

    With labels, every class has the same share of each epoch: none of its examples comes once more
    before all of them have come, and of a class with more than its share an epoch has some.
    """

    def __init__(
        self, num_examples: int, batch_size: int, seed: int, labels: np.ndarray | None = None
    ) -> None:
        """Sets the order up.

        Args:
          num_examples: of an epoch.
          batch_size: examples in a batch.
          seed: of the order.
          labels: of the examples [N] integers, for equal shares of the classes.

        Raises:
          UserError: unless 1 <= batch_size <= num_examples.
        """
        if batch_size < 1:
            raise UserError(f"the batch size must be 1 or more, not {batch_size}")
        if batch_size > num_examples:
            raise UserError(
                f"the batch size {batch_size} is larger than the data set of {num_examples} "
                "examples; choose a smaller one"
            )
        self.num_examples = num_examples
        self.batch_size = batch_size
        self.seed = seed
        self._labels = labels
        self._lock = threading.Lock()
        self._permutations: OrderedDict[int, np.ndarray] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return Order, (self.num_examples, self.batch_size, self.seed, self._labels)

    def indices(self, first_step: int, steps: int) -> np.ndarray:
        """Positions of the examples of `steps` batches from `first_step` on.

        Returns:
          [steps, batch_size] int32 in 0 .. num_examples - 1.
        """
        start = first_step * self.batch_size
        stop = start + steps * self.batch_size
        parts = []
        while start < stop:
            epoch, offset = divmod(start, self.num_examples)
            part = self._permutation(epoch)[offset : offset + stop - start]
            parts.append(part)
            start += len(part)
        if not parts:
            return np.zeros((0, self.batch_size), np.int32)
        return np.concatenate(parts).reshape(steps, self.batch_size)

    def epoch(self, step: int) -> float:
        """How often the data has been seen before `step`, in passes."""
        return step * self.batch_size / self.num_examples

    def _permutation(self, epoch: int) -> np.ndarray:
        with self._lock:
            permutation = self._permutations.pop(epoch, None)
            if permutation is None:
                draw = generator(self.seed, epoch)
                permutation = draw.permutation(self._epoch(draw))
            self._permutations[epoch] = permutation
            while len(self._permutations) > EPOCHS_KEPT:
                self._permutations.popitem(last=False)
            return permutation

    def _epoch(self, draw: np.random.Generator) -> np.ndarray:
        """The positions of an epoch's examples, int32, not yet in order."""
        if self._labels is None:
            return np.arange(self.num_examples, dtype=np.int32)
        classes = draw.permutation(np.unique(self._labels))
        share, over = divmod(self.num_examples, len(classes))
        parts = []
        for place, label in enumerate(classes):
            count = share + (place < over)
            rows = np.flatnonzero(self._labels == label)
            rounds = -(-count // len(rows))
            parts.append(np.concatenate([draw.permutation(rows) for _ in range(rounds)])[:count])
        return np.concatenate(parts).astype(np.int32)
