"""What a run starts from where it does not start from random weights: `--init-from`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxnets.commands.configs.reading import WEIGHTS
from jaxnets.errors import UserError
from jaxnets.judge import evaluate
from jaxnets.models import pretrained
from jaxnets.run.export import read_safetensors
from jaxnets.run.load import load_weights
from jaxnets.run.runs import read_run
from jaxnets.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class Start:
    """Weights that a run starts from.

    Attributes:
      source: as the flag has it.
      fingerprint: of the weights.
      nets: name of a network -> its variables; None once the run has a checkpoint of its own.
      classes: numbers of classes, of the run and of the weights; 0 where there are none.
      told: which weights are used and which are not, in a line.
    """

    source: str
    fingerprint: str
    nets: Mapping[str, Any] | None = None
    classes: tuple[int, int] = (0, 0)
    told: str = ""

    def into(self, net: str, own: Mapping[str, Any]) -> dict[str, Any]:
        """A network's variables with these weights in their place; see `pretrained.fit_into`."""
        return dict(own) if self.nets is None else self._fitted(net, own)[0]

    def telling(self, init: Callable[[int], TrainState]) -> Start:
        """The same, with the line that tells of it; nothing is told of a run that goes on.

        Args:
          init: number of a member -> its first state; is only traced.

        Raises:
          UserError: if the weights do not fit.
        """
        if self.nets is None:
            return self
        shapes = jax.eval_shape(lambda: {k: net.variables for k, net in init(0).nets.items()})
        parts = []
        for net in self.nets:
            new, leaves = self._fitted(net, shapes[net])[1], jax.tree.leaves(shapes[net])
            fresh = f", but new {', '.join(new)}" if new else ""
            parts.append(f"{len(leaves) - len(new)} of the {net}'s {len(leaves)} arrays{fresh}")
        return dataclasses.replace(self, told=f"weights of {self.source}: {'; '.join(parts)}")

    def _fitted(self, net: str, own: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        assert self.nets is not None
        return pretrained.fit_into(own, self.nets[net], self.classes, self.source)


def begin(
    config: Any, network: str | None, nets: Sequence[str], classes: int | None
) -> Start | None:
    """The weights that --init-from names; None where it names none.

    Args:
      config: resolved.
      network: name of the network that other libraries' weights may be for; None for a GAN.
      nets: names of the run's networks.
      classes: how many the run has; None for none.

    Raises:
      UserError: if there are no such weights, or they are of another kind.
    """
    source = config.init_from
    if source is None:
        return None
    if (known := _resumed(config.run_dir)) is not None:
        return Start(source, known)
    if pretrained.is_of_others(source) and not _is_exported(source):
        if network is None:
            raise UserError(f"--init-from {source}: a GAN starts from a run of `generate`")
        variables, theirs = pretrained.read_weights(source, network)
        weights: dict[str, Any] = {nets[0]: variables}
    else:
        weights, theirs = load_weights(Path(source), nets)
    return Start(source, evaluate.digest(weights), weights, (classes or 0, theirs or 0))


def _is_exported(source: str) -> bool:
    """Whether a source is a file that `export --format safetensors` made."""
    if source.startswith("hf:") or not source.endswith(".safetensors"):
        return False
    return "description" in read_safetensors(Path(source))[1]


def _resumed(folder: Path | None) -> str | None:
    """The fingerprint of the weights that a run began with, if it goes on from its own by now."""
    if folder is None or not (folder / "config.json").exists():
        return None
    if not any(path.name.isdecimal() for path in (folder / "checkpoints").glob("[0-9]*")):
        return None  # it has to begin again
    return str(read_run(folder)["config"].get(WEIGHTS, ""))


def fingerprint(start: Start | None) -> dict[str, str]:
    """What a run's `config.json` keeps of the weights that it began with."""
    return {} if start is None else {WEIGHTS: start.fingerprint}
