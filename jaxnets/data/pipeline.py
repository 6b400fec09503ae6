"""From a split to the batches of a training run.

The order of examples is one endless stream: a permutation for each epoch, one after the other.
Batch `step` is rows `step * batch_size` to `(step + 1) * batch_size` of that stream, so no example
is dropped, a batch may span two epochs, and the step number alone says where a resumed run
continues. Two pipelines serve that order with the same bits: one keeps the data on the device and
sends positions, the other reads ahead on the host and sends images.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.data.dataset import Split, first_unreadable, generator, read_rows
from jaxnets.errors import UserError
from jaxnets.typing import Array, Batch, PyTree

__all__ = [
    "Order",
    "Pipeline",
    "ResidentPipeline",
    "StreamingPipeline",
    "eval_batches",
    "make_pipeline",
    "normalise",
    "to_uint8",
]

EPOCHS_KEPT = 3
READ_AHEAD = 8


def normalise(images: Any) -> Any:
    """Maps 0..255 to [-1, 1], with the same bits on every backend.

    x / 127.5 - 1, written as (2x - 255) / 255: all but one operation is on integers. In the first
    form XLA turns the division into a product and fuses it with the subtraction: on a CPU 205 of
    the 256 results differ from NumPy's in the last place.

    Args:
      images: uint8, any shape, of NumPy or JAX.

    Returns:
      float32 of the same shape and library.
    """
    return (images.astype(np.int32) * 2 - 255).astype(np.float32) * np.float32(1 / 255)


def to_uint8(images: Any) -> Any:
    """The inverse of `normalise`: [-1, 1] to 0..255, rounded to the nearest, clipped outside.

    NaN, which no pixel can hold, becomes 0.

    Args:
      images: float, any shape, of NumPy or JAX.

    Returns:
      uint8 of the same shape and library.
    """
    xp = jnp if isinstance(images, jax.Array) else np
    levels = ((images + 1) * 127.5).round().clip(0, 255)
    return xp.where(xp.isnan(levels), 0, levels).astype(np.uint8)


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
            found = self._permutations.pop(epoch, None)
            if found is None:
                found = generator(self.seed, epoch).permutation(
                    np.arange(self.num_examples, dtype=np.int32)
                )
            self._permutations[epoch] = found
            while len(self._permutations) > EPOCHS_KEPT:
                self._permutations.popitem(last=False)
            return found


class Pipeline(Protocol):
    """What the loop asks of training data.

    Of several processes each is fed its own rows of every batch; the order is that of all of them,
    so that the batches are those of one process.

    Attributes:
      batch_size: examples in a batch, over all devices of all processes.
      num_examples: examples in an epoch.
      order: which example stands where.
      source: arrays to put on the device once and to hand to every compiled call.
    """

    batch_size: int
    num_examples: int
    order: Order
    source: PyTree

    def feed(self, first_step: int, steps: int) -> PyTree:
        """NumPy arrays with leading axes [steps, own rows] for steps from `first_step` on."""
        ...

    def fetch(self, source: PyTree, feed: PyTree) -> Batch:
        """The batch of one step, as a pure function to be compiled with the step."""
        ...

    def close(self) -> None:
        """Stops what runs in the background."""
        ...


def _batch(images: Array, labels: Array) -> Batch:
    return {
        "inputs": normalise(images),
        "target": labels.astype(jnp.int32),
        "mask": jnp.ones(labels.shape, bool),
    }


class ResidentPipeline:
    """All examples stay on the device as uint8; a step is sent its positions and gathers them."""

    def __init__(
        self, split: Split, batch_size: int, seed: int, *, rows: slice | None = None
    ) -> None:
        """Sets the pipeline up.

        Args:
          split: the images.
          batch_size: examples in a batch.
          seed: of the order.
          rows: those of every batch that this process feeds (see `jaxnets.parallel.own_rows`); by
            default all.
        """
        self._rows = slice(None) if rows is None else rows
        self.order = Order(len(split), batch_size, seed)
        self.batch_size = batch_size
        self.num_examples = len(split)
        self._split = split
        self.source: PyTree = {
            "inputs": np.asarray(split.inputs),
            "target": np.asarray(split.target),
        }

    def feed(self, first_step: int, steps: int) -> PyTree:
        """[steps, own rows] int32 positions."""
        # A CPU is a device that shares the memory of what was put on it, mapped files included.
        self._split.check_unchanged()
        return self.order.indices(first_step, steps)[:, self._rows]

    def fetch(self, source: PyTree, feed: PyTree) -> Batch:
        """Gathers the rows `feed` ([B] int32) of `source`."""
        # Positions come from `Order`, so the checks that a gather makes by default are idle.
        images, labels = (
            source[name].at[feed].get(mode="promise_in_bounds") for name in ("inputs", "target")
        )
        return _batch(images, labels)

    def close(self) -> None:
        """Nothing runs in the background."""


class StreamingPipeline:
    """Examples are read by grain's threads while the device works.

    Consecutive calls of `feed` continue one running iterator; any other first step starts a new
    one there.
    """

    def __init__(
        self,
        source: Split | Sequence[Mapping[str, Any]],
        batch_size: int,
        seed: int,
        *,
        threads: int = 2,
        rows: slice | None = None,
    ) -> None:
        """Sets the pipeline up; reading starts with the first `feed`.

        Args:
          source: a split, whose arrays may be memory-mapped, or any random-access sequence of
            dicts with an `inputs` ([H, W, C] uint8) and a `target`, such as one of
            `tfds.data_source`.
          batch_size: examples in a batch.
          seed: of the order.
          threads: readers, each of which prepares whole batches; 0 reads when asked.
          rows: those of every batch that this process reads and feeds (see
            `jaxnets.parallel.own_rows`); by default all.
        """
        self._rows = slice(None) if rows is None else rows
        self.order = Order(len(source), batch_size, seed)
        self.batch_size = batch_size
        self.num_examples = len(source)
        self.source: PyTree = {}
        self._examples = source
        self._threads = threads
        self._iterator: Any = None
        self._next_step = 0

    def feed(self, first_step: int, steps: int) -> PyTree:
        """`inputs` [steps, own rows, H, W, C] uint8 and `target` [steps, own rows] int32."""
        if self._iterator is None or first_step != self._next_step:
            self.close()
            self._iterator = self._start(first_step)
        batches = [next(self._iterator) for _ in range(steps)]
        self._next_step = first_step + steps
        return {name: np.stack([batch[name] for batch in batches]) for name in ("inputs", "target")}

    def fetch(self, source: PyTree, feed: PyTree) -> Batch:
        """Normalises the images of one step; `source` is empty."""
        del source
        return _batch(feed["inputs"], feed["target"])

    def close(self) -> None:
        """Stops the reading threads. A later `feed` starts them again."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None

    def _start(self, first_step: int) -> Any:
        import grain
        from absl import flags

        if not flags.FLAGS.is_parsed():  # grain reads its flags, and a library has no command line
            flags.FLAGS.mark_as_parsed()
        options = grain.ReadOptions(
            num_threads=self._threads, prefetch_buffer_size=READ_AHEAD if self._threads else 0
        )
        # An element is a whole batch: what grain costs is paid once for it, and a memory-mapped
        # array gathers all its rows in one call. The end lies further off than anyone can train.
        steps = grain.MapDataset.range(first_step, first_step + 2**40)
        return iter(steps.map(self._read).to_iter_dataset(options))

    def _read(self, step: int) -> dict[str, np.ndarray]:
        rows = self.order.indices(int(step), 1)[0, self._rows]
        if isinstance(self._examples, Split):
            self._examples.check_unchanged()
            return {"inputs": self._examples.inputs[rows], "target": self._examples.target[rows]}
        examples = _read_whole(self._examples, rows.tolist())
        return {
            "inputs": np.stack([example["inputs"] for example in examples]),
            "target": np.asarray([example["target"] for example in examples], np.int32),
        }


