"""RankFeat: the strongest rank-one part of the last feature map removed, then energy."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax import logit
from robustjax.numerics import divide
from robustjax.types import Number, PerExample

SQUARINGS = 8  # of the matrix of inner products: 256 rounds of power iteration


def without_first(maps: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
    """Subtract from each matrix its part along the largest singular value.

    The projection on the first singular vector is the limit of (A A^T)^m / trace. It is reached by squaring, which
    needs no starting vector and has finite gradients also where two singular values are equal; there both are halved.
    """
    wide = maps.shape[1] > maps.shape[2]
    a = jnp.swapaxes(maps, 1, 2) if wide else maps
    inner = _scaled(jnp.matmul(a, jnp.swapaxes(a, 1, 2), precision="highest"))
    for _ in range(SQUARINGS):
        inner = _scaled(jnp.matmul(inner, inner, precision="highest"))
    left = a - jnp.matmul(inner, a, precision="highest")
    return jnp.swapaxes(left, 1, 2) if wide else left


def rankfeat(
    kernel: Float[Array, "d k"], bias: Float[Array, "k"], *, temperature: Number = 1.0
) -> Callable[[Array], PerExample]:
    """Score feature maps by their energy after `without_first`, pooling and the last layer.

    Args:
      kernel, bias: of the last layer, which reads the mean of the map over its positions.
      temperature: of the energy.
    Returns:
      A form of the last feature maps (b, ..., c).
    Raises:
      ValueError: when called on activations that have no positions, of which nothing would be left.

    Reference: Song, Sebe and Wang 2022, arXiv:2209.08590, on the last block ("RankFeat (Block 4)"). The published
      fusion also runs the last block on block 3's map without its first part, which needs the network in two halves.
    """

    def form(maps: Array) -> PerExample:
        if maps.ndim < 3:
            raise ValueError(
                f"rankfeat: the last activations are {maps.shape}, must be feature maps (b, h, w, c) that the last "
                "layer reads pooled"
            )
        flat = maps.astype(jnp.float32).reshape(maps.shape[0], -1, maps.shape[-1])
        pooled = without_first(flat).mean(axis=1)
        return logit.energy(pooled @ kernel + bias[None], temperature=temperature)

    return form


def _scaled(matrix: Float[Array, "b n n"]) -> Float[Array, "b n n"]:
    trace = jnp.trace(matrix, axis1=1, axis2=2)[:, None, None]
    return divide(matrix, trace)
