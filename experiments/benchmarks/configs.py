"""The flags of `bench` and of its subcommands; nothing here imports jax."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from jaxnets.commands.configs.constraints import COUNT, MAX_MEMBERS, POSITIVE, SEED, Range
from jaxnets.commands.configs.options import DataOptions


@dataclasses.dataclass(frozen=True)
class _Shape:
    """Size and type of the work."""

    batch_size: Annotated[int, COUNT] = 128
    """Images a step, over all devices."""
    image_size: Annotated[int, COUNT] = 28
    """Height and width of the images."""
    channels: Annotated[int, COUNT] = 1
    """Channels of the images."""
    width: float = 1.0
    """Factor on every number of channels; 1 is the published size."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation; parameters are float32 in any case."""
    seed: Annotated[int, SEED] = 0
    """Of the weights and the images."""

    def _named(self, what: str) -> str:
        width = "" if self.width == 1 else f" width {self.width:g}"
        size = f"{self.image_size}x{self.image_size}x{self.channels} batch {self.batch_size}"
        return f"{what}{width} {size}{'' if self.dtype == 'float32' else f' {self.dtype}'}"


@dataclasses.dataclass(frozen=True)
class ClassifierCase(_Shape):
    """The classifier step: SGD with Nesterov momentum on the cross-entropy."""

    network: str = "resnet_3x2"
    """Any network of `classify`."""

    @property
    def name(self) -> str:
        """Short and unique among the cases of one table."""
        return self._named(self.network)


@dataclasses.dataclass(frozen=True)
class GanCase(_Shape):
    """The adversarial step: one update of the discriminator, one of the generator, by Adam."""

    family: str = "dcgan"
    """Any generator of `generate`."""
    discriminator: str | None = None
    """Any discriminator of `generate`; by default the family's own."""
    loss: str = "non_saturating"
    """minimax, non_saturating, least_squares, hinge, wasserstein or relativistic."""
    penalty: str = "none"
    """none, r1, r2, r1_r2, wgan_gp, dragan or consistency, at every step."""
    conditional: bool = False
    """Give both networks the class of each image."""
    latent_size: int = 64
    """Length of the latent vectors."""

    @property
    def name(self) -> str:
        """Short and unique among the cases of one table."""
        opponent = f" against {self.discriminator}" if self.discriminator else ""
        extra = "" if self.loss == "non_saturating" else f" {self.loss}"
        extra += "" if self.penalty == "none" else f" + {self.penalty}"
        return self._named(f"{self.family}{opponent}{extra}")


Case = ClassifierCase | GanCase


@dataclasses.dataclass(frozen=True)
class Measuring:
    """How it is measured."""

    devices: Annotated[int, COUNT] = 1
    """How many devices to use; on a CPU they are made, and share its cores."""
    mode: Literal["jit", "pmap"] = "jit"
    """How the step goes onto the devices."""
    shard_params: bool = False
    """Divide parameters, optimiser state and averages among the devices (--mode jit)."""
    steps_per_call: Annotated[int, COUNT] = 1
    """Training steps in one call of the compiled program."""
    calls: str | None = None
    """Steps a call to compare, to see what calls cost: numbers such as 1,2,4 (the default for one
    case), or none."""
    rounds: Annotated[int, COUNT] = 7
    """Rounds in which everything that is timed takes its turn."""
    min_seconds: Annotated[float, POSITIVE] = 0.5
    """Least length of a timed window, which makes as many calls as that takes."""
    plain: bool = False
    """Time XLA's own convolutions instead of those of jaxnets.ops."""
    against: Literal["torch"] | None = None
    """Time PyTorch on the same network, weights and images beside it."""
    json: Path | None = None
    """Write every figure to this file."""


@dataclasses.dataclass(frozen=True)
class Classifier(Measuring, ClassifierCase):
    """Time a classifier's training step: SGD with Nesterov momentum on the cross-entropy."""


