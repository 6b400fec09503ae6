"""What a run has trained, out of its folder alone: networks to predict and to sample with."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from jaxnets import __version__, models
from jaxnets.columns import Boxes, Classes, Column, from_json, to_json
from jaxnets.data import DataSet
from jaxnets.errors import UserError
from jaxnets.files import read_json, write_json
from jaxnets.judge.evaluate import digest
from jaxnets.run.checkpoint import Checkpoints
from jaxnets.run.detector import TrainedDetector
from jaxnets.run.export import read_safetensors
from jaxnets.run.inspector import TrainedInspector
from jaxnets.run.integrity import (
    Damaged,
    changed,
    first_line,
    manifest_alone,
    misfit,
    read_manifest,
    shapes_of,
)
from jaxnets.run.runs import newest_checkpoint, read_run
from jaxnets.run.trained import TrainedClassifier, TrainedGenerator
from jaxnets.typing import PyTree

__all__ = ["Description", "keep_description", "load_run", "load_weights", "read_description"]

#: File of a run that says what its networks are.
_FILE = "network.json"


@dataclasses.dataclass(frozen=True)
class Description:
    """What it takes to build a run's network again, as values that JSON can hold.

    Attributes:
      kind: "classifier", "generator", "inspector" or "detector".
      network: arguments of `jaxnets.models.classifier_of`, `make_inspector` or `make_detector`
        without the column, or of `jaxnets.models.make_generator` without the shape of images.
      columns: name -> column, as `jaxnets.columns.to_json` gives it.
      data: name of the data set.
      fingerprint: of the data set.
      members: names of the networks that the run trains side by side, one or more.
      views: of a classifier, how it looks at an example (see `jaxnets.judge.evaluate.VIEWS`).
      threshold: of a detector, the probability of its second class from which it says so.
      higher_is_better: how checkpoints rank.
    """

    kind: str
    network: Mapping[str, Any]
    columns: Mapping[str, Any]
    data: str
    fingerprint: str
    members: Sequence[str]
    views: str = "plain"
    threshold: float | None = None
    higher_is_better: bool = True

    @classmethod
    def of(
        cls, kind: str, network: Mapping[str, Any], dataset: DataSet, **rest: Any
    ) -> Description:
        """The description of a network and of the data that it was trained on."""
        columns = {name: to_json(column) for name, column in dataset.columns.items()}
        return cls(kind, network, columns, dataset.name, dataset.fingerprint[:16], **rest)

    @classmethod
    def from_json(cls, content: Any, path: Path) -> Description:
        """The description that `as_json` gave, which `path` holds.

        Raises:
          UserError: if it is none, or one of another version.
        """
        fields = {field.name for field in dataclasses.fields(cls)}
        try:
            told = cls(**{name: value for name, value in content.items() if name in fields})
            if content["format"] != 1 or not told.members:
                raise ValueError(f"format {content['format']!r}, members {told.members!r}")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} does not describe a network: {first_line(error)}") from error
        if told.kind not in _KINDS:
            raise UserError(f"{path} describes a {told.kind!r}, which this version does not know")
        return told

    @property
    def inputs(self) -> Column:
        """The column of what goes into a classifier, or comes out of a generator."""
        return from_json(self.columns["inputs"])

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the K classes; none where the network has none."""
        if self.network["num_classes"] is None or "target" not in self.columns:
            return ()
        target = from_json(self.columns["target"])
        return target.names if isinstance(target, Classes | Boxes) else ()

    def as_json(self) -> dict[str, Any]:
        """Values that JSON can hold."""
        return {"format": 1, "jaxnets": __version__, **dataclasses.asdict(self)}

    def trained(
        self,
        module: nn.Module,
        variables: Mapping[str, Any],
        step: int,
        config: Mapping[str, Any] | None = None,
    ) -> Any:
        """The network with these weights: a `Trained...` of its kind.

        Args:
          module: that was built as described.
          variables: of one network, whole on this process.
          step: of the weights.
          config: of the run.
        """
        columns = {name: from_json(column) for name, column in self.columns.items()}
        facts = {
            "model": f"{self.network['name']} on {self.data}",
            "weights": digest(variables),
            "data": self.data,
            "data_fingerprint": self.fingerprint,
        }
        rest: Any = (columns, self.class_names, config or {}, step, facts, self.as_json())
        if self.kind == "classifier":
            looks = {"views": self.views, "threshold": self.threshold}
            return TrainedClassifier(module, variables, *rest, **looks)
        return _KINDS[self.kind](module, variables, *rest)


