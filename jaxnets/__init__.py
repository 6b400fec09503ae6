"""Convolutional networks analyse, generative adversarial networks create: both, together, in JAX.

Every public name is imported when it is first used, so `import jaxnets` costs nothing;
`__init__.pyi` lists them.

The parts, each a pure function or a Flax linen module:

- `load`, `make_pipeline`: images by name, and the batches made of them.
- `make_classifier`, `make_gan`: networks by name.
- `classifier_step`, `adversarial_step`: `(state, batch) -> (state, metrics)`, games of `Move`s.
- `make_mesh`, `compile_step`: onto one device or many, by jit or by pmap.
- `fit`: the loop, with checkpoints, logs and resumption.
- `load_run`: what a run has trained, to predict or to sample with.
- `score_samples`: generated images, as any network sees them.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
