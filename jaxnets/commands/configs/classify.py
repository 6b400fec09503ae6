"""What `classify` can be told, and the values that suit a data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from jaxnets.commands.configs import few_labels, sweeps
from jaxnets.commands.configs.balance import BalanceOptions
from jaxnets.commands.configs.constraints import (
    COUNT,
    DECAY,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    SWEPT,
    Needs,
    Range,
    check_needs,
)
from jaxnets.commands.configs.few_labels import FewLabelOptions
from jaxnets.commands.configs.options import (
    ClassRunOptions,
    MediaOptions,
    RunOptions,
    check_numbers,
    with_preset,
)
from jaxnets.errors import UserError

R = TypeVar("R", bound=RunOptions)

#: Values of the fields that are None, by data set or kind of data set.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {
        "network": "speed_net",
        "optimizer": "nesterov",
        "dropout": 0.0,
        "epochs": 20.0,
        "batch_size": 128,
        "width": 0.5,
        "learning_rate": 0.2,
        "label_smoothing": 0.2,
        "crop_padding": 2,
        # Whether a mirrored image is still of its class, only its owner knows: text is not.
        "flip": False,
    },
    "digits": {"epochs": 60.0, "crop_padding": 1},
    "fashion_mnist": {"epochs": 8.0, "batch_size": 512, "learning_rate": 0.75, "flip": True},
    "sounds:": {"epochs": 16.0, "batch_size": 64, "width": 0.25, "crop_padding": 0},
    "texts:": {
        "network": "text_cnn",
        "optimizer": "adam",
        "dropout": 0.5,
        "epochs": 4.0,
        "batch_size": 64,
        "width": 1.0,
        "learning_rate": 1e-3,
        "crop_padding": 0,
    },
}


#: Kinds of data whose batches are made for them; for others, a batch is chosen with which an epoch
#: has so many steps at least.
OWN_VALUES = ("sounds:", "texts:")
FEWEST_STEPS = 32

#: Learning rates of networks without normalisation, whose gradients are clipped to a norm of 1. Not
#: clipped, seeds of AlexNet on digits came to 74% to 91%; clipped, to 91% to 93%.
_CLIPPED = {"lenet5": 0.2, "alexnet": 0.1}

_MOMENTUM = Needs("--optimizer sgd or nesterov", lambda c: c.optimizer in ("sgd", "nesterov"))
_START = Needs(
    "weights that are worth keeping: name some with --init-from",
    lambda c: c.init_from is not None,
)
_FOCAL = Needs("--loss focal", lambda c: c.loss == "focal")


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """How the weights follow the gradients."""

    GROUP: ClassVar[str] = "optimizer"

    optimizer: str | None = None
    """sgd, nesterov, adam, rmsprop, lion or lamb."""
    schedule: str = "linear"
    """constant, cosine or linear, after the warm-up."""
    warmup: float = 0.23
    """Share of the steps in which the learning rate climbs."""
    momentum: Annotated[float, DECAY, _MOMENTUM, SWEPT] = 0.85
    """Decay of the mean of past gradients (sgd, nesterov)."""
    weight_decay: Annotated[float, NOT_NEGATIVE, SWEPT] = 0.009
    """Decoupled, times the learning rate; not on norms and biases."""
    clip_norm: Annotated[float | None, POSITIVE, SWEPT] = None
    """Greatest global norm of a gradient; by default 1 for lenet5 and alexnet."""
    ema_decay: Annotated[float | None, DECAY, SWEPT] = 0.95
    """Decay of the moving average of the weights that is evaluated; None uses the weights."""
    freeze: Annotated[str | None, _START] = None
    """Leave everything up to this stage of the network as it is (with --init-from): the name of a
    feature, such as stem or stage3, or penultimate for all but the last layer."""


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """What is minimised."""

    GROUP: ClassVar[str] = "loss"

    loss: str = "cross_entropy"
    """cross_entropy or focal."""
    focal_gamma: Annotated[float, NOT_NEGATIVE, _FOCAL, SWEPT] = 2.0
    """Exponent of the focal loss."""
    label_smoothing: Annotated[float | None, DECAY, SWEPT] = None
    """Share of the target that is spread over all classes."""
    dropout: Annotated[float | None, DECAY, SWEPT] = None
    """Share of units that dropout zeroes, where the network has dropout."""


@dataclasses.dataclass(frozen=True)
class AugmentOptions:
    """How training images are changed at random."""

    GROUP: ClassVar[str] = "augmentation"

    crop_padding: int | None = None
    """Shift training images at random, by up to this many pixels."""
    flip: bool | None = None
    """Mirror half of the training images (--flip), or none (--no-flip)."""
    resized_crop: Annotated[float | None, Range(above=0, most=1)] = None
    """Cut training images out of their files at random and resize that, in place of the middle:
    at least this share of the picture's area (0.08 is usual for ImageNet). Then --crop-padding
    is 0 by default."""
    rand_augment: Annotated[int, Range(least=0, most=30)] = 0
    """Strength of RandAugment (two random changes of colour, shape or place), from 1 to 30; 9 is
    usual, 0 is off. This and --resized-crop are for folder: and tfds:."""
    cutout: int = 0
    """Side of the square that is blanked out of training images; 0 is off."""
    degrade: Annotated[float, SHARE] = 0.0
    """Probability with which training images are blurred, shrunk and stretched, and compressed like
    JPEG, each by a random strength; 0 is off."""
    mixup: Annotated[float, NOT_NEGATIVE, SWEPT] = 0.0
    """Parameter of mixup's Beta distribution; 0 is off."""
    shift: Annotated[float, DECAY] = 0.1
    """Move sounds in time by up to this share of their length."""
    speed: Annotated[float, DECAY] = 0.15
    """Play sounds faster or slower by up to this share."""


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
    """What the network is tested on, and when training stops early."""

    GROUP: ClassVar[str] = "evaluation"

    test_views: Literal["plain", "mirror", "mirror_and_shift"] = "plain"
    """What a test image is judged by: itself; the mean over it and its mirror image; or, as in
    airbench, over shifts by a pixel too."""
    validation_fraction: float = 0.0
    """Share of the training images that is held out, by class, to be evaluated on; 0 uses the
    data set's own validation split, where it has one."""
    patience: Annotated[int | None, COUNT] = None
    """Stop after this many evaluations without a better validation accuracy."""
    pictures: bool = True
    """Show in the report the most certain mistakes and the most doubtful cases, and where the
    network looked (images)."""


