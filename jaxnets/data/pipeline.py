"""From a split to the batches of a training run.

The order of examples is one endless stream: a permutation for each epoch, one after the other.
Batch `step` is rows `step * batch_size` to `(step + 1) * batch_size` of that stream, so no example
is dropped, a batch may span two epochs, and the step number alone says where a resumed run
continues. Two pipelines serve that order with the same bits: one keeps the data on the device and
sends positions, the other reads ahead on the host and sends rows.
"""

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxnets.columns import Classes, Column
from jaxnets.data.dataset import Split
from jaxnets.data.lazy import LazyRows, cores
from jaxnets.data.order import Order
from jaxnets.errors import UserError
from jaxnets.typing import Batch, Feeder, PyTree

__all__ = [
    "ResidentPipeline",
    "StreamingPipeline",
    "WithUnlabelled",
    "eval_batches",
    "make_pipeline",
]

READ_AHEAD, BATCHES_A_WORKER = 8, 2


def _batch(rows: Mapping[str, Any], columns: Mapping[str, Column]) -> Batch:
    """Stored rows as networks see them."""
    decoded = {name: columns[name].decode(of_name) for name, of_name in rows.items()}
    return {**decoded, "mask": jnp.ones(len(rows["inputs"]), bool)}


def _check_classes(split: Split, num_classes: int) -> None:
    classes = Classes(tuple(map(str, range(num_classes))))
    classes.check(split.target, "the training examples")


def _order(split: Split, batch_size: int, seed: int, balanced: bool) -> Order:
    return Order(len(split), batch_size, seed, split.target if balanced else None)


class ResidentPipeline:
    """All examples stay on the device as stored; a step is sent its positions and gathers them."""

    def __init__(
        self,
        split: Split,
        batch_size: int,
        seed: int,
        *,
        rows: slice | None = None,
        balanced: bool = False,
    ) -> None:
        """Sets the pipeline up.

        Args:
          split: the images.
          batch_size: examples in a batch.
          seed: of the order.
          rows: those of every batch that this process feeds (see
            `jaxnets.devices.parallel.own_rows`); by default all.
          balanced: whether classes come equally often (see `Order`).
        """
        self._rows = slice(None) if rows is None else rows
        self.order = _order(split, batch_size, seed, balanced)
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


@dataclass(frozen=True)
class _Read:
    """What was read for a step.

    A class, so that grain sends it through pipes: arrays would take shared memory, of which a
    container has little by default, and leave some there when they are killed.

    Attributes:
      rows: name -> stored rows [own rows, ...].
      unreadable: files that could not be read -> why.
    """

    rows: dict[str, np.ndarray]
    unreadable: dict[str, str]


@dataclass(frozen=True)
class _Reader:
    """Reads what a step needs; goes to the processes that read."""

    split: Split
    order: Order
    own: slice

    def __call__(self, step: int) -> _Read:
        size = self.order.batch_size
        places = range(step * size, (step + 1) * size)[self.own]
        rows = self.order.indices(step, 1)[0, self.own]
        self.split.check_unchanged()
        inputs = self.split.inputs
        if not isinstance(inputs, LazyRows):
            return _Read(self.split.rows(rows), {})
        seen, unreadable = inputs.views(rows.tolist(), self.order.seed, places)
        others = {name: of[rows] for name, of in self.split.arrays.items() if name != "inputs"}
        return _Read({"inputs": seen, **others}, unreadable)


