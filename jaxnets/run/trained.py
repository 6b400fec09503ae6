"""Trained networks and what one does with them: classes of files, samples of a seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from jaxnets.columns import Column, Tokens, class_of
from jaxnets.data import Split, eval_batches
from jaxnets.data.sources.folder import FileReader
from jaxnets.data.sources.single import Example, list_files, read_examples
from jaxnets.devices.parallel import make_mesh
from jaxnets.errors import UserError
from jaxnets.judge import sampling
from jaxnets.judge.evaluate import Predict, make_predict
from jaxnets.judge.grad_cam import grad_cam

__all__ = [
    "Prediction",
    "Trained",
    "TrainedClassifier",
    "TrainedGenerator",
    "Unreadable",
    "by_batches",
    "in_power_of_two",
    "usable",
]

#: Examples, or images, of one call of a network; fewer are padded.
_BATCH = 32


class Prediction(NamedTuple):
    """What a classifier says of one example.

    Attributes:
      source: the file, or "row 3" of an array.
      label: number of the most probable class; of a detector, by its threshold.
      name: of that class.
      probability: of that class.
      probabilities: [K] float64 of all classes, in their order.
      class_names: of the K classes.
    """

    source: str
    label: int
    name: str
    probability: float
    probabilities: np.ndarray
    class_names: tuple[str, ...]

    def top(self, count: int) -> list[tuple[str, float]]:
        """(name, probability) of the `count` most probable classes, the first the most."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.class_names[k], float(self.probabilities[k])) for k in order]


class Unreadable(NamedTuple):
    """A file that can't be used, and why."""

    source: str
    reason: str


def usable(records: Iterable[Any]) -> list[Any]:
    """All records of a stream.

    Raises:
      UserError: if a file can't be used; it names up to ten of them.
    """
    every = list(records)
    bad = [record for record in every if isinstance(record, Unreadable)]
    if bad:
        told = ", ".join(f"{source} ({reason})" for source, reason in bad[:10])
        more = f" and {len(bad) - 10:,} more" if len(bad) > 10 else ""
        raise UserError(f"can't predict from {told}{more}")
    return every


def by_batches(
    examples: Iterator[Example], size: int, look: Callable[[np.ndarray], Iterable[Any]]
) -> Iterator[tuple[str, Any]]:
    """What a network says of examples, in their order; one that can't be used keeps its reason.

    Args:
      examples: rows, or why there is none.
      size: the most rows of one call.
      look: rows [N, ...] -> an answer for each.

    Yields:
      (source, answer), or (source, reason) with a text.
    """
    while part := list(islice(examples, size)):
        rows = [example.row for example in part if isinstance(example.row, np.ndarray)]
        answers = iter(look(np.stack(rows)) if rows else ())
        for source, row in part:
            yield source, row if isinstance(row, str) else next(answers)