#: Kind of network -> what a run of it gives.
_KINDS: dict[str, Any] = {
    kind.kind: kind
    for kind in (TrainedClassifier, TrainedGenerator, TrainedInspector, TrainedDetector)
}


def keep_description(folder: Path, description: Description, *, anew: bool = False) -> None:
    """Writes `network.json` into the folder of a run, unless it is there; `anew` in any case."""
    if anew or not (folder / _FILE).exists():
        write_json(folder / _FILE, description.as_json())


def load_run(folder: str | Path, *, member: str | int | None = None, best: bool = True) -> Any:
    """The network that a run has trained, by default in its best state where states are ranked.

    >>> run = jaxnets.load_run("runs/cnn")
    >>> run.predict(["photo.jpg"])[0].label

    It reads the run's folder and nothing else; that may have come from another machine.

    Args:
      folder: of a run of `classify`, `generate`, `inspect` or `detect`; or a file that `export
        --format safetensors` made of one.
      member: of a run with several networks (`--seeds`, `--sweep`): name or number; by default the
        first.
      best: whether the best state is taken where states are ranked; else the last.

    Returns:
      A `TrainedClassifier` or a `TrainedGenerator` (see `jaxnets.run.trained`), or a
      `TrainedInspector` (see `jaxnets.run.inspector`) or a `TrainedDetector` (see
      `jaxnets.run.detector`).

    Raises:
      UserError: if the folder is not that of a run, or says nothing of its network, or holds no
        good checkpoint.
    """
    path = Path(folder)
    told = read_description(path, member=member)
    module, like = _network(told, path)
    if path.is_file():
        return _out_of_file(path, told, module, like)
    variables, step = _weights(path, told, like, best)
    if len(told.members) > 1:
        number = _number(path, told, member)
        variables = jax.tree.map(lambda leaf: leaf[number], variables)
    return told.trained(module, variables, step, read_run(path)["config"])


def read_description(folder: str | Path, *, member: str | int | None = None) -> Description:
    """What the network of a run, or of an exported file, is; its weights are not read.

    Args:
      folder: as for `load_run`.
      member: as for `load_run`; it must be there.

    Raises:
      UserError: as for `load_run`.
    """
    path = Path(folder)
    if not path.is_file():
        read_run(path)
        if not (path / _FILE).exists():
            raise UserError(
                f"{path} does not say what its network is: it has no {_FILE}, as runs of earlier "
                "versions of jaxnets; run the command that made it once more, with --run-dir "
                f"{path}, and it is written"
            )
        told = Description.from_json(read_json(path / _FILE), path / _FILE)
        _number(path, told, member)
        return told
    if member is not None:
        raise UserError(f"{path} holds one network: leave the member {member!r} out")
    try:
        content = json.loads(read_safetensors(path)[1]["description"])
    except (KeyError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} was not made by `jaxnets export`: it describes no network"
        ) from error
    return Description.from_json(content, path)


def _out_of_file(path: Path, told: Description, module: nn.Module, like: Mapping[str, Any]) -> Any:
    """The network of a file that `export --format safetensors` made."""
    variables, metadata = read_safetensors(path)
    if (other := misfit(shapes_of(variables), shapes_of(like))) is not None:
        raise UserError(f"{path} does not hold the network that it describes ({other})")
    return told.trained(module, variables, int(metadata["step"]))


def _network(told: Description, path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The module, and its variables' shapes and types."""
    try:
        module, example = _build(told, told.inputs)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} describes no network: {first_line(error)}") from error
    init = partial(module.init, train=False)
    return module, dict(jax.eval_shape(init, jax.eval_shape(jax.random.key, 0), *example))


def _build(told: Description, column: Column) -> tuple[nn.Module, tuple[Any, ...]]:
    """The module, and shapes of inputs to initialise it with."""
    network = dict(told.network)
    name = network.pop("name")
    if told.kind != "generator":
        make: Any = {
            "classifier": models.classifier_of,
            "inspector": models.make_inspector,
            "detector": models.make_detector,
        }[told.kind]
        module = make(name, column, **network)
        return module, (jax.ShapeDtypeStruct((1, *column.shape), column.dtype),)
    module = models.make_generator(name, image_shape=column.shape, **network)
    labels = None if network["num_classes"] is None else jax.ShapeDtypeStruct((1,), jnp.int32)
    return module, (jax.ShapeDtypeStruct((1, network["latent_size"]), jnp.float32), labels)


def _number(folder: Path, told: Description, member: str | int | None) -> int:
    """The number of the member that is asked for, by default the first."""
    names = list(told.members)
    number = names.index(member) if member in names else 0 if member is None else member
    if not isinstance(number, int) or not 0 <= number < len(names):
        some = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if names[8:] else "")
        raise UserError(f"{folder} has no member {str(member)[:60]!r}; it has {some}")
    return number


