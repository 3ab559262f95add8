"""Noise on one part of an image: on what a mask covers, or, with its complement, on the rest."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from robustjax import checks
from robustjax.numerics import divide, keys_for, norm, per_example
from robustjax.types import Images, Keys, Radius

SoftMask = Float[Array, "b h w"]  # in [0, 1]


def gaussian(key: Keys, x: Images, mask: SoftMask, sigma: Radius) -> Images:
    """Add normal noise of standard deviation sigma times the mask: clip(x + sigma m z, 0, 1).

    Published code calls it linf noise, although nothing bounds it.

    Args:
      key: one key, or one per example.
      x: images in [0, 1].
      mask: where, and how much.
      sigma: in the units of x; one number, or one per example.
    """
    return jnp.clip(x + per_example(sigma, x) * _masked(key, x, mask), 0.0, 1.0)


def of_length(key: Keys, x: Images, mask: SoftMask, length: Radius) -> Images:
    """Add masked normal noise scaled to an l2 norm: clip(x + length q / |q|, 0, 1) with q = m z.

    Object and background get the same norm, whatever area they have. Where the mask is empty, x stays.

    Args:
      key, x, mask: as in `gaussian`.
      length: before clipping, in the units of x over all pixels; one number, or one per example.
    """
    noise = _masked(key, x, mask)
    unit = divide(noise, per_example(norm(noise, "l2"), noise))
    return jnp.clip(x + per_example(length, x) * unit, 0.0, 1.0)


def dilated(mask: SoftMask, *, times: int = 15) -> SoftMask:
    """Grow a mask by a cross of 5 x 5, several times: the core region of Salient ImageNet-1M.

    Raises:
      ValueError: if times is negative.
    """
    checks.count("noise.dilated", "times", times, least=0)

    def grow(_, m):
        rows, columns = (
            lax.reduce_window(m, 0.0, lax.max, window, (1, 1, 1), "SAME") for window in ((1, 5, 1), (1, 1, 5))
        )
        return jnp.maximum(rows, columns)

    return lax.fori_loop(0, times, grow, mask)


def _masked(key: Keys, x: Images, mask: SoftMask) -> Images:
    keys = keys_for(key, x.shape[0])
    noise = jax.vmap(lambda k: jax.random.normal(k, x.shape[1:], x.dtype))(keys)
    return mask[..., None] * noise