@dataclasses.dataclass(frozen=True)
class Gan(Measuring, GanCase):
    """Time a GAN's training step: one update of the discriminator and one of the generator."""


@dataclasses.dataclass(frozen=True)
class Inference(ClassifierCase):
    """Time a classifier's predictions beside PyTorch and onnxruntime, on the cores that it may use.

    All three have the same weights and images, and give the same logits. `taskset -c 0` before the
    command is for one core; the least time of all rounds is told, as clock and as all cores' work.
    """

    network: str = "efficientnet_lite0"
    """Any network of `classify` that has a twin in PyTorch."""
    batch_size: Annotated[int, COUNT] = 8
    """Images that are predicted together."""
    image_size: Annotated[int, COUNT] = 224
    """Height and width of the images."""
    channels: Annotated[int, COUNT] = 3
    """Channels of the images."""
    rounds: Annotated[int, COUNT] = 30
    """Rounds in which all take their turn."""


@dataclasses.dataclass(frozen=True)
class TimeToAccuracy:
    """Train the speed net to a test accuracy, by this library and by PyTorch in turn.

    Both follow the recipe of `classify`: network, first weights, order of the images, shifts and
    flips, label smoothing, momentum, schedule, weight decay and averaging. The test images are
    judged after every epoch, off the clock, by the views that --test-views names. A training that
    never gets there is kept as such.
    """

    data: str = "fashion_mnist"
    """Data set, as in `classify`."""
    target: Annotated[float, Range(above=0, below=1)] = 0.94
    """Test accuracy, in (0, 1), at which a training stops."""
    seeds: Annotated[int, COUNT] = 3
    """Seeds 0, 1, ... up to this many, each by both sides."""
    width: float | None = None
    """Factor on every number of channels; by default that of `classify`, as for the next three."""
    epochs: float | None = None
    """Length of the schedule, in passes over the training images."""
    batch_size: int | None = None
    """Images a step, over all devices."""
    learning_rate: float | None = None
    """The highest learning rate."""
    test_views: Literal["plain", "mirror", "mirror_and_shift"] = "mirror_and_shift"
    """What both sides judge a test image by, as in `classify`."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation on both sides; parameters are float32 in any case."""
    rival: Literal["eager", "channels_last", "compile"] = "channels_last"
    """How PyTorch runs it."""
    devices: int = 1
    """How many devices our side uses; PyTorch has all cores, or one GPU."""
    mode: Literal["jit", "pmap"] = "jit"
    """How our step goes onto the devices."""
    steps_per_call: Annotated[int, COUNT] = 4
    """Our steps in one call of the compiled program."""
    json: Path | None = None
    """File that gets all numbers, after every training. One that is there is gone on with, if it
    holds trainings of the same recipe on such a machine: those that it has are not made again."""


@dataclasses.dataclass(frozen=True)
class _Kept:
    """A benchmark that prints JSON."""

    json: Path | None = None
    """A JSON file to keep the numbers in."""


@dataclasses.dataclass(frozen=True)
class _Trained(_Kept):
    """A benchmark that trains either kind of network."""

    network: str = "speed_net"
    """The classifier: any network of `classify`."""
    width: float = 0.5
    """Factor on every number of channels; 1 is the published size."""
    batch_size: Annotated[int, COUNT] = 128
    """Images a step, of one member where there are several."""
    image_size: Annotated[int, COUNT] = 28
    """Height and width of the images."""
    steps_per_call: Annotated[int, COUNT] = 4
    """Training steps in one call of the compiled program."""


@dataclasses.dataclass(frozen=True)
class Population(_Trained):
    """Time a step of a population in one program against the same steps in turn.

    Both ways start from the same weights, see the same images in the same order, and run in turn
    in every round.
    """

    kinds: tuple[Literal["classifier", "gan"], ...] = ("classifier", "gan")
    """What to train: classifier, gan or both."""
    members: Annotated[int, Range(least=1, most=MAX_MEMBERS)] = 8
    """Networks, or GANs, in the population."""
    network: str = "lenet5"
    width: float = 0.25
    batch_size: Annotated[int, COUNT] = 32
    rounds: Annotated[int, COUNT] = 5
    """Rounds; in each the two ways have their turn."""
    min_seconds: Annotated[float, POSITIVE] = 0.5
    """Least length of a timed window."""


