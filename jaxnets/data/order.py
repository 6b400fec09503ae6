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
    """

    def __init__(self, num_examples: int, batch_size: int, seed: int) -> None:
        """Raises UserError unless 1 <= batch_size <= num_examples."""
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
        self._lock = threading.Lock()
        self._permutations: OrderedDict[int, np.ndarray] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return Order, (self.num_examples, self.batch_size, self.seed)

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
                permutation = generator(self.seed, epoch).permutation(
                    np.arange(self.num_examples, dtype=np.int32)
                )
            self._permutations[epoch] = permutation
            while len(self._permutations) > EPOCHS_KEPT:
                self._permutations.popitem(last=False)
            return permutation
