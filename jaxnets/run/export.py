"""Trained networks as files for other programs: StableHLO, ONNX and safetensors."""

import importlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from jaxnets import __version__, ops
from jaxnets.columns import to_json
from jaxnets.errors import UserError
from jaxnets.media import provenance
from jaxnets.models.detectors import boxes_of
from jaxnets.run.inspector import TrainedInspector
from jaxnets.run.integrity import first_line
from jaxnets.run.trained import Trained, TrainedClassifier, TrainedGenerator

__all__ = [
    "FORMATS",
    "describe",
    "export_onnx",
    "export_safetensors",
    "export_stablehlo",
    "interface",
    "read_safetensors",
]

_EXPORT = "pip install 'jaxnets[export]'"
#: What jax2onnx 0.17 says of Orbax excludes the versions that this library needs; it uses none.
_ONNX = "pip install 'jaxnets[onnx]' && pip install --no-deps 'jax2onnx>=0.17.1'"

#: Where a StableHLO program runs.
_PLATFORMS = ("cpu", "cuda", "tpu")

#: What the stored rows of a kind of column are, for those who have no column.
_ROWS = {
    "image": "images [height, width, channels] in 0..255, of R, G and B, or of one channel of grey",
    "sound": "mono waves of the column's rate, as 16-bit samples",
    "tokens": "numbers of tokens: 0 is padding, 1 unknown, 2 the vocabulary's first entry",
}

#: A network on stored rows: (variables, *arrays) -> arrays by name.
_Network = Callable[..., dict[str, jax.Array]]


def _network(trained: Trained) -> tuple[_Network, dict[str, jax.ShapeDtypeStruct]]:
    """The network in evaluation, on rows as they are stored; and one row of what goes in."""
    module, column = trained.module, trained.columns["inputs"]

    def classify(variables: Any, inputs: jax.Array) -> dict[str, jax.Array]:
        logits: Any = module.apply(variables, column.decode(inputs), train=False)
        return {"logits": logits[0], "probabilities": jax.nn.softmax(logits[0])}

    def generate(
        variables: Any, latents: jax.Array, labels: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        made: Any = module.apply(variables, latents, labels, train=False)
        return {"images": column.encode(made[0])}

    def inspect(variables: Any, inputs: jax.Array) -> dict[str, jax.Array]:
        said: Any = module.apply(variables, column.decode(inputs), train=False)
        return {"scores": said[0], "maps": said[1]["map"]}

    def detect(variables: Any, inputs: jax.Array) -> dict[str, jax.Array]:
        maps: Any = module.apply(variables, column.decode(inputs), train=False)
        height, width = column.shape[:2]
        return boxes_of(maps[0], (height, width))

    looks: dict[str, _Network] = {"classifier": classify, "inspector": inspect, "detector": detect}
    if not isinstance(trained, TrainedGenerator):
        seen = {"inputs": jax.ShapeDtypeStruct(column.shape, column.stored)}
        return looks[trained.kind], seen
    rows = {"latents": jax.ShapeDtypeStruct((trained.latent_size,), np.float32)}
    if trained.conditional:
        rows["labels"] = jax.ShapeDtypeStruct((), np.int32)
    return generate, rows


def _in_batches(rows: Mapping[str, jax.ShapeDtypeStruct], size: Any) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct((size, *row.shape), row.dtype) for row in rows.values()]


def describe(trained: Trained) -> dict[str, Any]:
    """What a network is, as values that JSON can hold: its kind, weights, classes and columns.

    What a generator makes has to carry the `mark`.
    """
    limit = trained.threshold if isinstance(trained, TrainedClassifier | TrainedInspector) else None
    makes = isinstance(trained, TrainedGenerator)
    return {
        "software": f"jaxnets {__version__}",
        "kind": trained.kind,
        **trained.facts,
        "network": " ".join(repr(trained.module).split()),
        "class_names": list(trained.class_names),
        "columns": {name: to_json(column) for name, column in trained.columns.items()},
        **({} if limit is None else {"threshold": limit}),
        **({"mark": provenance.record(trained.facts)} if makes else {}),
    }


def interface(trained: Trained) -> dict[str, Any]:
    """What goes into an exported program and what comes out, as values that JSON can hold.

    `inputs`, in their order, and `outputs`, each with its shape, of which "batch" stands for any
    number of rows. A classifier looks at each row once, as if there were no `--test-views`.
    """
    network, rows = _network(trained)
    made = jax.eval_shape(network, trained.variables, *_in_batches(rows, 1))
    about = {
        "inputs": _ROWS[trained.columns["inputs"].kind],
        "latents": "draws from a standard normal distribution",
        "labels": "numbers of classes: 0 for the first of class_names",
        "logits": "one for each class, in the order of class_names",
        "probabilities": "softmax of the logits",
        "images": _ROWS["image"],
        "scores": "the higher, the more unusual, or the surer of an object",
        "maps": "how unusual each pixel is",
        "boxes": "left, top, right and bottom in shares of the image, which holds a picture of "
        "another shape in its upper left corner",
    }

    def told(name: str, shape: tuple[int, ...], dtype: Any) -> dict[str, Any]:
        return {"shape": ["batch", *shape], "type": np.dtype(dtype).name, "what": about[name]}

    return {
        "inputs": {name: told(name, row.shape, row.dtype) for name, row in rows.items()},
        "outputs": {name: told(name, out.shape[1:], out.dtype) for name, out in made.items()},
    }