@dataclasses.dataclass(frozen=True)
class Input(_Kept, DataOptions):
    """Images a second that each pipeline delivers, against those that a training step eats.

    To deliver is everything up to the batch on the device: order, reading, transfer, gathering
    and normalisation. A ratio well above 1 means that the step never waits.
    """

    network: str = "resnet_3x2"
    """The classifier whose step eats: any network of `classify`."""
    width: float = 1.0
    """Factor on every number of channels; 1 is the published size."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the step's computation."""
    batch_size: int = 128
    """Images a step."""
    steps_per_call: Annotated[int, COUNT] = 4
    """Steps in one call: as many batches are fed at a time."""
    devices: int | None = None
    """How many devices to use; by default all."""
    calls: Annotated[int, COUNT] = 8
    """Calls in one round."""
    rounds: Annotated[int, COUNT] = 5
    """Rounds; in each the step and the pipelines have their turn."""
    seed: Annotated[int, SEED] = 0
    """Of the order and the weights."""


@dataclasses.dataclass(frozen=True)
class Startup(_Kept):
    """Time from the start of a command's process to the end of its first training call.

    The first start compiles into an empty folder; the later ones find there what it compiled.
    """

    command: str = "quickstart"
    """The command and its flags, but for --run-dir."""
    rounds: Annotated[int, COUNT] = 3
    """Starts after the first."""


@dataclasses.dataclass(frozen=True)
class Scores(_Kept):
    """Time every score of `evaluate --metrics`, of as many images, compared with as many.

    Training images stand for samples, and the network of `classify` is not trained: neither changes
    what the scores cost. The first round compiles, or reads kept programs; the second is the one
    that a training pays at every evaluation.
    """

    data: str = "fashion_mnist"
    """Data set: digits, fashion_mnist, tfds:NAME, or folder:PATH (one sub-folder a class)."""
    samples: Annotated[int, COUNT] = 10_000
    """How many images are scored, at most as many as there are to train on."""
    devices: int | None = None
    """How many devices share the work; by default all."""


@dataclasses.dataclass(frozen=True)
class Checkpoints(_Trained):
    """Time what a checkpoint costs: the training that is lost while it is made and written.

    Windows of training calls with a save at their start take turns with windows of as many calls
    without one. Exit code 1 if saving takes more than --max-share of the training.
    """

    kind: Literal["classifier", "gan"] = "classifier"
    """What trains: classifier or gan."""
    devices: int = 1
    """How many devices to use; on a CPU they are made, and share its cores."""
    rounds: Annotated[int, COUNT] = 7
    """Rounds, each of a window with a save and one without."""
    min_seconds: Annotated[float, POSITIVE] = 3.0
    """Least length of a window, which is also at least three times as long as a save takes."""
    save_seconds: Annotated[float, POSITIVE] = 30.0
    """How often a run is taken to save."""
    max_share: Annotated[float, POSITIVE] = 0.05
    """The share of the training that saving may cost."""
    folder: Path | None = None
    """Where to write the checkpoints, to be deleted at the end; by default the system's folder for
    temporary files."""


@dataclasses.dataclass(frozen=True)
class Watermark(_Kept):
    """Measure the watermark: false positives on real images, detections after attacks.

    The images of both are real ones: the Fashion-MNIST test images, and squares of 128x128 pixels
    of scikit-learn's two photographs. Every key is another watermark.
    """

    keys: Annotated[int, Range(least=1, most=10_000)] = 20
    """Keys that marked images are made with; ten times as many look at unmarked ones."""
    images: Annotated[int, Range(least=1, most=10_000)] = 256
    """Fashion-MNIST images that each key marks."""
