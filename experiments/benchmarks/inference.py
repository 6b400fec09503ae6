"""`bench inference`: a classifier's predictions here, in PyTorch and in onnxruntime, in turn."""

# pyright: reportMissingImports=false

from __future__ import annotations

import dataclasses
import importlib.util
import io
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from experiments.benchmarks import cases, machine, tables, torch_rivals
from experiments.benchmarks.configs import ClassifierCase, Inference
from jaxnets.commands.configs import constraints
from jaxnets.errors import UserError
from jaxnets.judge.sampling import apply


def run(config: Inference) -> None:
    """Prints the least seconds of a batch, by the clock and on all cores together.

    Raises:
      UserError: torch, onnx or onnxruntime is missing, or the three disagree.
    """
    constraints.check(config)
    torch_rivals.require_torch()
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"comparing with onnxruntime needs {package}: pip install {package}")
    from experiments.benchmarks import torch_check

    machine.start(1, share=True)
    names = {field.name for field in dataclasses.fields(ClassifierCase)}
    case = ClassifierCase(**{name: value for name, value in vars(config).items() if name in names})
    work = cases.build(case)
    work = dataclasses.replace(work, state=torch_check.disturbed(work.state, case.seed))
    print(f"{case.name}, {machine.cores()} cores")
    with torch_rivals.torch_threads(machine.cores()):
        rivals = {"jaxnets": _ours(work), **_theirs(torch_check.twins(work)["classifier"], work)}
        expected = rivals["jaxnets"]()
        for name, predict in rivals.items():
            error = np.abs(predict() - expected).max() / np.abs(expected).max()
            if not error <= torch_check.OUTPUTS_TOLERANCE:
                raise UserError(f"{name} gives other logits: {error:.2g} of the largest")
        times = _interleaved(rivals, config.rounds)
    best = {name: [min(each) for each in zip(*rows, strict=True)] for name, rows in times.items()}
    rows = [
        [
            name,
            *map(tables.seconds, seconds),
            *(f"{a / b:.2f}" for a, b in zip(best["jaxnets"], seconds, strict=True)),
        ]
        for name, seconds in best.items()
    ]
    print(tables.table(["", "clock", "cores", "jaxnets / it, clock", "cores"], rows))


def _interleaved(
    rivals: Mapping[str, Callable[[], np.ndarray]], rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """(seconds, seconds of all cores together) of each in every round, after one call unmeasured.

    The least of them is told: what other programs do on the same cores only adds to it.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, predict in rivals.items():
            predict()
            time.sleep(0.02)  # until idle threads of the one before sleep
            begin, used = time.perf_counter(), time.process_time()
            predict()
            times[name].append((time.perf_counter() - begin, time.process_time() - used))
    return times


def _ours(work: cases.Work) -> Callable[[], np.ndarray]:
    variables = jax.device_put(work.state.nets["classifier"].variables)
    module, images = work.networks["classifier"], jax.device_put(work.batch["inputs"])
    logits = jax.jit(lambda variables, images: apply(module, variables, images)[0])
    return lambda: np.asarray(logits(variables, images))


def _theirs(twin: Any, work: cases.Work) -> dict[str, Callable[[], np.ndarray]]:
    """PyTorch with channels last, and onnxruntime on the network that PyTorch exports."""
    import onnx
    import onnxruntime
    import torch

    twin.eval()
    images = torch.from_numpy(np.ascontiguousarray(work.batch["inputs"].transpose(0, 3, 1, 2)))
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes that become constants, as they should
        torch.onnx.export(twin, (images,), file, dynamo=False, input_names=["images"])
    model = onnx.load_from_string(file.getvalue())
    _pad_in_convolutions(model.graph)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = machine.cores()
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    last = images.contiguous(memory_format=torch.channels_last)
    twin_last = twin.to(memory_format=torch.channels_last)

    def eager() -> np.ndarray:
        with torch.inference_mode():
            return twin_last(last).numpy()

    return {
        "PyTorch, channels last": eager,
        "onnxruntime": lambda: session.run(None, {"images": images.numpy()})[0],
    }


def _pad_in_convolutions(graph: Any) -> None:
    """One more pixel behind an image becomes part of the convolution: apart it costs a copy."""
    padding = {node.output[0]: node for node in graph.node if node.op_type == "Pad"}
    for node in graph.node:
        if node.op_type == "Conv" and node.input[0] in padding:
            pad = padding[node.input[0]]
            node.input[0] = pad.input[0]
            graph.node.remove(pad)
            pads = next(each.ints for each in node.attribute if each.name == "pads")
            pads[2:] = [pads[2] + 1, pads[3] + 1]
