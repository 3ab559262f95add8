"""Many normal numbers at once, cheaply on a CPU too.

JAX's own take two words of the generator for each number and, on a CPU, pass over memory again and again; the noise
then takes as long as a small network. Here every word is used and the rounds are written out, which is one pass.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, PRNGKeyArray

from robustjax.types import Keys, Number

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = np.uint32(0x1BD11BDA)


def noisy(key: Keys, x: Array, samples: int, sigma: Number) -> Array:
    """Draw `samples` of x + N(0, sigma^2), independent in every entry: (samples, *x.shape).

    The same for every device; keys of other generators than threefry use `jax.random.normal`.
    """
    if x.dtype != jnp.float32 or jax.random.key_impl(key) != "threefry2x32":
        return x[None] + sigma * jax.random.normal(key, (samples, *x.shape), x.dtype)
    half = -(-samples // 2)
    # Each half is finished before they are joined: XLA:CPU vectorises a join only where nothing follows it.
    parts = [x[None] + sigma * normal(word).reshape(half, *x.shape) for word in words(key, half * x.size)]
    return jnp.concatenate(parts)[:samples]


def words(key: PRNGKeyArray, count: int) -> tuple[Array, Array]:
    """Encrypt the numbers 0 to 2 count - 1, in pairs (i, count + i), by threefry with 20 rounds.

    Returns:
      Two arrays of `count` random uint32, as `jax.extend.random.threefry_2x32` has them in its halves.

    Reference: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    first, second = jax.random.key_data(key)
    schedule = (first, second, first ^ second ^ PARITY)
    i = lax.iota(jnp.uint32, count)
    a, b = i + schedule[0], i + np.uint32(count) + schedule[1]
    for turn in range(5):
        for bits in ROTATIONS[turn % 2]:
            a = a + b
            b = a ^ ((b << np.uint32(bits)) | (b >> np.uint32(32 - bits)))
        a = a + schedule[(turn + 1) % 3]
        b = b + schedule[(turn + 2) % 3] + np.uint32(turn + 1)
    return a, b


def normal(bits: Array) -> Array:
    """Turn random uint32 into standard normal float32, by the inverse of the distribution at 23 of the bits."""
    low = np.nextafter(np.float32(-1), np.float32(0))  # where the inverse is finite
    unit = lax.bitcast_convert_type((bits >> np.uint32(9)) | np.uint32(0x3F800000), jnp.float32) - 1.0
    return math.sqrt(2) * lax.erf_inv(jnp.maximum(unit * (1.0 - low) + low, low))