def _read_whole(source: Sequence[Mapping[str, Any]], rows: list[int]) -> list[Mapping[str, Any]]:
    """Examples of a random-access source, each of which can be trained on."""
    try:
        examples = read_rows(source, rows)
    except Exception as error:  # readers and decoders raise all sorts on damaged bytes
        row, reason = first_unreadable(source, rows, error)
        raise UserError(
            f"example {row} can't be read ({reason}); prepare the data set again"
        ) from error
    first = np.shape(examples[0].get("inputs"))
    for row, example in zip(rows, examples, strict=True):
        image, label = example.get("inputs"), example.get("target")
        if image is None or label is None:
            raise UserError(f"example {row} can't be read; prepare the data set again")
        if np.asarray(image).dtype != np.uint8:
            raise UserError(
                f"example {row} is of {np.asarray(image).dtype}; images must be uint8, 0 to 255"
            )
        if np.shape(image) != first:
            raise UserError(
                f"example {row} is {np.shape(image)} where another of its batch is {first}; a "
                "batch needs images of one size"
            )
    return examples


def make_pipeline(
    split: Split,
    batch_size: int,
    seed: int = 0,
    *,
    memory_budget_bytes: int = 4 << 30,
    rows: slice | None = None,
) -> ResidentPipeline | StreamingPipeline:
    """The resident pipeline where `split` fits into the budget, else the streaming one.

    Args:
      split: the training images.
      batch_size: images a step, over all devices.
      seed: of the order.
      memory_budget_bytes: what the images may take of a device's memory.
      rows: those of every batch that this process feeds, where there are several (see
        `jaxnets.parallel.own_rows`); by default all.

    Raises:
      UserError: if the batch is larger than the split.
    """
    if split.nbytes <= memory_budget_bytes:
        return ResidentPipeline(split, batch_size, seed, rows=rows)
    return StreamingPipeline(split, batch_size, seed, rows=rows)


def eval_batches(split: Split, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Every example once, in order; the last batch is filled up with masked rows.

    Args:
      split: what to evaluate on.
      batch_size: rows of every batch; may be larger than the split.

    Yields:
      `inputs` [B, H, W, C] float32 with the bits that `fetch` gives, `target` [B] int32, and `mask`
      [B], False where a row is filling.

    Raises:
      UserError: the batch size is not positive.
    """
    if batch_size < 1:
        raise UserError(f"the batch size must be 1 or more, not {batch_size}")
    split.check_unchanged()
    for start in range(0, len(split), batch_size):
        images = split.inputs[start : start + batch_size]
        count = len(images)
        filling = batch_size - count
        yield {
            "inputs": np.pad(normalise(images), [(0, filling)] + [(0, 0)] * (images.ndim - 1)),
            "target": np.pad(split.target[start : start + count], (0, filling)),
            "mask": np.arange(batch_size) < count,
        }
