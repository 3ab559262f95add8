"""Random landscapes: the plasma fractal by diamond and square steps."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from robustjax.types import Number


def plasma(key: PRNGKeyArray, size: int, decay: Number) -> Float[Array, "n n"]:
    """Draw a periodic landscape in [0, 1]; every scale half as large is decay^2 times less rough.

    From a flat start, the middle of each square becomes the mean of its corners, then the middle of each edge
    the mean of its four neighbours, each time plus a uniform draw from [-w, w]; then the squares are quartered.

    Args:
      key: one key.
      size: of the side, in pixels, a power of two.
      decay: at least 1; it may be traced.
    Raises:
      ValueError: if size is not a power of two.

    Reference: the landscape of CIFAR-10-C's fog, see `parameters`.
    """
    if size < 1 or size & (size - 1):
        raise ValueError(f"plasma: size is {size}, must be a power of two")
    corners, rough = jnp.zeros((1, 1)), jnp.ones(())
    # One draw for all scales: each further one would cost a second of compilation.
    draws = jax.random.uniform(key, (size * size - 1,), minval=-1.0, maxval=1.0)
    while len(corners) < size:
        count = corners.size
        wobble = rough * draws[count - 1 : 4 * count - 1].reshape(3, *corners.shape)
        beside, under = corners + jnp.roll(corners, -1, axis=1), corners + jnp.roll(corners, -1, axis=0)
        middles = (beside + jnp.roll(beside, -1, axis=0)) / 4.0 + wobble[0]
        across = (beside + middles + jnp.roll(middles, 1, axis=0)) / 4.0 + wobble[1]
        down = (under + middles + jnp.roll(middles, 1, axis=1)) / 4.0 + wobble[2]
        # Interleave the four lattices into one of twice the size.
        finer = jnp.stack(
            [jnp.stack([corners, across], axis=-1), jnp.stack([down, middles], axis=-1)], axis=1
        )
        corners, rough = finer.reshape(2 * len(corners), -1), rough / jnp.square(decay)
    land = corners - corners.min()
    return land / jnp.maximum(land.max(), 1e-12)


def covering(height: int, width: int) -> int:
    """Give the smallest power of two that is no less than either side."""
    return 1 << (max(height, width, 1) - 1).bit_length()
