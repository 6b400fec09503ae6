"""A trained CNN that teaches a GAN: its features as functions of the GAN's images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.columns import Column
from jaxnets.commands.configs.generate import IMAGENET, Generate
from jaxnets.data import DataSet, eval_batches
from jaxnets.errors import UserError
from jaxnets.judge.evaluate import digest
from jaxnets.judge.scoring import Judge
from jaxnets.models.pretrained import load_pretrained
from jaxnets.run.load import load_run, read_description

#: Training images from which the mean and the deviation of features are taken.
_MEASURED = 256

#: Of red, green and blue in grey (ITU-R 601), as where images are read.
_GREY = (0.299, 0.587, 0.114)


@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
    """A frozen CNN, whose weights are constants of what is compiled.

    Attributes:
      name: network and data.
      digest: of its weights.
      scales: images [B, H, W, C] in [-1, 1] -> features [B, h, w, c], ...: the last of each size
        from two pixels on, the largest first.
      pooled: images -> [B, F] float32: the features before the last layer; of a CNN that sees a
        single pixel by then, the means of `scales`. Both are standardised over training images.
      size: F.
    """

    name: str
    digest: str
    scales: Callable[[Any], tuple[Any, ...]]
    pooled: Callable[[Any], Any]
    size: int

    def check_judge(self, judge: Judge | None) -> None:
        """Fails for a judge that is the teacher itself."""
        if judge is not None and judge.digest == self.digest:
            raise UserError(
                f"the judge is the teacher, {self.name}: a GAN that learns from a CNN's features "
                "does well by them, so name another CNN with --judge, or none"
            )


def load(config: Generate, dataset: DataSet) -> Teacher | None:
    """The teacher of a resolved config, None where there is none.

    Raises:
      UserError: if there is no such CNN, or it is none for images.
    """
    if config.teacher is None:
        return None
    column = dataset.columns["inputs"]
    if config.teacher == IMAGENET:
        shape = (*column.shape[:2], 3)
        module, variables = load_pretrained("efficientnet_lite0", image_shape=shape)
        name, weights = "EfficientNet-Lite0 of ImageNet", digest(variables)
    else:
        shape = _taken_by(config.teacher).shape
        trained = load_run(config.teacher)
        module, variables = trained.module, trained.variables
        name, weights = trained.facts["model"], trained.facts["weights"]
    seen = _standardised(_seen_by(module, variables, shape), dataset)
    like = jax.eval_shape(seen, jax.ShapeDtypeStruct((1, *column.shape), jnp.float32))
    size = like[1].shape[1]
    return Teacher(name, weights, lambda x: seen(x)[0], lambda x: seen(x)[1], size)


def told(config: Generate, dataset: DataSet) -> str:
    """What the teacher sees, in a few words; "" where there is none."""
    if config.teacher is None:
        return ""
    own = dataset.columns["inputs"].shape
    taken = (*own[:2], 3) if config.teacher == IMAGENET else _taken_by(config.teacher).shape
    text = f"the teacher {config.teacher} sees images "
    text += "augmented" if config.teach == "project" else "before any augmentation"
    if taken != own:
        sizes = ["x".join(map(str, shape)) for shape in (own, taken)]
        text += f", of {sizes[0]} as {sizes[1]} (bilinear)"
    return text


def _taken_by(folder: Path) -> Column:
    """What the teacher of a folder takes."""
    description = read_description(folder)
    column = description.inputs
    if description.kind != "classifier" or column.kind != "image":
        makes = "a generator" if description.kind == "generator" else f"a CNN for {column.kind}s"
        raise UserError(
            f"--teacher {folder} is {makes}: a teacher is a run of `classify` on images, or "
            "imagenet"
        )
    return column


def fitted(images: Any, shape: tuple[int, ...]) -> Any:
    """Images [B, H, W, C] as [B, *shape]: grey or colour, then bilinear."""
    channels, wanted = images.shape[-1], shape[-1]
    if (channels, wanted) == (3, 1):
        images = (images @ jnp.array(_GREY, images.dtype))[..., None]
    elif channels != wanted:
        images = jnp.repeat(images, wanted, axis=-1)
    return jax.image.resize(images, (len(images), *shape), "bilinear")


def _seen_by(module: nn.Module, variables: Any, shape: tuple[int, ...]) -> Callable[..., Any]:
    """Images -> (the last features of each size of at least two pixels, one vector [B, F])."""

    def seen(images: Any) -> Any:
        outputs: Any = module.apply(variables, fitted(images, shape), train=False)
        maps = {name: each for name, each in outputs[1].items() if each.ndim == 4}
        of_size = {each.shape[1:3]: name for name, each in maps.items()}
        scales = tuple(maps[name] for side, name in of_size.items() if min(side) > 1)
        vector = outputs[1]["penultimate"]
        if min(min(side) for side in of_size) == 1:
            vector = jnp.concatenate([each.mean(axis=(1, 2)) for each in scales], axis=1)
        return scales, vector.astype(jnp.float32)

    return seen


def _standardised(seen: Callable[..., Any], dataset: DataSet) -> Callable[..., Any]:
    """The same with mean 0 in each channel and a mean variance of 1, over training images.

    Of the vector, whose length counts in a loss, the variances add up to 1.
    """
    train = dataset.splits["train"]
    rows = np.unique(np.linspace(0, len(train) - 1, _MEASURED).astype(int))
    images = next(iter(eval_batches(train.take(rows), len(rows))))["inputs"]

    @jax.jit
    def measured(images: Any) -> Any:
        pairs = []
        for each in jax.tree.leaves(seen(images)):
            axes = tuple(range(each.ndim - 1))
            deviation = jnp.sqrt(each.var(axes).mean() + 1e-12)
            pairs.append((each.mean(axes, keepdims=True), deviation))
        return pairs

    moments = jax.tree.map(np.asarray, measured(images))

    def standardised(images: Any) -> Any:
        leaves, tree = jax.tree.flatten(seen(images))
        pairs = zip(leaves, moments, strict=True)
        *scales, vector = [(each - mean) / deviation for each, (mean, deviation) in pairs]
        return tree.unflatten([*scales, vector / vector.shape[1] ** 0.5])

    return standardised
