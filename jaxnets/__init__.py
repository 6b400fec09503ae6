"""Convolutional networks analyse, generative adversarial networks create: both, together, in JAX.

Every public name below is imported when it is first used, so `import jaxnets` costs nothing.

The parts, each a pure function or a Flax linen module:

- `load`, `make_pipeline`: images by name, and the batches made of them.
- `make_classifier`, `make_gan`: networks by name.
- `classifier_step`, `adversarial_step`: `(state, batch) -> (state, metrics)`, games of `Move`s.
- `make_mesh`, `compile_step`: onto one device or many, by jit or by pmap.
- `fit`: the loop, with checkpoints, logs and resumption.
- `make_predict`, `make_sample`, `make_walk`: trained networks at work.
- `score_samples`: generated images, as any network sees them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "jaxnets.data.augment": ["Adaptive", "augmentation", "gan_augmentation", "mixup"],
    "jaxnets.run.checkpoint": ["Checkpoints"],
    "jaxnets.devices.compilation": ["enable_compilation_cache"],
    "jaxnets.columns": [
        "Classes",
        "Column",
        "Image",
        "Sound",
        "Tokens",
        "normalise",
        "to_uint8",
    ],
    "jaxnets.data": [
        "DataSet",
        "Split",
        "eval_batches",
        "load",
        "make_pipeline",
        "split_validation",
        "take_per_class",
    ],
    "jaxnets.train.descent": ["descend"],
    "jaxnets.errors": ["UserError"],
    "jaxnets.judge.evaluate": ["classification", "frechet_scores", "make_predict"],
    "jaxnets.train.game": ["Move", "game_step"],
    "jaxnets.run.interruption": ["Interrupted"],
    "jaxnets.run.load": ["load_run"],
    "jaxnets.run.loop": ["fit"],
    "jaxnets.losses": [
        "Auxiliary",
        "FeatureMatching",
        "LeCam",
        "PathLength",
        "Play",
        "Term",
        "adversarial_loss",
        "classification_loss",
        "cross_entropy",
        "focal",
        "path_length_penalty",
        "penalty",
    ],
    "jaxnets.metrics": [
        "ClassMoments",
        "InceptionScore",
        "Judgement",
        "Mean",
        "Moments",
        "frechet_distance",
        "intra_class_frechet",
        "kernel_distance",
        "manifold_scores",
        "memorisation",
        "nearest_neighbours",
        "recognised",
    ],
    "jaxnets.models": ["make_classifier", "make_discriminator", "make_gan", "make_generator"],
    "jaxnets.models.pretrained": ["load_pretrained"],
    "jaxnets.train.optimizers": ["half_life_decay", "make_optimizer", "make_schedule"],
    "jaxnets.devices.parallel": ["compile_step", "make_mesh", "place", "replicate"],
    "jaxnets.train.population": [
        "make_population_pipeline",
        "member_state",
        "population_state",
        "population_step",
    ],
    "jaxnets.judge.sampling": ["make_sample", "make_walk", "slerp", "style_mixing"],
    "jaxnets.judge.scoring": ["Judge", "score_samples"],
    "jaxnets.train.state": ["Net", "TrainState", "init_net"],
    "jaxnets.train.steps": ["adversarial_step", "classifier_step", "sample_latents"],
    "jaxnets.run.task": ["FitOptions", "FitResult", "Lazily", "Ranking", "Task"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME_OF)]

if TYPE_CHECKING:  # for editors and type checkers; at run time see __getattr__
    from jaxnets.columns import Classes, Column, Image, Sound, Tokens, normalise, to_uint8
    from jaxnets.data import (
        DataSet,
        Split,
        eval_batches,
        load,
        make_pipeline,
        split_validation,
        take_per_class,
    )
    from jaxnets.data.augment import Adaptive, augmentation, gan_augmentation, mixup
    from jaxnets.devices.compilation import enable_compilation_cache
    from jaxnets.devices.parallel import compile_step, make_mesh, place, replicate
    from jaxnets.errors import UserError
    from jaxnets.judge.evaluate import classification, frechet_scores, make_predict
    from jaxnets.judge.sampling import make_sample, make_walk, slerp, style_mixing
    from jaxnets.judge.scoring import Judge, score_samples
    from jaxnets.losses import (
        Auxiliary,
        FeatureMatching,
        LeCam,
        PathLength,
        Play,
        Term,
        adversarial_loss,
        classification_loss,
        cross_entropy,
        focal,
        path_length_penalty,
        penalty,
    )
    from jaxnets.metrics import (
        ClassMoments,
        InceptionScore,
        Judgement,
        Mean,
        Moments,
        frechet_distance,
        intra_class_frechet,
        kernel_distance,
        manifold_scores,
        memorisation,
        nearest_neighbours,
        recognised,
    )
    from jaxnets.models import make_classifier, make_discriminator, make_gan, make_generator
    from jaxnets.models.pretrained import load_pretrained
    from jaxnets.run.checkpoint import Checkpoints
    from jaxnets.run.interruption import Interrupted
    from jaxnets.run.load import load_run
    from jaxnets.run.loop import fit
    from jaxnets.run.task import FitOptions, FitResult, Lazily, Ranking, Task
    from jaxnets.train.descent import descend
    from jaxnets.train.game import Move, game_step
    from jaxnets.train.optimizers import half_life_decay, make_optimizer, make_schedule
    from jaxnets.train.population import (
        make_population_pipeline,
        member_state,
        population_state,
        population_step,
    )
    from jaxnets.train.state import Net, TrainState, init_net
    from jaxnets.train.steps import adversarial_step, classifier_step, sample_latents


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'jaxnets' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
