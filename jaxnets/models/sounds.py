"""Classifiers of sounds: any network of images on a spectrogram, and one on the wave itself."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from jaxnets import ops
from jaxnets.nn.frontends import LogMel, SpecAugment
from jaxnets.nn.layers import BatchNorm, Conv, Dropout, global_mean, he_normal
from jaxnets.typing import Array

__all__ = ["M5", "OnLogMel"]


class OnLogMel(nn.Module):
    """A classifier of images that sees the log-mel spectrogram of sounds.

    The features are the classifier's own, and "log_mel" [B, frames, bins, 1], without masks.

    Attributes:
      frontend: makes the picture.
      classifier: of pictures of `frontend.shape(T)`; its variables lie under "classifier".
      mask: what is blanked in training.
    """

    frontend: LogMel
    classifier: nn.Module
    mask: SpecAugment

    def __call__(self, x: Array, *, train: bool) -> tuple[Array, dict[str, Array]]:
        """Maps sounds [B, T] in [-1, 1] to logits [B, K] float32 and features."""
        picture = self.frontend(x)
        logits, features = self.classifier(self.mask(picture, train=train), train=train)
        return logits, {**features, "log_mel": picture}


class M5(nn.Module):
    """A convolutional network on the wave; features "stage1" to "stage4" and "penultimate".

    A convolution of 80 samples with stride 4, then three of 3, each followed by BatchNorm, ReLU and
    a pool of 4, which is left out where fewer than 4 places are left.

    Attributes:
      num_classes: K.
      widths: channels of the convolutions.
      dropout: rate before the last layer.
      dtype: compute type.

    Reference: Dai et al. 2017, arXiv:1610.00087
    """

    num_classes: int
    widths: Sequence[int] = (128, 128, 256, 512)
    dropout: float = 0.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, dict[str, Array]]:
        """Maps sounds [B, T] in [-1, 1] to logits [B, K] float32 and features."""
        x, features = x[..., None], {}
        for stage, width in enumerate(self.widths, start=1):
            x = Conv(
                width,
                (80 if stage == 1 else 3,),
                4 if stage == 1 else 1,
                use_bias=False,
                kernel_init=he_normal,
                dtype=self.dtype,
                name=f"conv{stage}",
            )(x)
            x = nn.relu(BatchNorm(dtype=self.dtype, name=f"norm{stage}")(x, train=train))
            if x.shape[1] >= 4:
                x = ops.max_pool(x, (4,), padding="SAME")
            features[f"stage{stage}"] = x
        features["penultimate"] = global_mean(x)
        x = Dropout(self.dropout)(features["penultimate"], train=train)
        return nn.Dense(self.num_classes, name="head")(x), features
