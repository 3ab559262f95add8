"""Several samples of noise for every image in one batch, those of an image next to one another."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.numerics import keys_for
from robustjax.types import Inputs, Keys, Number


def noise_augmented(key: Keys, x: Inputs, *, sigma: Number, samples: int) -> Float[Array, "n ..."]:
    """Repeat each image and add N(0, sigma^2): (b samples, h, w, c), rows staying on their devices.

    The noise of an image depends on its own key only, and samples are drawn one after the other.
    """
    keys = keys_for(key, x.shape[0])
    noise = jax.vmap(lambda k: jax.random.normal(k, (samples, *x.shape[1:]), x.dtype))(keys)
    return jnp.repeat(x, samples, axis=0) + sigma * noise.reshape(-1, *x.shape[1:])