def in_power_of_two(
    rows: np.ndarray, look: Callable[[np.ndarray], Sequence[Any]]
) -> Iterator[tuple[Any, ...]]:
    """What a compiled network says of each of some rows, which are padded to a power of two.

    Args:
      rows: stored rows [N, ...].
      look: stored rows -> arrays, whose rows belong together.
    """
    size = 1 << (len(rows) - 1).bit_length()
    said = look(np.pad(rows, [(0, size - len(rows)), *[(0, 0)] * (rows.ndim - 1)]))
    return zip(*(np.asarray(of)[: len(rows)] for of in said), strict=True)


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A network of a run, ready for use.

    Attributes:
      module: the Flax module.
      variables: what `module.apply` takes: weights and statistics, averaged where the run kept an
        average.
      columns: what the rows of the arrays are that it was trained on, "inputs" and perhaps
        "target".
      class_names: of the K classes.
      config: what the run was told, as its `config.json` has it.
      step: updates that the weights have seen.
      facts: "model", "weights" (twelve hexadecimal digits that name them), "data" and
        "data_fingerprint", as texts.
      description: what `network.json` in the run's folder holds: how to build the network again.
    """

    module: nn.Module
    variables: Mapping[str, Any]
    columns: Mapping[str, Column]
    class_names: tuple[str, ...]
    config: Mapping[str, Any]
    step: int
    facts: Mapping[str, str]
    description: Mapping[str, Any]

    #: What it is, and how files of pictures are read where that is not as `data.load` does.
    kind: ClassVar[str]
    reader: ClassVar[FileReader | None] = None

    @cached_property
    def _placed(self) -> Any:
        return jax.device_put(self.variables)

    def _examples(self, inputs: Any) -> Iterator[Example]:
        """Stored rows, or what is in files, as examples."""
        if isinstance(inputs, np.ndarray | jax.Array):
            return self._rows(np.asarray(inputs))
        several = [inputs] if isinstance(inputs, str | Path) else list(inputs)
        return read_examples(list_files(several), self.columns["inputs"], self.reader)

    def _rows(self, rows: np.ndarray) -> Iterator[Example]:
        """Stored rows as examples."""
        column = self.columns["inputs"]
        if rows.shape[1:] != column.shape or rows.dtype != column.stored:
            wanted = ", ".join(map(str, ("N", *column.shape)))
            raise UserError(
                f"this network takes rows [{wanted}] {column.stored} ({column.kind}), not "
                f"{list(rows.shape)} {rows.dtype}"
            )
        return (Example(f"row {i}", row) for i, row in enumerate(rows))


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedClassifier(Trained):
    """A classifier of a run.

    Attributes:
      views: how it looks at an image, the mean of which is what it says (see
        `jaxnets.judge.evaluate.VIEWS`).
      threshold: of a detector, the probability of its second class from which it says so; None
        says the most probable class.
    """

    kind = "classifier"

    views: str = "plain"
    threshold: float | None = None

    @cached_property
    def _compiled(self) -> dict[int, Predict]:
        return {}

    def _logits(self, rows: np.ndarray) -> np.ndarray:
        """[N, K] of up to a batch of stored rows, padded to a power of two."""
        size = 1 << (len(rows) - 1).bit_length()
        if size not in self._compiled:
            mesh = make_mesh(1)
            self._compiled[size] = make_predict(
                self.module, mesh, batch_size=size, views=self.views
            )
        split = Split(rows, columns={"inputs": self.columns["inputs"]})
        return self._compiled[size](self._placed, split)[0]

    def predict(self, inputs: Any) -> list[Prediction]:
        """What the classes of examples are.

        Args:
          inputs: files (a path, a folder, a pattern such as "pictures/*.jpg", or a list of these),
            which get the preprocessing of the training; or stored rows, such as images
            [N, H, W, C] uint8. Of a network for texts, a text or a list of texts; files are
            `pathlib.Path`s then.

        Returns:
          A record for each example, in their order.

        Raises:
          UserError: names the files that can't be used, or rows of another shape or type.
        """
        return [r for r in usable(self.stream(inputs)) if isinstance(r, Prediction)]

    def stream(self, inputs: Any) -> Iterator[Prediction | Unreadable]:
        """As `predict`, one record after the other, for more files than memory would hold.

        Files are read and decoded by threads while the network works on those before. One that
        can't be used is among the records, and the others go on.
        """
        answered = by_batches(
            self._examples(inputs), _BATCH, lambda rows: _softmax(self._logits(rows))
        )
        for source, of_all in answered:
            if isinstance(of_all, str):
                yield Unreadable(source, of_all)
                continue
            label = int(of_all.argmax())
            if self.threshold is not None:
                label = int(of_all[1] >= self.threshold)
            name = self.class_names[label]
            yield Prediction(source, label, name, float(of_all[label]), of_all, self.class_names)

    def _examples(self, inputs: Any) -> Iterator[Example]:
        column = self.columns["inputs"]
        if isinstance(column, Tokens) and not isinstance(inputs, np.ndarray | jax.Array | Path):
            texts = [inputs] if isinstance(inputs, str) else list(inputs)
            if all(isinstance(text, str) for text in texts):
                return (Example(text, column.rows([text])[0]) for text in texts)
        return super()._examples(inputs)

    def features(self, inputs: np.ndarray, layer: str = "penultimate") -> np.ndarray:
        """What a layer of the network gives for stored rows.

        Args:
          inputs: stored rows [N, ...], such as images [N, H, W, C] uint8.
          layer: a name among the features that the module returns.

        Returns:
          [N, ...] float32.

        Raises:
          UserError: for rows of another kind, or an unknown layer, with the names there are.
        """
        split = Split(np.asarray(inputs), columns={"inputs": self.columns["inputs"]})

        @jax.jit
        def forward(variables: Any, rows: Any) -> Any:
            features = sampling.apply(self.module, variables, rows)[1]
            if layer not in features:
                raise UserError(f"there is no layer {layer!r}; choose from {', '.join(features)}")
            return features[layer]

        parts = [
            np.asarray(forward(self._placed, batch["inputs"]), np.float32)[batch["mask"]]
            for batch in eval_batches(split, min(_BATCH, len(split)))
        ]
        return np.concatenate(parts)

    def heat_maps(self, inputs: np.ndarray, label: str | int | None = None) -> np.ndarray:
        """Where the network looks: Grad-CAM (see `jaxnets.judge.grad_cam`).

        Args:
          inputs: stored images [N, H, W, C] uint8.
          label: name or number of the class that is asked about; by default the one that the
            network predicts for each image.

        Returns:
          [N, H, W] float32 in [0, 1]; 1 where most speaks for the class.

        Raises:
          UserError: for an unknown class, or rows that are no images of the network's size.
        """
        column = self.columns["inputs"]
        if column.kind != "image":
            raise UserError(f"heat maps are of images, and this network takes {column.kind}s")
        labels = np.array([prediction.label for prediction in self.predict(inputs)], np.int32)
        if label is not None:
            labels[:] = class_of(self.class_names, label)
        maps = jax.jit(partial(grad_cam, self.module))
        parts = [
            maps(self._placed, column.decode(inputs[i : i + _BATCH]), labels[i : i + _BATCH])
            for i in range(0, len(inputs), _BATCH)
        ]
        return np.concatenate(parts)


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedGenerator(Trained):
    """A generator of a run."""

    kind = "generator"

    @property
    def conditional(self) -> bool:
        """Whether a class can be asked for."""
        return self.module.num_classes is not None  # type: ignore[attr-defined]

    @property
    def latent_size(self) -> int:
        """Length of the latent vectors."""
        return self.module.latent_size  # type: ignore[attr-defined, no-any-return]

    def label(self, asked: str | int) -> int:
        """The number of a class, out of its name or its number.

        Raises:
          UserError: for an unknown class, or a generator that was trained without classes.
        """
        return class_of(self.class_names, asked)

    def labels(self, count: int, label: str | int | np.ndarray | None = None) -> np.ndarray:
        """[count] int32: the class of each of so many samples; see `sample`."""
        if isinstance(label, np.ndarray):
            return np.asarray(label, np.int32)
        if label is None:
            return np.arange(count, dtype=np.int32) % max(1, len(self.class_names))
        return np.full(count, self.label(label), np.int32)

    def sample(
        self,
        count: int,
        label: str | int | np.ndarray | None = None,
        *,
        seed: int = 0,
        truncation: float | None = None,
    ) -> np.ndarray:
        """Makes samples; the i-th is the same for the same seed, whatever the count.

        Args:
          count: how many, at least 1.
          label: name or number of a class, or the number of each sample's; by default all classes
            in turn.
          seed: other seeds give other samples.
          truncation: in (0, 1], see `jaxnets.make_sample`.

        Returns:
          Stored rows, such as images [N, H, W, C] uint8. They are synthetic, and carry no mark:
          `columns["inputs"].write(rows, folder, facts)` writes files that do.

        Raises:
          UserError: for an unknown class, no count or another truncation.
        """
        labels = self.labels(count, label)
        asked: Any = labels if self.conditional else count
        return self._sample(self._placed, jax.random.key(seed), asked, truncation, as_bytes=True)

    @cached_property
    def _sample(self) -> sampling.Sample:
        return sampling.make_sample(
            self.module,
            latent_size=self.latent_size,
            conditional=self.conditional,
            batch_size=_BATCH,
            whole_batches=True,
        )
