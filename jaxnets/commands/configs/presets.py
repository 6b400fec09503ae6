"""Values that suit a family of GANs, an image size and a machine.

`generate --preset NAME` takes one by name. Without, it is the family's small one, whose networks a
CPU trains in minutes; those of the papers are for accelerators.
"""

from __future__ import annotations

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


#: The family for other data, and the augmentation of both networks' images where there are fewer
#: than so many of them: on 1,524 colour pictures a Frechet distance of 104 against a DCGAN's 157,
#: and 112 without augmentation.
OWN_FAMILY, OWN_AUGMENT, FEW = "sngan", "shift", 20_000

#: Images that a training on other data sees at most, if nothing says how long it is.
SEEN = 1_200_000

#: Factor on the widths of a family's paper where a small preset meets images of another size than
#: those that it has widths for.
_SMALL_WIDTHS = {"dcgan": 0.5, "sngan": 0.25, "r3gan": 0.125, "stylegan2": 0.125}


def _rates(rate: float | str) -> Values:
    """One learning rate for both networks."""
    return {"generator_learning_rate": rate, "discriminator_learning_rate": rate}


def _r3gan(gamma: float, half_life: float, batch_size: int, augmented: float) -> Values:
    """R3GAN's cosine ramps: gamma falls to a tenth, the rates to a fourth, augmentation grows."""
    return {
        "generator": "r3gan",
        "batch_size": batch_size,
        "penalty_weight": f"{gamma:g}:{gamma / 10:g}",
        **_rates("2e-4:5e-5"),
        "b2": "0.9:0.99",
        "ema_half_life": f"0:{half_life:g}",
        "ramp_images": 2e7,
        "augment": "color,translation,cutout",
        "augment_probability": f"0:{augmented:g}",
    }


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
        **_rates(2.5e-3),
        "ema_half_life": 1e4 * batch_size / 32,
    }


#: SNGAN-ResNet by table 1 (C) and section 4 of Miyato et al. 2018, https://arxiv.org/abs/1802.05957.
_SNGAN: Values = {
    "generator": "sngan",
    "latent_size": 128,
    "discriminator_steps": 5,
    **_rates(2e-4),
    "schedule": "linear",
}