def _weights(
    folder: Path, told: Description, like: Mapping[str, Any], best: bool
) -> tuple[dict[str, Any], int]:
    """The averaged variables and their step."""
    place = _place(folder)
    if (count := len(told.members)) > 1:
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), like)
    say = partial(print, file=sys.stderr)
    with Checkpoints(place, higher_is_better=told.higher_is_better, say=say) as checkpoints:
        read = partial(_read, place, told.kind, like)
        return checkpoints.first_good(read, best=best)


def _place(folder: Path) -> Path:
    """Where a run's checkpoints are."""
    place = folder.absolute() / "checkpoints"  # Orbax refuses relative paths
    if newest_checkpoint(folder) is None:
        raise UserError(f"{folder} holds no checkpoint yet; run its command again to train it")
    return place


def load_weights(path: Path, nets: Sequence[str]) -> tuple[dict[str, Any], int | None]:
    """The variables of a run's networks, to start another run from.

    Args:
      path: of the run's folder, or of a file that `export --format safetensors` made.
      nets: names of the networks, such as "classifier", or "generator" and "discriminator".

    Returns:
      Name -> variables, averaged where an average is kept, of the first member; and the number of
      classes that the run knows, None where it knows none.

    Raises:
      UserError: see `load_run`; and if it has not these networks.
    """
    told = read_description(path)
    if told.kind not in nets:
        raise UserError(f"{path} has trained a {told.kind}, and {nets[0]} weights are needed")
    if path.is_file():
        if others := [net for net in nets if net != told.kind]:
            raise UserError(f"{path} holds no {others[0]}: start from the folder of its run")
        return {told.kind: load_run(path).variables}, told.network["num_classes"]
    place, say = _place(path), partial(print, file=sys.stderr)

    def read(step: int) -> dict[str, Any]:
        return {net: _read(place, net, _like(place / str(step), net), step)[0] for net in nets}

    with Checkpoints(place, higher_is_better=told.higher_is_better, say=say) as checkpoints:
        weights = checkpoints.first_good(read, best=True)
    if len(told.members) > 1:
        weights = jax.tree.map(lambda leaf: leaf[0], weights)
    return weights, told.network["num_classes"]


def _like(folder: Path, net: str) -> dict[str, Any]:
    """The shapes of a network's variables, as a checkpoint's manifest lists them."""
    shapes: dict[str, Any] = {}
    for name, (dtype, shape, _) in manifest_alone(folder)["leaves"].items():
        path = name.split(".")
        if path[:2] == ["nets", net] and path[2] in ("params", "model_state"):
            path = path[3 if path[2] == "model_state" else 2 :]
            shapes[".".join(path)] = jax.ShapeDtypeStruct(tuple(shape), dtype)
    return unflatten_dict(shapes, sep=".")


def _read(place: Path, net: str, like: Mapping[str, Any], step: int) -> tuple[dict[str, Any], int]:
    """The variables of one network of a checkpoint, averaged where an average is kept.

    Raises:
      Damaged: if the checkpoint is not what was saved.
    """
    import orbax.checkpoint as ocp

    folder = place / str(step)
    there = {name: tuple(leaf) for name, leaf in read_manifest(folder, step)["leaves"].items()}
    statistics = {name: part for name, part in like.items() if name != "params"}
    target: PyTree = {"params": like["params"], "model_state": statistics}
    averaged = any(name.startswith(f"nets.{net}.ema.") for name in there)
    target = {"nets": {net: {"ema": target} if averaged else target}}
    prefix = f"nets.{net}.ema." if averaged else f"nets.{net}."
    parts = (f"{prefix}params.", f"{prefix}model_state.")
    other = misfit({k: v for k, v in there.items() if k.startswith(parts)}, shapes_of(target))
    if other is not None:
        raise UserError(f"the checkpoint {folder} is not of the network of {_FILE} ({other})")
    args = ocp.args.PyTreeRestore(
        target,
        restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target),
        partial_restore=True,
    )
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
            tree = reader.restore(folder, args=ocp.args.Composite(state=args))["state"]
    except Exception as error:  # Orbax raises whatever its storage layer did
        raise Damaged(f"it cannot be read: {first_line(error)}") from error
    if (name := changed(tree, there)) is not None:
        raise Damaged(f"its array {name} is not what was saved")
    part = tree["nets"][net]["ema"] if averaged else tree["nets"][net]
    return {"params": part["params"], **part["model_state"]}, step
