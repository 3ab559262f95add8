"""A pool of earlier results that a critic is shown again, as a pure state."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from robustjax import checks
from robustjax.numerics import keys_for


class ImagePool(NamedTuple):
    """Earlier results, (n, ...), and how many of the rows are filled."""

    rows: Float[Array, "n ..."]
    filled: Int[Array, ""]


def empty(size: int, shape: tuple[int, ...]) -> ImagePool:
    """Make room for `size` results of a shape.

    Raises:
      ValueError: if there is room for none.
    """
    checks.count("empty", "size", size)
    return ImagePool(jnp.zeros((size, *shape), jnp.float32), jnp.zeros((), jnp.int32))


def exchanged(
    key: PRNGKeyArray, pool: ImagePool | None, new: Float[Array, "b ..."]
) -> tuple[Array, ImagePool | None]:
    """Pass every new result on, or keep it and pass on an earlier one; without a pool all are passed on.

    As long as the pool is not full, a result is stored and passed on as well. After that, with probability one half,
    it takes the place of a random earlier one, which is passed on.

    Reference: Shrivastava et al. 2017, arXiv:1612.07828, in the variant of CycleGAN's code. One row after another.
    """
    if pool is None:
        return new, None
    size = pool.rows.shape[0]

    def one(pool: ImagePool, item: tuple[Array, Array]) -> tuple[ImagePool, Array]:
        key, row = item
        coin, place = jax.random.split(key)
        room = pool.filled < size
        at = jnp.where(room, pool.filled, jax.random.randint(place, (), 0, size))
        swap = ~room & jax.random.bernoulli(coin)
        out = jnp.where(swap, pool.rows[at], row)
        rows = pool.rows.at[at].set(jnp.where(room | swap, row, pool.rows[at]))
        return ImagePool(rows, pool.filled + room.astype(jnp.int32)), out

    after, out = jax.lax.scan(one, pool, (keys_for(key, len(new)), new))
    return out, after