#: Small: 28 or 32 pixels on a CPU. Their numbers are of Fashion-MNIST, one seed, two cores of an
#: AMD EPYC (Zen 4): milliseconds of a step, then after seconds of training the Frechet distance of
#: 10,000 samples and their recall, in the features of a CNN of 93.86% (`--judge runs/cnn`).
#: Of the others, which follow papers and want a GPU or several, no minutes and scores are known.
PRESETS: Registry[Values] = Registry(
    "preset",
    {
        # 6 ms; 60 s: 11.4 and 0.74, 200 s: 6.6 and 0.79, 600 s: 5.0 and 0.81. Batches of 64 and
        # rates of 5e-4: 18.2 and 0.53 after 60 s.
        "dcgan_small": {"generator": "dcgan", "width": 0.5, "batch_size": 32, **_rates(1e-3)},
        # 14 ms; 60 s: 9.0 and 0.69, 200 s: 3.6 and 0.77, 600 s: 1.9 and 0.83. Batches of 64: 12.9
        # after 60 s. Half of these rates, more channels, a fourth block: no better.
        "sngan_small": {
            "generator": "sngan",
            "generator_widths": (64, 32, 16),
            "discriminator_widths": (16, 32, 64),
            "batch_size": 32,
            "generator_learning_rate": 1e-3,
            "discriminator_learning_rate": 2e-3,
            "b2": 0.99,
        },
        # 38 ms; 600 s: 5.8 and 0.30, 1800 s: 3.4 and 0.33. Without normalisation the rates must
        # fall: kept at 2e-3, 11.2 after 600 s. Gamma from 0.5 to 0.05: worse (12.6 after 220 s).
        "r3gan_small": {
            "generator": "r3gan",
            "generator_widths": (64, 32, 8),
            "discriminator_widths": (8, 32, 64),
            "batch_size": 16,
            **_rates("2e-3:4e-4"),
            "ramp_images": 2e5,
        },
        # 17 ms; 220 s: 8.3 and 0.45, 600 s: 3.5 and 0.63, 1800 s: 1.3 and 0.74. Gamma and rates
        # decide: gamma 0.1, 20.9 and 0.27 after 220 s; with it, rates of 2e-3 gave 65, of 6e-3 38
        # and of 1.5e-2 45 after 3200 steps. Without style mixing: worse.
        "stylegan2_small": {
            "generator": "stylegan2",
            "width": 0.125,
            "generator_widths": (64, 32, 16),
            "discriminator_widths": (16, 32, 64),
            "batch_size": 16,
            "penalty_weight": 1.0,
            **_rates(6e-3),
        },
        # Section 4 of Radford et al. 2016, https://arxiv.org/abs/1511.06434, but for the logistic
        # loss's non-saturating form.
        "dcgan_64": {
            "generator": "dcgan",
            "latent_size": 100,
            "batch_size": 128,
            "penalty": "none",
            **_rates(2e-4),
            "b1": 0.5,
            "b2": 0.999,
        },
        # CIFAR-10: 100,000 updates of the generator are 640 epochs.
        "sngan_32": {**_SNGAN, "epochs": 640.0},
        # ImageNet, section 5.1 of https://arxiv.org/abs/1802.05637, but for the rates, which fall
        # from the start and not in the last ninth only.
        "sngan_128": {**_SNGAN, "epochs": 100.0},
        # CIFAR-10, then FFHQ twice, by the appendix of Huang et al. 2024,
        # https://arxiv.org/abs/2501.05441, with DiffAugment in place of StyleGAN2-ADA's
        # augmentation. Where the images are many and of many kinds the paper halves gamma.
        "r3gan_32": {**_r3gan(0.05, 5e6, 512, 0.55), "epochs": 1000.0},
        "r3gan_64": _r3gan(2.0, 5e5, 256, 0.3),
        "r3gan_256": _r3gan(150.0, 5e5, 256, 0.3),
        # The automatic configuration of Karras et al. 2020, https://arxiv.org/abs/2006.06676. With
        # fewer than 10,000 images add `--augment color,translation,cutout --adaptive-augment`.
        "stylegan2_64": _stylegan2(64, 32),
        "stylegan2_256": _stylegan2(256, 64),
    },
)


def values(name: str | None, generator: str | None, data: str) -> Values:
    """What fills the fields that are None.

    Args:
      name: of a preset; "" for none, None for the family's small one.
      generator: the family; None for the preset's, or else the one that suits the data.
      data: a data set.

    Raises:
      UserError: for a preset that there is not, or of another family.
    """
    usual = DEFAULTS["generator"] if data in DATA else OWN_FAMILY
    if name is None:
        small = f"{usual if generator is None else generator}_small"
        name = small if small in PRESETS else ""
    own = PRESETS[name] if name else {}
    if name.endswith("_small") and data not in DATA:
        own = {key: value for key, value in own.items() if not key.endswith("_widths")}
        own["width"] = _SMALL_WIDTHS[own["generator"]]
    family = own.get("generator", usual if generator is None else generator)
    if generator not in (None, family):
        raise UserError(f"--preset {name} is for --generator {family}, not for {generator}")
    own = {**DEFAULTS, **FAMILIES.get(family, {}), **DATA.get(data, {}), **own}
    return {**own, "preset": name, "generator": family}


def small_widths(name: str) -> Values:
    """The widths of a small preset, which are made for 28 to 32 pixels; nothing of another one."""
    if not name.endswith("_small"):
        return {}
    own = PRESETS[name]
    fields = ("width", "generator_widths", "discriminator_widths")
    return {field: own.get(field, DEFAULTS.get(field)) for field in fields}
