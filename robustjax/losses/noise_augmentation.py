"""Several noisy copies of every image in one batch, those of an image next to one another."""

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from robustjax.numerics import keys_for
from robustjax.types import Images, Number


def noisy_copies(key: PRNGKeyArray, x: Images, sigma: Number, copies: int) -> Images:
    """Repeat each image and add N(0, sigma^2): (b copies, h, w, c), rows staying on their devices.

    The noise of an image depends on its own key only, and copies are drawn one after the other.
    """
    keys = keys_for(key, x.shape[0])
    noise = jax.vmap(lambda k: jax.random.normal(k, (copies, *x.shape[1:]), x.dtype))(keys)
    return jnp.repeat(x, copies, axis=0) + sigma * noise.reshape(-1, *x.shape[1:])