@dataclasses.dataclass(frozen=True)
class Classify(
    OptimizerOptions,
    LossOptions,
    BalanceOptions,
    AugmentOptions,
    FewLabelOptions,
    EvaluationOptions,
    MediaOptions,
    ClassRunOptions,
):
    """Train a CNN to classify images, sounds or texts; with the defaults, Fashion-MNIST.

    Defaults are those for your own images; those for other data are in config.json in the run's
    folder, with every other value.
    """

    FIRST: ClassVar[tuple[str, ...]] = (
        "data",
        "image_size",
        "network",
        "init_from",
        "epochs",
        "batch_size",
        "learning_rate",
        "flip",
        "crop_padding",
        "labels_per_class",
        "validation_fraction",
        "seed",
        "seeds",
        "devices",
        "run_dir",
    )
    USUAL: ClassVar[Mapping[str, Any]] = PRESETS["default"]

    network: str | None = None
    """lenet5, alexnet, vgg11, vgg16, resnet_3x2, resnet18, resnet34, resnet50, wide_resnet_16_4,
    wide_resnet_28_10, efficientnet_lite0 or speed_net, which see sounds as spectrograms; npr or
    spectrum (of a generator's traces); m5 (of waves); text_cnn or vdcnn (of texts)."""
    width: Annotated[float | None, POSITIVE] = None
    """Factor on every number of channels; 1 is the published size."""
    batch_size: Annotated[int | None, COUNT] = None
    """Examples a step, over all devices."""
    learning_rate: Annotated[float | None, NOT_NEGATIVE, SWEPT] = None
    """The highest learning rate."""

    @property
    def ends(self) -> str:
        """What depends on the number of epochs; "" if a run may go on for more. Once resolved."""
        if self.schedule != "constant":
            return f"--schedule {self.schedule} ends with it"
        if self.warmup > 0:
            return f"--warmup {self.warmup:g} is a share of it"
        return "--patience counts the evaluation at its end" if self.patience is not None else ""


def resolve(config: Classify) -> Classify:
    """The config with every value in its place.

    Raises:
      UserError: for a value that no run can be made with.
    """
    kind = config.data if config.data in PRESETS else config.data.partition(":")[0] + ":"
    values = {**PRESETS["default"], **PRESETS.get(kind, {})}
    if kind == "texts:" and config.unit == "characters":
        values["network"] = "vdcnn"
    if config.few_labels != "none":
        values |= few_labels.PRESET | few_labels.METHODS.get(config.few_labels, {})
    config = with_preset(config, {name: values[name] for name in ("network", "optimizer")})
    # A preset is tuned for its network and optimizer; momentum with or without Nesterov's is one.
    momentum = ("sgd", "nesterov")
    rates = {**dict.fromkeys(momentum, _CLIPPED.get(str(config.network), 0.05)), "lion": 2e-4}
    usual = rates.get(str(config.optimizer), 2e-3)
    if config.optimizer != values["optimizer"] and not {
        config.optimizer,
        values["optimizer"],
    } <= set(momentum):
        config = with_preset(config, {"learning_rate": usual})
    if config.network != values["network"]:
        clip = 1.0 if config.network in _CLIPPED else None
        config = with_preset(config, {"width": 1.0, "learning_rate": usual, "clip_norm": clip})
    if config.resized_crop is not None:
        config = with_preset(config, {"crop_padding": 0})
    config = with_preset(config, values)
    config = settled(config)
    if config.patience is not None and config.eval_every == 0:
        raise UserError("--patience counts evaluations: set --eval-every above 0")
    return config


def settled(config: R) -> R:
    """A config that has all its values, with the greatest of a sweep in its field.

    Raises:
      UserError: for a value that no run can be made with.
    """
    if (sweep := sweeps.sweep_of(config)) is not None:
        # The greatest, which is above zero: a part of the step that it turns on is there.
        config = dataclasses.replace(config, **{sweep.field: max(sweep.values)})
    for one in sweeps.each(config):
        check_numbers(one)
    check_needs(config, config)
    sweeps.check(config)
    return config
