"""Smooth flows: every pixel is read from a place nearby, and neighbours from neighbouring places."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax import checks
from robustjax.perturbations.sampling import Border, bilinear, check_border
from robustjax.perturbations.sets import PerturbationSet
from robustjax.threats import Threat
from robustjax.types import Images, Keys


def flow(limit: float, *, nodes: tuple[int, int] = (4, 4), border: Border = "edge") -> PerturbationSet:
    """Move the pixels of each image by a field of displacements: x(place + limit * field(u)) with u in [-1, 1].

    The field is given at the nodes of a grid from corner to corner and linear between them, so it is as smooth as the
    grid is coarse, and no pixel is read from further than `limit` away, down or right.

    Args:
      limit: the largest displacement in each direction, in pixels.
      nodes: rows and columns of the grid, at least two each; those of the image give every pixel its own.
      border: what is read from outside, see `sampling.bilinear`.
    Returns:
      A set of 2 rows columns parameters: displacements down, then right, row by row.
    Raises:
      ValueError: if limit is negative, a number of nodes below 2 or the border unknown.

    Reference: Xiao et al. 2018, arXiv:1801.02612 (stAdv). Deviation: the authors penalise the total variation of a
      free field; here the grid and the limit bound it, so that every solver for a ball may search.
    """
    checks.number("flow", "limit", limit, least=0)
    for name, count in zip(("rows of nodes", "columns of nodes"), nodes, strict=True):
        checks.count("flow", name, count, least=2)
    check_border("flow", border)

    def decode(key: Keys, x: Images, u: Array) -> Images:
        del key
        return jax.vmap(lambda image, moves: _read(image, limit * moves.reshape(2, *nodes), border))(x, u)

    return PerturbationSet(decode, Threat("linf", 1.0, -1.0, 1.0), 2 * math.prod(nodes))


def _read(
    image: Float[Array, "h w c"], moves: Float[Array, "2 m n"], border: Border
) -> Float[Array, "h w c"]:
    height, width = image.shape[:2]
    row, column = jnp.meshgrid(
        jnp.arange(height, dtype=moves.dtype), jnp.arange(width, dtype=moves.dtype), indexing="ij"
    )
    # Where a pixel lies between the nodes; an image of one row or column lies on the first.
    at = (
        row * ((moves.shape[1] - 1) / max(height - 1, 1)),
        column * ((moves.shape[2] - 1) / max(width - 1, 1)),
    )
    down, right = jnp.moveaxis(bilinear(jnp.moveaxis(moves, 0, -1), *at, "edge"), -1, 0)
    return bilinear(image, row + down, column + right, border)
