"""The order of examples, and that both pipelines serve the same bits in it."""

import os
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.columns import Image
from jaxnets.data import (
    LazyRows,
    Order,
    ResidentPipeline,
    Split,
    StreamingPipeline,
    eval_batches,
    make_pipeline,
    normalise,
    to_uint8,
)
from jaxnets.errors import UserError


def make_split(count: int = 23, shape: tuple[int, int, int] = (4, 3, 1)) -> Split:
    random = np.random.default_rng(0)
    return Split(
        random.integers(0, 256, (count, *shape), np.uint8),
        random.integers(0, 10, count).astype(np.int32),
    )


def batches(pipeline: Any, first_step: int, steps: int) -> list[dict[str, np.ndarray]]:
    feed = pipeline.feed(first_step, steps)
    fetch = jax.jit(pipeline.fetch)
    return [
        jax.tree.map(
            np.asarray, fetch(pipeline.source, jax.tree.map(lambda leaf, i=i: leaf[i], feed))
        )
        for i in range(steps)
    ]


def assert_same(first: list[dict[str, np.ndarray]], second: list[dict[str, np.ndarray]]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].dtype == b[name].dtype
            np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize(("num_examples", "batch_size"), [(10, 3), (10, 10), (7, 5), (1, 1)])
def test_every_epoch_shows_every_example_once(num_examples, batch_size):
    order = Order(num_examples, batch_size, seed=5)
    stream = order.indices(0, 4 * num_examples).ravel()
    for epoch in stream[: len(stream) // num_examples * num_examples].reshape(-1, num_examples):
        assert sorted(epoch) == list(range(num_examples))


def test_any_step_is_reached_directly():
    order = Order(11, 4, seed=1)
    whole = order.indices(0, 40)
    assert whole.shape == (40, 4) and whole.dtype == np.int32
    for step in (39, 0, 7, 2):
        fresh = Order(11, 4, seed=1)
        np.testing.assert_array_equal(fresh.indices(step, 1)[0], whole[step])
        np.testing.assert_array_equal(order.indices(step, 1)[0], whole[step])


def test_epochs_and_seeds_differ():
    order = Order(50, 50, seed=0)
    first, second = order.indices(0, 2)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, Order(50, 50, seed=1).indices(0, 1)[0])


def test_the_order_is_the_published_one():
    """Guards resumed runs against a NumPy that permutes differently."""
    expected = [[5, 0, 6, 1], [7, 2, 4, 3], [2, 0, 4, 1], [7, 5, 3, 6]]
    assert Order(8, 4, seed=0).indices(0, 4).tolist() == expected


