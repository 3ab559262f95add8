"""Gaussian, shot, impulse and speckle noise."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from robustjax.perturbations.corruptions import parameters
from robustjax.perturbations.corruptions.draws import normal, uniform
from robustjax.perturbations.corruptions.severity import at, each
from robustjax.types import Images, Keys, Radius


def gaussian_noise(key: Keys, x: Images, severity: Radius) -> Images:
    """Add sigma z with z normal."""

    def one(key, image, severity):
        return image + at(parameters.GAUSSIAN_NOISE[:, 0], severity) * normal(key, image.shape)

    return each(one, key, x, severity)


def speckle_noise(key: Keys, x: Images, severity: Radius) -> Images:
    """Add sigma x z with z normal."""

    def one(key, image, severity):
        return image + at(parameters.SPECKLE_NOISE[:, 0], severity) * image * normal(key, image.shape)

    return each(one, key, x, severity)


def impulse_noise(key: Keys, x: Images, severity: Radius) -> Images:
    """Replace a share of the values by 0 or 1, as often the one as the other; channels are hit on their own.

    A value hit at one severity stays so at all higher ones. The severity has no gradient.
    """

    def one(key, image, severity):
        where, which = jax.random.split(key)
        hit = uniform(where, image.shape) < at(parameters.IMPULSE_NOISE[:, 0], severity)
        salt = (uniform(which, image.shape) < 0.5).astype(image.dtype)
        return jnp.where(hit, salt, image)

    return each(one, key, x, severity)


def shot_noise(key: Keys, x: Images, severity: Radius) -> Images:
    """Count photons: k / rate with k Poisson of mean rate x.

    The standard deviation, rate^(-1/2), is what is interpolated. Forwards the counts are whole numbers; the
    gradient sees x + (x / rate)^(1/2) r with the standardised count r fixed.

    Reference: see `parameters`. Counts are quantiles of normal draws, see `poisson`, so that they move little
      where the severity does.
    """

    def one(key, image, severity):
        deviation = at(1.0 / np.sqrt(parameters.SHOT_NOISE[:, 0]), severity)
        z = normal(key, image.shape)
        # Beyond a million photons the noise is far below a grey level, and float32 can count no further.
        mean = jnp.minimum(image / jnp.maximum(jnp.square(deviation), 1e-12), 1e6)
        residue = jnp.where(mean > 0, (poisson(z, mean) - mean) / jnp.sqrt(jnp.maximum(mean, 1e-12)), 0.0)
        root = jnp.where(image > 0, jnp.sqrt(jnp.where(image > 0, image, 1.0)), 0.0)
        return image + deviation * root * jax.lax.stop_gradient(residue)

    return each(one, key, x, severity)


def poisson(z: Array, mean: Array) -> Array:
    """Turn normal draws into Poisson counts: the smallest k with P(K <= k) >= Phi(z).

    Means up to 12 by summing probabilities, larger ones by a Cornish-Fisher expansion to third order, which
    is off by one count at times. Cost and result are the same on every device and for every kind of key.
    """
    few = jnp.minimum(mean, 12.0)
    below = jax.scipy.special.ndtr(z)

    def count(j, carry):
        k, term, total = carry
        total = total + term
        return k + (below > total).astype(z.dtype), term * few / (j + 1).astype(z.dtype), total

    start = (jnp.zeros_like(few), jnp.exp(-few), jnp.zeros_like(few))
    exact, _, _ = jax.lax.fori_loop(0, 40, count, start)
    sigma = jnp.sqrt(jnp.maximum(mean, 12.0))
    place = mean + sigma * z + (jnp.square(z) - 1.0) / 6.0 + (z - z**3) / (72.0 * sigma)
    return jnp.where(mean <= 12.0, exact, jnp.maximum(jnp.ceil(place - 0.5), 0.0))
