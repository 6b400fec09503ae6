"""Classifiers of texts. What they say of a text does not depend on the padding behind it."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from jaxnets import ops
from jaxnets.layers import BatchNorm, Conv, Dropout, he_normal
from jaxnets.typing import Array

__all__ = ["VDCNN", "TextCNN"]


class _Embedding(nn.Module):
    """A vector for each token: [B, L] -> [B, L, size], zeros for padding; and what is no padding.

    Tokens are dropped whole, which is to say that they become unknown to the layers above.
    """

    vocabulary: int
    size: int
    dropout: float
    scale: float
    dtype: Dtype

    @nn.compact
    def __call__(self, tokens: Array, *, train: bool) -> tuple[Array, Array]:
        init = nn.initializers.normal(self.scale)
        table = self.param("embedding", init, (self.vocabulary, self.size), jnp.float32)
        real = (tokens > 0)[..., None]
        kept = Dropout(self.dropout)(real.astype(jnp.float32), train=train)
        return jnp.take(table, tokens, axis=0).astype(self.dtype) * kept.astype(self.dtype), real


class TextCNN(nn.Module):
    """Convolutions over three, four and five words, and the maximum of each over the text.

    Features "embedded" [B, L, size] and "penultimate" [B, len(windows) * maps].

    Attributes:
      num_classes: K.
      vocabulary: number of tokens, those for padding (0) and for unknown words (1) included.
      size: of a word's vector.
      windows: words that a convolution sees.
      maps: channels of each convolution.
      dropout: rate before the last layer.
      word_dropout: share of the words that are left out.
      dtype: compute type.

    Reference: Kim 2014, arXiv:1408.5882 (CNN-rand)
    """

    num_classes: int
    vocabulary: int
    size: int = 128
    windows: Sequence[int] = (3, 4, 5)
    maps: int = 100
    dropout: float = 0.5
    word_dropout: float = 0.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array, *, train: bool) -> tuple[Array, dict[str, Array]]:
        """Maps tokens [B, L] to logits [B, K] float32 and features."""
        embedding = _Embedding(
            self.vocabulary, self.size, self.word_dropout, 0.1, self.dtype, name="embedding"
        )
        x, real = embedding(tokens, train=train)
        features, pooled = {"embedded": x}, []
        for window in self.windows:
            conv = Conv(self.maps, (window,), dtype=self.dtype, name=f"conv{window}")
            # After ReLU nothing is less than 0, so what sees only padding can't be the greatest.
            pooled.append((nn.relu(conv(x)) * real).max(axis=1))
        features["penultimate"] = jnp.concatenate(pooled, axis=-1).astype(jnp.float32)
        y = Dropout(self.dropout)(features["penultimate"], train=train)
        return nn.Dense(self.num_classes, name="head")(y), features


class VDCNN(nn.Module):
    """A deep network on characters; features "stage1"... and "penultimate".

    A convolution of 3, then stages of blocks of two convolutions of 3 with BatchNorm, ReLU and a
    shortcut; a pool of 2 stands before every stage but the first. At its end, the maximum over the
    text in place of the paper's eight greatest and two linear layers of 2048.

    Attributes:
      num_classes: K.
      vocabulary: number of tokens, those for padding (0) and for unknown characters (1) included.
      size: of a character's vector.
      blocks: in each stage; (1, 1, 1, 1) makes the 9 convolutions of the smallest published one.
      widths: channels of each stage.
      dropout: rate before the last layer.
      word_dropout: share of the characters that are left out.
      dtype: compute type.

    Reference: Conneau et al. 2017, arXiv:1606.01781
    """

    num_classes: int
    vocabulary: int
    size: int = 16
    blocks: Sequence[int] = (1, 1, 1, 1)
    widths: Sequence[int] = (64, 128, 256, 512)
    dropout: float = 0.5
    word_dropout: float = 0.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array, *, train: bool) -> tuple[Array, dict[str, Array]]:
        """Maps tokens [B, L] to logits [B, K] float32 and features."""
        embedding = _Embedding(
            self.vocabulary, self.size, self.word_dropout, 1.0, self.dtype, name="embedding"
        )
        x, real = embedding(tokens, train=train)

        def conv(x: Array, width: int, window: int, name: str) -> Array:
            layer = Conv(
                width,
                (window,),
                use_bias=False,
                kernel_init=he_normal,
                dtype=self.dtype,
                name=f"{name}_conv",
            )
            return BatchNorm(dtype=self.dtype, name=f"{name}_norm")(layer(x), train=train) * real

        x = nn.relu(conv(x, self.widths[0], 3, "stem"))
        features = {}
        for stage, (count, width) in enumerate(zip(self.blocks, self.widths, strict=True), start=1):
            if stage > 1 and x.shape[1] >= 2:
                # Padding is 0 and nothing else is less, so it never is the greater of two.
                x, real = ops.max_pool(x, (2,), padding="SAME"), real[:, ::2]
            for block in range(1, count + 1):
                name = f"stage{stage}_block{block}"
                y = nn.relu(conv(x, width, 3, f"{name}_1"))
                y = conv(y, width, 3, f"{name}_2")
                if x.shape[-1] != width:
                    x = conv(x, width, 1, f"{name}_shortcut")
                x = nn.relu(x + y)
            features[f"stage{stage}"] = x
        features["penultimate"] = x.max(axis=1).astype(jnp.float32)
        y = Dropout(self.dropout)(features["penultimate"], train=train)
        return nn.Dense(self.num_classes, name="head")(y), features
