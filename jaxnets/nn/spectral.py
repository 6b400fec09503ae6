"""Spectral normalisation of a layer's kernel."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxnets.typing import Array

__all__ = ["SpectralNorm"]

#: Steps of the power iteration before the first training step. A random vector alone says too
#: little of the largest singular value, and the first updates would be made with kernels that are
#: several times too large; PyTorch starts with as many.
_FIRST_STEPS = 15

_TINY = 1e-12


class SpectralNorm(nn.Module):
    """W / sigma(W), where sigma is the largest singular value of the kernel as a matrix.

    The matrix has one row for each output channel, and a column for each input that it sees (tap
    and input channel). sigma = u^T W v, with a vector u [features] that is kept in the collection
    "spectral_norm" and follows the kernel through training:

        v = W^T u / |W^T u|;  in training, once a call, u <- W v / |W v|

    u and v are constants to the gradient, which is then that of the largest singular value (eq. 12
    of the paper). Evaluation leaves u alone, and so does initialisation, but for a first estimate.
    What u becomes depends on the kernel only, so it is equal on all devices as the kernel is. Its
    length does not count: a moving average of it will do.

    Reference: Miyato et al. 2018, https://arxiv.org/abs/1802.05957, algorithm 1
    """

    @nn.compact
    def __call__(self, kernel: Array, *, train: bool) -> Array:
        """Maps a kernel [..., features] to one whose matrix has the spectral norm 1.

        Args:
          kernel: its last axis are the output channels.
          train: whether to move u.

        Returns:
          A kernel of the same shape and type; one of zeros stays zero.
        """
        matrix = kernel.reshape(-1, kernel.shape[-1]).astype(jnp.float32)  # W^T
        fixed = jax.lax.stop_gradient(matrix)
        state = self.variable("spectral_norm", "u", self._first, fixed)
        u = _unit(state.value)
        v = _unit(fixed @ u)
        if train:
            u = _unit(v @ fixed)
            if not self.is_initializing():
                state.value = u
        sigma = v @ matrix @ u
        return (kernel / jnp.maximum(sigma, _TINY)).astype(kernel.dtype)

    def _first(self, matrix: Array) -> Array:
        u = jax.random.normal(self.make_rng("params"), (matrix.shape[-1],), jnp.float32)
        return jax.lax.fori_loop(0, _FIRST_STEPS, lambda _, u: _unit((matrix @ u) @ matrix), u)


def _unit(vector: Array) -> Array:
    return vector / jnp.maximum(jnp.linalg.norm(vector), _TINY)
