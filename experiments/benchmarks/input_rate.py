"""What the data pipelines deliver, against what a training step eats."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from PIL import Image as Pillow
from PIL import ImageOps

from experiments.benchmarks import cases, report
from experiments.benchmarks.configs import Input
from jaxnets import data
from jaxnets.commands import checks, common
from jaxnets.data import Split
from jaxnets.data.lazy import cores
from jaxnets.data.pipeline import READ_AHEAD
from jaxnets.devices import parallel
from jaxnets.errors import UserError
from jaxnets.typing import DATA_AXIS, Feeder


def run(config: Input) -> dict[str, Any]:
    """The benchmark: images a second of the step and of both pipelines, and their ratios.

    `host_images_per_second` of a pipeline is its `feed` alone, before anything goes to a device. Of
    files that are streamed, also `streaming_against_processes`: that rate over the one at which as
    many processes decode them with Pillow alone.
    """
    report.begin(config)
    mesh = parallel.make_mesh(config.devices)
    checks.check_batch(config.batch_size, mesh)
    train = common.load_data(config, config.data).splits["train"]
    height, width = train.inputs.shape[1:3]
    if height != width:
        raise UserError(
            f"the images are {height}x{width}, and the network of this benchmark takes square "
            f"ones; add --image-size {min(height, width)}"
        )
    streamed = train.lazy
    pipelines: dict[str, Feeder] = {
        "streaming": data.StreamingPipeline(train, config.batch_size, config.seed),
    }
    if not streamed:
        pipelines["resident"] = data.ResidentPipeline(train, config.batch_size, config.seed)
    with contextlib.ExitStack() as stack:
        for pipeline in pipelines.values():
            stack.callback(pipeline.close)
        ways: dict[str, Callable[[], Any]] = {"step": _eat(config, train, mesh)}
        for name, pipeline in pipelines.items():
            feed = _feed(config, pipeline)
            ways[f"{name} host"] = feed
            ways[name] = _deliver(pipeline, feed, mesh)
        if streamed:
            ways["processes"] = stack.enter_context(_processes(config, train))
        rates = _rates(ways, config)
    eaten = statistics.median(rates["step"])
    found = {
        name: {
            "images_per_second": statistics.median(rates[name]),
            "host_images_per_second": statistics.median(rates[f"{name} host"]),
            "ratio": statistics.median(rates[name]) / eaten,
            "ratios": [a / b for a, b in zip(rates[name], rates["step"], strict=True)],
        }
        for name in pipelines
    }
    numbers = {
        "data": config.data,
        "image_shape": list(train.inputs.shape[1:]),
        "network": config.network,
        "batch_size": config.batch_size,
        "steps_per_call": config.steps_per_call,
        "step_images_per_second": eaten,
        **found,
        **_against_processes(rates),
    }
    return report.end(config, numbers)


@contextlib.contextmanager
def _processes(config: Input, train: Split) -> Iterator[Callable[[], Any]]:
    """The rival of streamed files: as many processes decode as many of them, and no more."""
    size = train.inputs.shape[1:3]
    order, at = data.Order(len(train), config.batch_size, config.seed), 0
    items: Any = train.inputs
    root = config.data.partition(":")[2]
    with multiprocessing.get_context("spawn").Pool(cores()) as pool:

        def call() -> Any:
            nonlocal at
            rows = order.indices(at, config.steps_per_call).ravel()
            at += config.steps_per_call
            tasks = [(os.path.join(root, os.fsdecode(items.items[row])), size) for row in rows]
            return pool.starmap(_decode, tasks, chunksize=8)

        yield call


def _decode(path: str, size: tuple[int, int]) -> np.ndarray:
    with Pillow.open(path) as image:
        picture = image.convert("RGB")
        return np.asarray(ImageOps.fit(picture, (size[1], size[0]), Pillow.Resampling.BICUBIC))


def _against_processes(rates: dict[str, list[float]]) -> dict[str, Any]:
    if "processes" not in rates:
        return {}
    rival = rates["processes"]
    ratios = [a / b for a, b in zip(rates["streaming host"], rival, strict=True)]
    return {
        "processes_images_per_second": statistics.median(rival),
        "streaming_against_processes": statistics.median(ratios),
    }


def _rates(ways: dict[str, Callable[[], Any]], config: Input) -> dict[str, list[float]]:
    """Images a second of each way in each round, the ways in turn.

    The first calls of each turn don't count: they compile, and they empty what the readers have
    prepared while the other ways had their turn.
    """
    images = config.calls * config.steps_per_call * config.batch_size
    rates: dict[str, list[float]] = {name: [] for name in ways}
    idle = 1 + READ_AHEAD // config.steps_per_call
    for _ in range(config.rounds):
        for name, way in ways.items():
            for _ in range(idle):
                jax.block_until_ready(way())
            begin = time.perf_counter()
            last = None
            for _ in range(config.calls):
                last = way()
            jax.block_until_ready(last)
            rates[name].append(images / (time.perf_counter() - begin))
    return rates


def _eat(config: Input, train: Split, mesh: Mesh) -> Callable[[], Any]:
    """A call of the training step, its batches on the device already."""
    size, _, channels = train.inputs.shape[1:]
    work = cases.build(
        cases.ClassifierCase(
            network=config.network,
            batch_size=config.batch_size,
            image_size=size,
            channels=channels,
            width=config.width,
            dtype=config.dtype,
            seed=config.seed,
        )
    )
    return cases.Running(work, mesh, steps=config.steps_per_call)


def _feed(config: Input, pipeline: Feeder) -> Callable[[], Any]:
    """What the host does for one call."""
    at = 0

    def call() -> Any:
        nonlocal at
        feed = pipeline.feed(at, config.steps_per_call)
        at += config.steps_per_call
        return feed

    return call


def _deliver(pipeline: Feeder, feed: Callable[[], Any], mesh: Mesh) -> Callable[[], Any]:
    """All of it: what is fed goes to the devices, and becomes batches there."""
    whole = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec(None, DATA_AXIS))
    fetch = jax.jit(
        jax.vmap(pipeline.fetch, in_axes=(None, 0)),
        in_shardings=(whole, split),
        out_shardings=split,
    )
    source = parallel.replicate(pipeline.source, mesh)
    return lambda: fetch(source, feed())
