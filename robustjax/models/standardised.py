"""Networks that standardise each image by itself, instead of by constants of a data set."""

import math

import jax
import jax.numpy as jnp

from robustjax.types import Images, Model


def standardised(model: Model) -> Model:
    """Let a network see (x - mean) / max(std, 1 / sqrt(n)), of the n numbers of an image.

    Mean and standard deviation (that of a sample, with n - 1) are over rows, columns and channels together, and
    gradients flow through them.

    Args:
      model: without a normalisation of its own.

    Reference: TensorFlow's per-image standardisation, as in Ding et al. 2020, arXiv:1812.02637.
    """

    def seen(x: Images) -> Images:
        x = x.astype(jnp.float32)
        count = math.prod(x.shape[1:])
        centred = x - x.mean(axis=(1, 2, 3), keepdims=True)
        variance = (centred**2).sum(axis=(1, 2, 3), keepdims=True) / (count - 1)
        # Not the root of a maximum: its gradient at a constant image would be 0 times infinity.
        return centred * jax.lax.rsqrt(jnp.maximum(variance, 1 / count))

    def apply(params, state, x, *, train=False, key=None):
        return model.apply(params, state, seen(x), train=train, key=key)

    maps = model.maps
    return Model(
        model.init,
        apply,
        lambda params, state, x: model.features(params, state, seen(x)),
        None if maps is None else lambda params, state, x: maps(params, state, seen(x)),
    )
