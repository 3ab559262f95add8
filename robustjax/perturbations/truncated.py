"""Standard normal vectors, given that they lie in a ball around the origin."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from robustjax import checks
from robustjax.numerics import keys_for
from robustjax.types import Keys, Radius

POINTS = 4096


def truncated_normal(key: Keys, count: int, dimension: int, radius: Radius) -> Float[Array, "b d"]:
    """Draw N(0, I) given |u| <= radius, without rejection: a direction, and a length by its inverse distribution.

    Args:
      key: one key, or one per example.
      count: examples, b.
      dimension: d.
      radius: of the ball, above 0; one for all, or one per example.
    Returns:
      (count, dimension), every row within its radius.
    Raises:
      ValueError: if a known radius is not positive and finite.
    """
    if checks.concrete(radius):
        for one in np.ravel(np.asarray(radius)):
            checks.positive("truncated_normal", "radius", one)
    keys = keys_for(key, count)
    along, how_far = jax.vmap(jax.random.split, out_axes=1)(keys)
    ray = jax.vmap(lambda k: jax.random.normal(k, (dimension,)))(along)
    share = jax.vmap(jax.random.uniform)(how_far)
    eps = jnp.broadcast_to(jnp.asarray(radius, jnp.float32), (count,))
    length = jax.vmap(lambda e, s: _length(e, s, dimension))(eps, share)
    ray = ray / jnp.linalg.norm(ray, axis=1, keepdims=True)
    # A unit vector in float32 is one up to its last digits.
    return ray * jnp.minimum(length, eps * (1.0 - 1e-6))[:, None]


def _length(eps: Array, share: Array, dimension: int) -> Array:
    """Invert the distribution of the length, of density r^(d - 1) exp(-r^2 / 2) up to eps, on a fine grid.

    The grid covers only where the mass is: around sqrt(d - 1), or, where eps is well below, next to eps. The
    density is taken relative to its largest value, so that probabilities far below any float do no harm.
    """
    power = dimension - 1.0
    mode = jnp.sqrt(power)
    peak = jnp.minimum(eps, mode)
    slope = power / eps - eps  # how fast the log-density still rises at eps
    width = jnp.where(slope > 40.0 / 9.0, 40.0 / jnp.maximum(slope, 1.0), 9.0)
    low, high = jnp.maximum(peak - width, 1e-6 * eps), jnp.minimum(eps, mode + 9.0)
    grid = low + (high - low) * jnp.linspace(0.0, 1.0, POINTS)
    log_density = power * jnp.log(grid / peak if dimension > 1 else grid) - 0.5 * (grid - peak) * (
        grid + peak
    )
    density = jnp.exp(log_density - log_density.max())
    mass = jnp.concatenate([jnp.zeros(1), jnp.cumsum(0.5 * (density[1:] + density[:-1]))])
    return jnp.interp(share * mass[-1], mass, grid)