def export_stablehlo(trained: Trained) -> bytes:
    """A program that `jax.export.deserialize` reads, with jax and flatbuffers alone.

    It takes any number of rows, as they are stored, on a CPU, a CUDA GPU or a TPU; `interface` says
    what goes in and what comes out. The weights are inside.

    Raises:
      UserError: if flatbuffers is not installed; for a network that calls code outside of XLA, or
        that wants to know how many rows there are.
    """
    _optional("flatbuffers", _EXPORT)
    network, rows = _network(trained)
    of_rows = partial(network, jax.tree.map(np.asarray, trained.variables))
    try:
        with ops.plain_convolutions():
            program = jax.export.export(jax.jit(of_rows), platforms=_PLATFORMS)
            exported = program(*_in_batches(rows, *jax.export.symbolic_shape("batch")))
        return bytes(exported.serialize())
    except Exception as error:  # jax has one of its own for each reason
        raise UserError(
            f"{trained.facts['model']} cannot be exported: {first_line(error)}"
        ) from error


def export_onnx(trained: Trained) -> bytes:
    """A model of ONNX, with the inputs and outputs that `interface` names.

    It is run once, by onnxruntime, and compared with the network: what jax2onnx does not know it
    may leave out.

    Raises:
      UserError: if jax2onnx is not installed, or can't convert the network.
    """
    convert, runtime = _optional("jax2onnx", _ONNX).to_onnx, _optional("onnxruntime", _ONNX)
    network, rows = _network(trained)
    of_rows = partial(network, jax.tree.map(np.asarray, trained.variables))
    names = list(interface(trained)["outputs"])
    try:
        with ops.plain_convolutions():
            shapes = _in_batches(rows, "batch")
            model = convert(of_rows, shapes, input_names=list(rows), output_names=names)
        content = model.SerializeToString()
        given = dict(zip(rows, _examples(trained, rows, 2), strict=True))
        made = runtime.InferenceSession(content).run(names, given)
    except Exception as error:  # of whatever kind jax2onnx and onnxruntime raise
        raise UserError(
            f"jax2onnx cannot convert {trained.facts['model']}: {first_line(error)}; choose "
            "--format stablehlo"
        ) from error
    for name, got in zip(names, made, strict=True):
        wanted = np.asarray(of_rows(*given.values())[name], np.float64)
        slack = 1 if got.dtype == np.uint8 else 1e-5 * (1 + np.abs(wanted).max())
        if got.shape != wanted.shape or not np.abs(got - wanted).max() <= slack:
            raise UserError(
                f"jax2onnx {version('jax2onnx')} converts {trained.facts['model']} wrongly: its "
                f"{name} are not the network's; install a newer one, or choose --format stablehlo"
            )
    return content


def _examples(
    trained: Trained, rows: Mapping[str, jax.ShapeDtypeStruct], count: int
) -> list[np.ndarray]:
    """Something to put in: noise, standard normal latents, the first class."""
    draws = np.random.default_rng(0)
    made = {
        "inputs": lambda: trained.columns["inputs"].noise(count, 0),
        "latents": lambda: draws.normal(size=(count, *rows["latents"].shape)).astype(np.float32),
        "labels": lambda: np.zeros(count, np.int32),
    }
    return [made[name]() for name in rows]


def export_safetensors(trained: Trained) -> bytes:
    """The weights by name, "params/stage1_block1/conv1/kernel" say, and `describe` as metadata.

    Raises:
      UserError: if safetensors is not installed.
    """
    arrays = traverse_util.flatten_dict(dict(trained.variables), sep="/")
    plain = {name: np.require(array, requirements="C") for name, array in arrays.items()}
    told = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in describe(trained).items()
    }
    told |= {"description": json.dumps(trained.description), "step": str(trained.step)}
    return _optional("safetensors.numpy", _EXPORT).save(plain, metadata=told)


def read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """What `export_safetensors` wrote.

    Returns:
      Variables, as `module.apply` takes them, of NumPy; and the metadata.

    Raises:
      UserError: if safetensors is not installed, or the file can't be read.
    """
    safetensors = _optional("safetensors", _EXPORT)
    try:
        with safetensors.safe_open(path, "numpy") as file:
            names, metadata = file.keys(), file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in names}
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"cannot read {path} as safetensors: {error}") from error
    return traverse_util.unflatten_dict(arrays, sep="/"), metadata


def _optional(module: str, how: str) -> ModuleType:
    """A module of a library that is not always there.

    Raises:
      UserError: if it is not; it says how it is installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise UserError(f"{name} is not installed: {how}") from error


#: Format -> what makes the file.
FORMATS: dict[str, Callable[[Trained], bytes]] = {
    "stablehlo": export_stablehlo,
    "onnx": export_onnx,
    "safetensors": export_safetensors,
}