def _end_with(parent: int, worker: int, workers: int) -> None:
    """Lets a reading process end when the one that it reads for is gone, however it went."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class StreamingPipeline:
    """Examples are read ahead while the device works: by grain's threads, or its processes.

    Files are decoded by processes, which do not wait for each other; each begins like a program of
    its own, so a script that streams files needs `if __name__ == "__main__":`. Arrays on disk are
    gathered by threads. Consecutive calls of `feed` continue one running iterator; any other first
    step starts a new one there.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        seed: int,
        *,
        workers: int | None = None,
        rows: slice | None = None,
        balanced: bool = False,
    ) -> None:
        """Sets the pipeline up; reading starts with the first `feed`.

        Args:
          split: its arrays may be memory-mapped, its inputs files that are still to be decoded.
          batch_size: examples in a batch.
          seed: of the order, and of what is random in how a file is seen.
          workers: processes (threads for arrays) that read, each whole batches; 0 reads when asked.
            By default as many as there are cores, and two threads. The batches are the same.
          rows: those of every batch that this process reads and feeds (see
            `jaxnets.devices.parallel.own_rows`); by default all.
          balanced: whether classes come equally often (see `Order`).
        """
        self.order = _order(split, batch_size, seed, balanced)
        self.batch_size = batch_size
        self.num_examples = len(split)
        self.source: PyTree = {}
        self._split = split
        self._reader = _Reader(split, self.order, slice(None) if rows is None else rows)
        self._files = split.inputs if isinstance(split.inputs, LazyRows) else None
        default = 2 if self._files is None else cores()
        self._workers = default if workers is None else workers
        self._iterator: Any = None
        self._batches: Any = None
        self._next_step = 0

    def feed(self, first_step: int, steps: int) -> PyTree:
        """Name -> stored rows [steps, own rows, ...]."""
        if self._iterator is None or first_step != self._next_step:
            self.close()
            self._start(first_step)
        batches = []
        for _ in range(steps):
            read = next(self._batches)
            if self._files is not None:
                self._files.warn(read.unreadable)
            batches.append(read.rows)
        self._next_step = first_step + steps
        return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}

    def fetch(self, source: PyTree, feed: PyTree) -> Batch:
        """Decodes the rows of one step; `source` is empty."""
        del source
        return _batch(feed, self._split.columns)

    def check_classes(self, num_classes: int) -> None:
        """Fails for a label outside 0 .. K - 1."""
        _check_classes(self._split, num_classes)

    def close(self) -> None:
        """Stops the readers. A later `feed` starts them again."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = self._batches = None

    def _start(self, first_step: int) -> None:
        import grain
        from absl import flags

        if not flags.FLAGS.is_parsed():  # grain reads its flags, and a library has no command line
            flags.FLAGS.mark_as_parsed()
        by_processes = self._files is not None and self._workers > 0
        threads = 0 if by_processes else self._workers
        options = grain.ReadOptions(
            num_threads=threads, prefetch_buffer_size=READ_AHEAD if threads else 0
        )
        # An element is a whole batch: what grain costs is paid once for it, and a memory-mapped
        # array gathers all its rows in one call. The end lies further off than anyone can train.
        steps = grain.MapDataset.range(first_step, first_step + 2**40)
        read = steps.map(self._reader).to_iter_dataset(options)
        if by_processes:
            read = read.mp_prefetch(
                grain.MultiprocessingOptions(
                    num_workers=self._workers, per_worker_buffer_size=BATCHES_A_WORKER
                ),
                partial(_end_with, os.getpid()),
            )
        self._iterator = iter(read)
        self._batches = self._iterator
        if by_processes:
            # What ends a run by a signal to all its processes is for the run to hear, which saves
            # its state and stops its readers: they start with the first batch, deaf to it.
            resource_tracker.ensure_running()  # or it would start in between, and undo this
            heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
            try:
                self._batches = itertools.chain([next(self._iterator)], self._iterator)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, heard)


class WithUnlabelled:
    """Batches of labelled examples, each of which brings unlabelled ones along.

    The batch of B labelled examples has one more array, `unlabelled` [B, R, ...]: so devices and
    micro-batches that share the labelled examples share the others with them. Either stream has its
    own order, and both follow from the number of the step.

    Attributes:
      batch_size: unlabelled examples in a batch.
      num_examples: unlabelled examples in an epoch.
      source: what stays on the device.
    """

    def __init__(self, labelled: Feeder, unlabelled: Feeder) -> None:
        """Joins two pipelines, the batch of the second a multiple of the first's."""
        self.batch_size, self.num_examples = unlabelled.batch_size, unlabelled.num_examples
        self._feeders = labelled, unlabelled
        self.source: PyTree = (labelled.source, unlabelled.source)

    def feed(self, first_step: int, steps: int) -> PyTree:
        """What both are fed."""
        return tuple(feeder.feed(first_step, steps) for feeder in self._feeders)

    def fetch(self, source: PyTree, feed: PyTree) -> Batch:
        """The batch of one step; of a population, that of each member."""
        batch, others = (
            feeder.fetch(*given) for feeder, *given in zip(self._feeders, source, feed, strict=True)
        )
        inputs, shape = others["inputs"], batch["mask"].shape
        # [B R, ...] as [B, R, ...]; members lead in both.
        unlabelled = inputs.reshape(*shape, -1, *inputs.shape[len(shape) :])
        return {**batch, "unlabelled": unlabelled}

    def check_classes(self, num_classes: int) -> None:
        """Fails for a label outside 0 .. K - 1."""
        self._feeders[0].check_classes(num_classes)

    def close(self) -> None:
        """Ends reader threads."""
        for feeder in self._feeders:
            feeder.close()


def make_pipeline(
    split: Split,
    batch_size: int,
    seed: int = 0,
    *,
    memory_budget_bytes: int = 4 << 30,
    workers: int | None = None,
    rows: slice | None = None,
    balanced: bool = False,
) -> ResidentPipeline | StreamingPipeline:
    """The resident pipeline where `split` fits into the budget, else the streaming one.

    Args:
      split: the training images.
      batch_size: images a step, over all devices.
      seed: of the order.
      memory_budget_bytes: what the images may take of a device's memory.
      workers: of the streaming pipeline.
      rows: those of every batch that this process feeds, where there are several (see
        `jaxnets.devices.parallel.own_rows`); by default all.
      balanced: whether classes come equally often (see `Order`): rare ones are oversampled.

    Raises:
      UserError: if the batch is larger than the split.
    """
    shared: Any = {"rows": rows, "balanced": balanced}
    if split.nbytes <= memory_budget_bytes and not split.lazy:
        return ResidentPipeline(split, batch_size, seed, **shared)
    return StreamingPipeline(split, batch_size, seed, workers=workers, **shared)


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
    starts = range(0, len(split), batch_size)
    with ThreadPoolExecutor(1) as ahead:  # files are decoded while the last batch is looked at

        def read(start: int) -> Any:
            return ahead.submit(split.rows, slice(start, start + batch_size))

        coming = read(0)
        for start in starts:
            rows = coming.result()
            coming = read(start + batch_size)
            count = len(rows["inputs"])
            filling = batch_size - count
            batch = {
                name: np.pad(decoded, [(0, filling)] + [(0, 0)] * (decoded.ndim - 1))
                for name, decoded in ((n, split.columns[n].decode(r)) for n, r in rows.items())
            }
            yield {**batch, "mask": np.arange(batch_size) < count}