@pytest.mark.parametrize("make", [ResidentPipeline, StreamingPipeline])
def test_a_batch_larger_than_the_data_is_refused(make):
    with pytest.raises(UserError, match=r"24 .*23 examples"):
        make(make_split(23), 24, 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_streaming_equals_resident_bit_for_bit(workers):
    split = make_split()
    resident = ResidentPipeline(split, 5, seed=9)
    streaming = StreamingPipeline(split, 5, seed=9, workers=workers)
    try:
        for first_step, steps in [(0, 3), (3, 4), (40, 2), (42, 1), (7, 3)]:
            assert_same(batches(streaming, first_step, steps), batches(resident, first_step, steps))
    finally:
        streaming.close()


@pytest.mark.parametrize("make", [ResidentPipeline, partial(StreamingPipeline, workers=0)])
def test_each_process_is_fed_its_rows_of_the_same_batches(make):
    whole, *parts = (
        make(make_split(), 8, 3, rows=rows).feed(3, 2)
        for rows in (None, *(slice(first, first + 2) for first in range(0, 8, 2)))
    )

    def check(all_of_them, *of_each):
        np.testing.assert_array_equal(np.concatenate(of_each, axis=1), all_of_them)

    jax.tree.map(check, whole, *parts)


def test_what_another_process_feeds_is_not_read():
    seen = []

    def read(row, column, random):
        seen.append(row)
        return np.zeros((2, 2, 1), np.uint8)

    labels = np.zeros(40, np.int32)
    rows = LazyRows(np.arange(40), labels, Image((2, 2, 1)), read)
    split = Split(rows, labels, columns={"inputs": Image((2, 2, 1))})
    pipeline = StreamingPipeline(split, 8, 0, workers=0, rows=slice(6, 8))
    pipeline.feed(0, 1)
    assert seen == pipeline.order.indices(0, 1)[0, 6:8].tolist()
    pipeline.close()


def test_consecutive_feeds_go_on_with_one_reader(monkeypatch):
    streaming = StreamingPipeline(make_split(), 4, seed=2, workers=0)
    starts = []
    start = streaming._start
    monkeypatch.setattr(streaming, "_start", lambda step: starts.append(step) or start(step))
    for step in range(6):
        streaming.feed(step, 1)
    assert starts == [0]
    streaming.feed(2, 1)
    streaming.close()
    streaming.feed(3, 1)
    streaming.close()
    assert starts == [0, 2, 3]


@pytest.mark.parametrize(
    "make", [ResidentPipeline, partial(StreamingPipeline, workers=0), StreamingPipeline]
)
def test_images_that_change_under_a_run_stop_it(tmp_path, make):
    split = make_split()
    for name in ("inputs", "target"):
        np.save(tmp_path / f"{name}.npy", getattr(split, name))
    mapped = Split(*(np.load(tmp_path / f"{n}.npy", mmap_mode="r") for n in ("inputs", "target")))
    pipeline = make(mapped, 5, seed=0)
    pipeline.feed(0, 3)
    assert len(list(eval_batches(mapped, 5))) == 5
    os.utime(tmp_path / "inputs.npy", ns=(1, 1))
    with pytest.raises(UserError, match=r"inputs\.npy was changed"):
        pipeline.feed(3, 20)  # beyond what was read ahead
    pipeline.close()
    with pytest.raises(UserError, match=r"inputs\.npy was changed"):
        next(eval_batches(mapped, 5))


def test_fetch_gives_the_rows_that_the_order_names():
    split = make_split()
    pipeline = ResidentPipeline(split, 6, seed=0)
    rows = pipeline.order.indices(2, 1)[0]
    (batch,) = batches(pipeline, 2, 1)
    np.testing.assert_allclose(batch["inputs"], split.inputs[rows] / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(batch["target"], split.target[rows])
    assert batch["target"].dtype == np.int32 and batch["mask"].all()


def test_the_budget_chooses_the_pipeline():
    split = make_split()
    for budget, kind in ((split.nbytes, ResidentPipeline), (split.nbytes - 1, StreamingPipeline)):
        assert isinstance(make_pipeline(split, 4, 0, memory_budget_bytes=budget), kind)


@pytest.mark.parametrize("batch_size", [1, 5, 23, 30])
def test_evaluation_sees_every_example_once(batch_size):
    split = make_split()
    seen = list(eval_batches(split, batch_size))
    assert all(batch["inputs"].shape == (batch_size, 4, 3, 1) for batch in seen)
    assert all(batch["mask"].dtype == bool for batch in seen)
    images = np.concatenate([batch["inputs"][batch["mask"]] for batch in seen])
    labels = np.concatenate([batch["target"][batch["mask"]] for batch in seen])
    np.testing.assert_array_equal(images, np.asarray(jax.jit(normalise)(split.inputs)))
    np.testing.assert_array_equal(labels, split.target)


def test_normalise_has_the_same_bits_in_numpy_and_compiled():
    levels = np.arange(256, dtype=np.uint8)
    values = normalise(levels)
    assert values.dtype == np.float32 and values[0] == -1 and values[255] == 1
    np.testing.assert_allclose(values, levels / 127.5 - 1, atol=1e-7)
    np.testing.assert_array_equal(np.asarray(jax.jit(normalise)(levels)), values)


@pytest.mark.parametrize("library", [np, jnp])
def test_to_uint8_inverts_and_clips(library):
    levels = np.arange(256, dtype=np.uint8)
    back = to_uint8(library.asarray(normalise(levels)))
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(np.asarray(back), levels)
    outside = to_uint8(library.asarray(np.array([-3.0, 3.0, np.nan], np.float32)))
    assert np.asarray(outside).tolist() == [0, 255, 0]
