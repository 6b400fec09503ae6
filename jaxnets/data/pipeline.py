"""From a split to the batches of a training run.

The order of examples is one endless stream: a permutation for each epoch, one after the other.
Batch `step` is rows `step * batch_size` to `(step + 1) * batch_size` of that stream, so no example
is dropped, a batch may span two epochs, and the step number alone says where a resumed run
continues. Two pipelines serve that order with the same bits: one keeps the data on the device and
sends positions, the other reads ahead on the host and sends rows.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxnets.columns import Classes, Column, infer
from jaxnets.data.dataset import Split, first_unreadable, generator, read_rows
from jaxnets.errors import UserError
from jaxnets.typing import Batch, PyTree

__all__ = [
    "Order",
    "ResidentPipeline",
    "StreamingPipeline",
    "eval_batches",
    "make_pipeline",
]

EPOCHS_KEPT = 3
READ_AHEAD = 8


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
            permutation = self._permutations.pop(epoch, None)
            if permutation is None:
                permutation = generator(self.seed, epoch).permutation(
                    np.arange(self.num_examples, dtype=np.int32)
                )
            self._permutations[epoch] = permutation
            while len(self._permutations) > EPOCHS_KEPT:
                self._permutations.popitem(last=False)
            return permutation


def _batch(rows: Mapping[str, Any], columns: Mapping[str, Column]) -> Batch:
    """Stored rows as networks see them."""
    decoded = {name: columns[name].decode(of_name) for name, of_name in rows.items()}
    return {**decoded, "mask": jnp.ones(len(rows["inputs"]), bool)}


def _check_classes(split: Split, num_classes: int) -> None:
    classes = Classes(tuple(map(str, range(num_classes))))
    classes.check(split.target, "the training examples")


class ResidentPipeline:
    """All examples stay on the device as stored; a step is sent its positions and gathers them."""

    def __init__(
        self, split: Split, batch_size: int, seed: int, *, rows: slice | None = None
    ) -> None:
        """Sets the pipeline up.

        Args:
          split: the images.
          batch_size: examples in a batch.
          seed: of the order.
          rows: those of every batch that this process feeds (see
            `jaxnets.devices.parallel.own_rows`); by default all.
        """
        self._rows = slice(None) if rows is None else rows
        self.order = Order(len(split), batch_size, seed)
        self.batch_size = batch_size
        self.num_examples = len(split)
        self._split = split
        self.source: PyTree = {name: np.asarray(rows) for name, rows in split.arrays.items()}

    def feed(self, first_step: int, steps: int) -> PyTree:
        """[steps, own rows] int32 positions."""
        # A CPU is a device that shares the memory of what was put on it, mapped files included.
        self._split.check_unchanged()
        return self.order.indices(first_step, steps)[:, self._rows]

    def fetch(self, source: PyTree, feed: PyTree) -> Batch:
        """Gathers the rows `feed` ([B] int32) of `source`."""
        # Positions come from `Order`, so the checks that a gather makes by default are idle.
        rows = {
            name: of_name.at[feed].get(mode="promise_in_bounds") for name, of_name in source.items()
        }
        return _batch(rows, self._split.columns)

    def check_classes(self, num_classes: int) -> None:
        """Fails for a label outside 0 .. K - 1."""
        _check_classes(self._split, num_classes)

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
        columns: Mapping[str, Column] | None = None,
        threads: int = 2,
        rows: slice | None = None,
    ) -> None:
        """Sets the pipeline up; reading starts with the first `feed`.

        Args:
          source: a split, whose arrays may be memory-mapped, or any random-access sequence of
            dicts of stored rows, such as one of `tfds.data_source`.
          batch_size: examples in a batch.
          seed: of the order.
          columns: of the dicts' rows; those of images [H, W, C] uint8 in `inputs` and of classes
            in `target` may be left out. A split has its own.
          threads: readers, each of which prepares whole batches; 0 reads when asked.
          rows: those of every batch that this process reads and feeds (see
            `jaxnets.devices.parallel.own_rows`); by default all.
        """
        self._rows = slice(None) if rows is None else rows
        self.order = Order(len(source), batch_size, seed)
        self.batch_size = batch_size
        self.num_examples = len(source)
        self.source: PyTree = {}
        self._examples = source
        self._columns = dict((source.columns if isinstance(source, Split) else columns) or {})
        self._threads = threads
        self._iterator: Any = None
        self._next_step = 0

    def feed(self, first_step: int, steps: int) -> PyTree:
        """Name -> stored rows [steps, own rows, ...]."""
        if self._iterator is None or first_step != self._next_step:
            self.close()
            self._iterator = self._start(first_step)
        batches = [next(self._iterator) for _ in range(steps)]
        self._next_step = first_step + steps
        return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}

    def fetch(self, source: PyTree, feed: PyTree) -> Batch:
        """Decodes the rows of one step; `source` is empty."""
        del source
        return _batch(feed, self._columns)

    def check_classes(self, num_classes: int) -> None:
        """Fails for a label outside 0 .. K - 1, where the labels are at hand: in a split."""
        if isinstance(self._examples, Split):
            _check_classes(self._examples, num_classes)

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
            return self._examples.rows(rows)
        return _read_whole(self._examples, rows.tolist(), self._columns)


def _read_whole(
    source: Sequence[Mapping[str, Any]], rows: list[int], columns: dict[str, Column]
) -> dict[str, np.ndarray]:
    """Rows of a random-access source, which are what `columns` says; those missing are added."""
    try:
        examples = read_rows(source, rows)
    except Exception as error:  # readers and decoders raise all sorts on damaged bytes
        row, reason = first_unreadable(source, rows, error)
        raise UserError(
            f"example {row} can't be read ({reason}); prepare the data set again"
        ) from error
    stacked = {}
    for name in {**columns, **examples[0]}:
        values = []
        for row, example in zip(rows, examples, strict=True):
            if example.get(name) is None:
                raise UserError(f"example {row} has no {name}; prepare the data set again")
            value = np.asarray(example[name])
            if name == "target" and value.ndim == 0 and np.issubdtype(value.dtype, np.integer):
                value = value.astype(np.int32)
            if name not in columns:
                columns[name] = infer(name, value[None])
            column = columns[name]
            if value.dtype != column.stored or value.shape != column.shape:
                raise UserError(
                    f"{name} of example {row} is {value.shape} {value.dtype} and must be "
                    f"{column.shape} {column.stored}, as all are that make up a batch"
                )
            values.append(value)
        stacked[name] = np.stack(values)
    return stacked


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
        `jaxnets.devices.parallel.own_rows`); by default all.

    Raises:
      UserError: if the batch is larger than the split.
    """
    if split.nbytes <= memory_budget_bytes:
        return ResidentPipeline(split, batch_size, seed, rows=rows)
    return StreamingPipeline(split, batch_size, seed, rows=rows)


def eval_batches(split: Split, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Every example once, in order, as networks see it; the last batch has masked rows at its end.

    Args:
      split: what to evaluate on.
      batch_size: rows of every batch; may be larger than the split.

    Yields:
      Name -> decoded rows [B, ...], NumPy, with the bits that `fetch` gives, and `mask` [B], False
      where a row is filling.

    Raises:
      UserError: the batch size is not positive.
    """
    if batch_size < 1:
        raise UserError(f"the batch size must be 1 or more, not {batch_size}")
    split.check_unchanged()
    for start in range(0, len(split), batch_size):
        rows = split.rows(slice(start, start + batch_size))
        count = len(rows["inputs"])
        filling = batch_size - count
        batch = {
            name: np.pad(decoded, [(0, filling)] + [(0, 0)] * (decoded.ndim - 1))
            for name, decoded in ((n, split.columns[n].decode(r)) for n, r in rows.items())
        }
        yield {**batch, "mask": np.arange(batch_size) < count}
