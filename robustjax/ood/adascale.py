"""AdaScale: SCALE with a percentile of its own for each image, by how its features answer a change of few pixels."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from robustjax import checks
from robustjax.numerics import divide
from robustjax.ood.scores import Features, FeaturesFn
from robustjax.types import Images, Number, PerExample


def shift_statistic(
    features_fn: FeaturesFn,
    kernel: Float[Array, "d k"],
    bias: Float[Array, "k"],
    *,
    first: float = 5.0,
    second: float = 1.0,
    weight: float = 10.0,
    pixels: float = 0.05,
    magnitude: float = 0.125,
) -> Callable[[Images], PerExample]:
    """Measure how features move when the pixels that matter least are moved: larger on ID images.

    Pixels of the smallest slopes of the largest logit move by `magnitude` along the sign of the slope, h becomes h'. Of
    the largest features of h: the sum of max(0, h') over `first` per cent of them, plus `weight` times the sum of
    |h - h'| over `second` per cent. It is a constant to gradients.

    Args:
      features_fn: what the last layer reads.
      kernel, bias: of the last layer.
      first, second: in per cent of the features, at least one feature.
      weight: of the movement.
      pixels: share of all values of the image that move.
      magnitude: how far, in the units of x; the result is not cut to the box.
    """

    def statistic(x: Images) -> PerExample:
        x = jax.lax.stop_gradient(x)
        slope = jax.grad(lambda z: (features_fn(z) @ kernel + bias[None]).max(axis=1).sum())(x)
        size = jnp.abs(slope).reshape(x.shape[0], -1)
        count = max(1, int(size.shape[1] * pixels))
        limit = -jax.lax.top_k(-size, count)[0][:, -1]
        moved = jnp.where(size <= limit[:, None], magnitude, 0.0).reshape(x.shape).astype(x.dtype)
        h, other = features_fn(x), features_fn(x + moved * jnp.sign(slope))
        d = h.shape[1]
        kept = _of_largest(h, jnp.maximum(other, 0.0), max(1, int(d * first / 100)))
        return jax.lax.stop_gradient(
            kept + weight * _of_largest(h, jnp.abs(h - other), max(1, int(d * second / 100)))
        )

    return statistic


def percentile_of(value: PerExample, known: Float[Array, "n"], low: Number, high: Number) -> PerExample:
    """Turn a statistic into a percentile: high where no known value is as small, low where all are."""
    below = jnp.searchsorted(known, value, side="right").astype(jnp.float32) / known.shape[0]
    return low + (1 - below) * (high - low)


def gain(features: Features, percentile: PerExample) -> PerExample:
    """Divide the sum of all features by the sum of the largest, those above a percentile of their number."""
    h = jnp.maximum(features, 0.0)
    d = h.shape[1]
    count = jnp.maximum(d - jnp.round(d * percentile / 100), 1.0)
    ordered = jax.lax.top_k(h, d)[0]
    top = jnp.where(jnp.arange(d, dtype=jnp.float32)[None] < count[:, None], ordered, 0.0).sum(axis=1)
    return divide(h.sum(axis=1), top)


def known_values(statistic: np.ndarray) -> Array:
    """Sort the statistic of validation images (n,), to be looked up by `percentile_of`.

    Raises:
      ValueError: if there is none, or one is not finite.
    """
    found = checks.rows("adascale", "statistics", np.asarray(statistic).reshape(-1, 1))
    return jnp.asarray(np.sort(found[:, 0]), jnp.float32)


def _of_largest(features: Features, value: Features, count: int) -> PerExample:
    which = jax.lax.top_k(features, count)[1]
    return jnp.take_along_axis(value, which, axis=1).sum(axis=1)
