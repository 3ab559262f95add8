"""Changes of colour: equal colours stay equal, and near ones near."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax import checks
from robustjax.perturbations.sets import PerturbationSet
from robustjax.threats import Threat
from robustjax.types import Images, Keys


def recolour(
    limit: float, *, channels: int = 3, nodes: int = 4, lower: float = 0.0, upper: float = 1.0
) -> PerturbationSet:
    """Move the colours of each image by a function of the colour alone: x + limit * change(x; u) with u in [-1, 1].

    The change is given at the nodes of a grid over all colours and linear between them in each channel, so all pixels
    of a colour move alike, and no channel by more than `limit`. Results are clipped to the box.

    Args:
      limit: the largest change of a channel, in the units of x.
      channels: of the images; grey images have one.
      nodes: of the grid in each channel, at least two.
      lower, upper: the box that colours lie in.
    Returns:
      A set of channels * nodes ** channels parameters.
    Raises:
      ValueError: if limit is negative, a number is out of range, the box is empty, or images have other channels.

    Reference: Laidlaw and Feizi 2019, arXiv:1906.00001 (ReColorAdv). Deviation: the grid lies over the channels as they
      are, not over CIELUV, and no term asks for a smooth grid.
    """
    checks.number("recolour", "limit", limit, least=0)
    checks.count("recolour", "channels", channels)
    checks.count("recolour", "nodes", nodes, least=2)
    if not lower < upper:
        raise ValueError(f"recolour: lower is {lower} and upper {upper}, must rise")

    def decode(key: Keys, x: Images, u: Array) -> Images:
        del key
        if x.shape[-1] != channels:
            raise ValueError(f"recolour: images have {x.shape[-1]} channels, must have {channels}")
        grids = u.reshape(len(x), *(nodes,) * channels, channels)
        place = (jnp.clip(x, lower, upper) - lower) * ((nodes - 1) / (upper - lower))
        moved = x + limit * jax.vmap(_between)(grids, place.reshape(len(x), -1, channels)).reshape(x.shape)
        return jnp.clip(moved, lower, upper)

    return PerturbationSet(decode, Threat("linf", 1.0, -1.0, 1.0), channels * nodes**channels)


def _between(grid: Float[Array, "*nodes c"], place: Float[Array, "p c"]) -> Float[Array, "p c"]:
    """Interpolate linearly in every channel, between the corners of the cell that a colour lies in."""
    nodes, channels = grid.shape[0], place.shape[1]
    first = jnp.clip(jnp.floor(place).astype(jnp.int32), 0, nodes - 2)
    share = place - first.astype(place.dtype)
    total = jnp.zeros_like(place)
    for corner in range(2**channels):
        upper = [corner >> i & 1 for i in range(channels)]
        index = tuple(first[:, i] + step for i, step in enumerate(upper))
        weight = jnp.ones_like(place[:, 0])
        for i, step in enumerate(upper):
            weight = weight * (share[:, i] if step else 1.0 - share[:, i])
        total = total + weight[:, None] * grid[index]
    return total
