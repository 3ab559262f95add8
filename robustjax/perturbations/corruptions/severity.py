"""Real severities: parameters between the rows of a table, and one image's corruption lifted to a batch."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from robustjax import checks
from robustjax.numerics import constant, keys_for
from robustjax.types import Images, Keys, Radius

Image = Float[Array, "h w c"]
OneImage = Callable[[PRNGKeyArray, Image, Scalar], Image]


def at(table: np.ndarray, severity: Scalar) -> Array:
    """Interpolate linearly between the rows of a table (6, ...), whose row s is for severity s.

    Severities outside [0, 5] count as the nearest end. At a whole severity the row itself results, and the
    gradient is that of the next piece (at 5, of the last).
    """
    rows = jnp.asarray(table)
    # Not a clip, whose gradient at 0 and 5 would be half.
    severity = jnp.where(severity < 0, 0.0, jnp.where(severity > 5, 5.0, severity))
    low = jnp.clip(jnp.floor(severity), 0, 4)
    share, low = severity - low, low.astype(jnp.int32)
    return (1.0 - share) * rows[low] + share * rows[low + 1]


def each(one: OneImage, key: Keys, x: Images, severity: Radius) -> Images:
    """Corrupt every image of a batch with its own key and severity, and clip to [0, 1].

    Raises:
      ValueError: for images that are no floats in [0, 1], or another number of severities.
    """
    who = one.__qualname__.partition(".")[0]
    checks.floats(who, x)
    if jnp.shape(severity) not in ((), (x.shape[0],)):
        raise ValueError(f"{who}: severities have shape {jnp.shape(severity)}, must be () or ({x.shape[0]},)")
    keys, severities = keys_for(key, x.shape[0]), constant(x, severity)
    return jnp.clip(jax.vmap(one)(keys, x, severities), 0.0, 1.0)
