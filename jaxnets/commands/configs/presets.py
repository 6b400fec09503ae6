"""Values that suit a family of GANs, an image size and a machine.

A preset is a function; its docstring says for what it is, the command that uses it and what was
seen with it. `generate --preset NAME` takes one by name. Without, digits and fashion_mnist take the
family's small one, and other data what its paper has, at 100 epochs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxnets.errors import UserError
from jaxnets.registry import Registry

Values = dict[str, Any]

#: Where nothing else says a value.
DEFAULTS: Values = {
    "generator": "dcgan",
    "latent_size": 64,
    "width": 1.0,
    "path_length_weight": 0.0,
    "epochs": 100.0,
    "batch_size": 64,
    "discriminator_steps": 1,
    "loss": "non_saturating",
    "penalty": "r1",
    "penalty_weight": 0.1,
    "penalty_every": 1,
    "augment": "",
    "generator_learning_rate": 5e-4,
    "discriminator_learning_rate": 5e-4,
    "b1": 0.0,
    "b2": 0.99,
    "schedule": "constant",
    "ema_half_life": 10_000.0,
    "score_epochs": 10.0,
}

#: What a family's paper has at every size.
FAMILIES: dict[str, Values] = {
    "dcgan": {},
    "sngan": {"loss": "hinge", "penalty": "none", "b2": 0.9},
    "r3gan": {"loss": "relativistic", "penalty": "r1_r2"},
    "stylegan2": {"generator_learning_rate": 2e-3, "discriminator_learning_rate": 2e-3},
}

#: How long the trainings on a data set are, where the preset does not say.
DATA: dict[str, Values] = {
    "digits": {"epochs": 200.0},
    "fashion_mnist": {"epochs": 8.0, "score_epochs": 2.0},
}


def dcgan_small() -> Values:
    """DCGAN of 28 or 32 pixels, for a CPU.

    `generate --judge runs/cnn`, two cores of an AMD EPYC (Zen 4), 6 ms a step. Seen on
    Fashion-MNIST, in the features of a CNN of 93.86%, Frechet distance of 10,000 samples and
    recall, one seed: 16.3 and 0.65 after 30 s of training, 11.4 and 0.74 after 60 s, 8.8 and 0.77
    after 100 s, 6.6 and 0.79 after 200 s, when the CNN recognises 93.2% of the samples, 5.0 and
    0.81 after 600 s. With batches of 64 and both rates at 5e-4 it was 18.2 and 0.53 after 60 s.
    """
    return {
        "generator": "dcgan",
        "width": 0.5,
        "batch_size": 32,
        "generator_learning_rate": 1e-3,
        "discriminator_learning_rate": 1e-3,
    }


def sngan_small() -> Values:
    """SNGAN-ResNet of 28 or 32 pixels, for a CPU.

    `generate --generator sngan --judge runs/cnn`; on the machine and by the measure of
    `dcgan_small` a step takes 14 ms. One seed: 9.0 and 0.69 after 60 s of training, 6.4 and 0.73
    after 100 s, 3.6 and 0.77 after 200 s, when the CNN recognises 93.6%, 1.9 and 0.83 after 600 s.
    Batches of 64 gave 12.9 and batches of 16 the same 9.0 after 60 s; both rates at half of these
    (with batches of 32), more channels on either side or a fourth block in the discriminator (with
    batches of 64) were no better.
    """
    return {
        "generator": "sngan",
        "generator_widths": (64, 32, 16),
        "discriminator_widths": (16, 32, 64),
        "batch_size": 32,
        "generator_learning_rate": 1e-3,
        "discriminator_learning_rate": 2e-3,
        "b2": 0.99,
    }


def r3gan_small() -> Values:
    """R3GAN of 28 or 32 pixels, for a CPU, on which it is slow.

    `generate --generator r3gan --judge runs/cnn`; on the machine and by the measure of
    `dcgan_small` a step of half as many images takes 38 ms. One seed: Frechet distance 5.8 and
    recall 0.30 after 600 s of training, when the CNN recognises 91.3%, 3.4 and 0.33 after 1800 s;
    with rates that fell within 90,000 images, 18.4 and 0.18 after 110 s (2836 steps), 9.0 and 0.22
    after 220 s.

    Without normalisation the rates must fall, as in its paper: kept at 2e-3 it was 11.8 after 220 s
    and still 11.2 after 600 s. Kept at 1e-3 it was 5.8 after 600 s as well. With gamma falling from
    0.5 to 0.05 it was 12.6 after 220 s. Its loss and penalties on DCGAN's networks are
    `generate --loss relativistic --penalty r1_r2`.
    """
    return {
        "generator": "r3gan",
        "generator_widths": (64, 32, 8),
        "discriminator_widths": (8, 32, 64),
        "batch_size": 16,
        "generator_learning_rate": "2e-3:4e-4",
        "discriminator_learning_rate": "2e-3:4e-4",
        "ramp_images": 2e5,
    }


def stylegan2_small() -> Values:
    """StyleGAN2 of 28 or 32 pixels, for a CPU, on which it is slow.

    `generate --generator stylegan2 --judge runs/cnn`; on the machine and by the measure of
    `dcgan_small` a step of half as many images takes 17 ms. One seed: 14.0 and 0.24 after 110 s
    (6329 steps), 8.3 and 0.45 after 220 s, 3.5 and 0.63 after 600 s, when the CNN recognises 91.9%,
    1.3 and 0.74 after 1800 s, when a second seed has 1.8 and 0.75.

    Two numbers decide. Gamma: with 0.1 it was 20.9 and 0.27 after 220 s, and the authors' rule for
    this size and batch (0.01) is worse still. Both rates: with the authors' 2e-3 and gamma 0.1 it
    was 65 after 3200 steps, with 6e-3 38, with 1.5e-2 45. Half as many channels at the image's own
    size with gamma 0.3 gave 8.4 and 0.41 after 220 s; without style mixing it was worse.
    """
    return {
        "generator": "stylegan2",
        "width": 0.125,
        "generator_widths": (64, 32, 16),
        "discriminator_widths": (16, 32, 64),
        "batch_size": 16,
        "penalty_weight": 1.0,
        "generator_learning_rate": 6e-3,
        "discriminator_learning_rate": 6e-3,
    }


def dcgan_64() -> Values:
    """DCGAN of 64 pixels as its paper has it, but for the logistic loss's non-saturating form.

    `generate --preset dcgan_64 --data folder:PATH --image-size 64 --channels 3`, for one GPU.
    Its values are those of Radford et al. 2016 (https://arxiv.org/abs/1511.06434), section 4. Not
    yet run on an accelerator: no minutes and no scores are known.
    """
    return {
        "generator": "dcgan",
        "latent_size": 100,
        "batch_size": 128,
        "penalty": "none",
        "generator_learning_rate": 2e-4,
        "discriminator_learning_rate": 2e-4,
        "b1": 0.5,
        "b2": 0.999,
    }


def sngan_32() -> Values:
    """SNGAN-ResNet of 32 pixels as its paper has it for CIFAR-10: five updates to one.

    `generate --preset sngan_32 --data tfds:cifar10`, for one GPU or TPU: 100,000 updates of the
    generator are 640 epochs. The values are those of Miyato et al. 2018
    (https://arxiv.org/abs/1802.05957), table 1 (C) and section 4. Not yet run on an accelerator.
    """
    return {
        "generator": "sngan",
        "latent_size": 128,
        "epochs": 640.0,
        "discriminator_steps": 5,
        "generator_learning_rate": 2e-4,
        "discriminator_learning_rate": 2e-4,
        "schedule": "linear",
    }


def sngan_128() -> Values:
    """SNGAN-ResNet of 128 pixels as Miyato and Koyama have it for ImageNet.

    `generate --preset sngan_128 --data folder:PATH --image-size 128 --channels 3`, for a TPU slice
    or several GPUs. The values are those of https://arxiv.org/abs/1802.05637, section 5.1, but for
    the rates, which fall from the start and not in the last ninth only. Not yet run on an
    accelerator.
    """
    return {**sngan_32(), "epochs": 100.0}


def _r3gan(gamma: float, half_life: float, batch_size: int, augmented: float) -> Values:
    """R3GAN's cosine ramps: gamma falls to a tenth, the rates to a fourth, augmentation grows."""
    return {
        "generator": "r3gan",
        "batch_size": batch_size,
        "penalty_weight": f"{gamma:g}:{gamma / 10:g}",
        "generator_learning_rate": "2e-4:5e-5",
        "discriminator_learning_rate": "2e-4:5e-5",
        "b2": "0.9:0.99",
        "ema_half_life": f"0:{half_life:g}",
        "ramp_images": 2e7,
        "augment": "color,translation,cutout",
        "augment_probability": f"0:{augmented:g}",
    }


def r3gan_32() -> Values:
    """R3GAN of 32 pixels as its paper has it for CIFAR-10.

    `generate --preset r3gan_32 --data tfds:cifar10`, for eight GPUs or a TPU slice. The values are
    those of Huang et al. 2024 (https://arxiv.org/abs/2501.05441), appendix: gamma 0.05 to 0.005
    over the first 20 million images (400 epochs), augmentation of up to 55% of the images. Its
    augmentation is StyleGAN2-ADA's; here it is DiffAugment's. Not yet run on an accelerator.
    """
    return {**_r3gan(0.05, 5e6, 512, 0.55), "epochs": 1000.0}


def r3gan_64() -> Values:
    """R3GAN of 64 pixels as its paper has it for FFHQ: gamma 2 to 0.2.

    `generate --preset r3gan_64 --data folder:PATH --image-size 64 --channels 3`, for eight GPUs or
    a TPU slice. At most 30% of the images are augmented, as `r3gan_32` has it. Where the images are
    many and of many kinds (ImageNet) the paper halves gamma. Not yet run on an accelerator.
    """
    return _r3gan(2.0, 5e5, 256, 0.3)


def r3gan_256() -> Values:
    """R3GAN of 256 pixels as its paper has it for FFHQ: gamma 150 to 15.

    `generate --preset r3gan_256 --data folder:PATH --image-size 256 --channels 3`, for eight GPUs
    or a TPU slice. Not yet run on an accelerator.
    """
    return _r3gan(150.0, 5e5, 256, 0.3)


def _stylegan2(size: int, batch_size: int) -> Values:
    """The authors' rules for a size and a batch: gamma, half-life, lazy penalties, mapping.

    Path lengths are theirs in the mean: they have them at every fourth step, and here both
    penalties are taken at every 16th, where each is 16 times as strong.
    """
    return {
        "generator": "stylegan2",
        "latent_size": 512,
        "generator_fields": ("mapping_layers=2",),
        "batch_size": batch_size,
        "path_length_weight": 2.0,
        "penalty_weight": 2e-4 * size**2 / batch_size,
        "penalty_every": 16,
        "generator_learning_rate": 2.5e-3,
        "discriminator_learning_rate": 2.5e-3,
        "ema_half_life": 1e4 * batch_size / 32,
    }


def stylegan2_64() -> Values:
    """StyleGAN2 of 64 pixels, by the rules of StyleGAN2-ADA's automatic configuration.

    `generate --preset stylegan2_64 --data folder:PATH --image-size 64 --channels 3`, for one GPU;
    with fewer than 10,000 images add `--augment color,translation,cutout --adaptive-augment`. The
    rules are those of Karras et al. 2020 (https://arxiv.org/abs/2006.06676) and its code. Not yet
    run on an accelerator.
    """
    return _stylegan2(64, 32)


def stylegan2_256() -> Values:
    """StyleGAN2 of 256 pixels, by the rules of StyleGAN2-ADA's automatic configuration.

    `generate --preset stylegan2_256 --data folder:PATH --image-size 256 --channels 3`, for eight
    GPUs or a TPU slice. Not yet run on an accelerator.
    """
    return _stylegan2(256, 64)


#: name -> its function.
PRESETS: Registry[Callable[[], Values]] = Registry(
    "preset",
    {
        preset.__name__: preset
        for preset in (
            dcgan_small,
            sngan_small,
            r3gan_small,
            stylegan2_small,
            dcgan_64,
            sngan_32,
            sngan_128,
            r3gan_32,
            r3gan_64,
            r3gan_256,
            stylegan2_64,
            stylegan2_256,
        )
    },
)


def values(name: str | None, generator: str | None, data: str) -> Values:
    """What fills the fields that are None.

    Args:
      name: of a preset; "" for none, None for the one that suits the family and the data.
      generator: the family; None for the preset's, or else DCGAN.
      data: a data set.

    Raises:
      UserError: for a preset that there is not, or of another family.
    """
    if name is None:
        small = f"{generator or DEFAULTS['generator']}_small"
        name = small if data in DATA and small in PRESETS else ""
    own = PRESETS[name]() if name else {}
    family = own.get("generator", generator or DEFAULTS["generator"])
    if generator not in (None, family):
        raise UserError(f"--preset {name} is one of {family}, and not of {generator}")
    found = {**DEFAULTS, **FAMILIES.get(family, {}), **DATA.get(data, {}), **own}
    return {**found, "preset": name, "generator": family}
