"""What Square puts where: window sides that shrink, bumps of two signs, and tilings of them."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from robustjax.numerics import Norm

HALVINGS = (
    10,
    50,
    200,
    500,
    1000,
    2000,
    4000,
    6000,
    8000,
)  # the share of features halves after these queries


def sides(height: int, width: int, share: float, *, odd: bool) -> Int[np.ndarray, "10 2"]:
    """List rows and columns of the window for each of the ten phases, from `share` of the features downwards.

    Windows are squares; those for bumps have an odd side, and of 3 or more where the image has 5 or more.
    Where it is too narrow for the square, the other side grows instead, so that a window covers its share of
    images of every shape, 1 x d included.
    """
    table, least = [], 3 if odd and min(height, width) >= 5 else 1
    for phase in range(len(HALVINGS) + 1):
        area = share / 2**phase * height * width
        side = max(round(area**0.5), least)
        side += odd and side % 2 == 0
        rows, columns = min(side, height), min(side, width)
        if rows < side:
            columns = min(width, max(side, round(area / rows)))
        elif columns < side:
            rows = min(height, max(side, round(area / columns)))
        table.append((rows, columns))
    return np.array(table, np.int32)


def phase(query: Int[Array, "b"]) -> Int[Array, "b"]:
    """Say which of the ten phases a query, counted from 0, belongs to."""
    return (query[:, None] > jnp.asarray(HALVINGS)[None]).sum(axis=1, dtype=jnp.int32)


def window(
    rows: Array, columns: Array, top: Array, left: Array, height: int, width: int
) -> Bool[Array, "b h w 1"]:
    """Mark each example's rectangle of the given size and corner."""
    down, right = jnp.arange(height)[None] - top[:, None], jnp.arange(width)[None] - left[:, None]
    inside = ((down >= 0) & (down < rows[:, None]))[:, :, None] & ((right >= 0) & (right < columns[:, None]))[
        :, None
    ]
    return inside[..., None]


def bumps(
    kind: Norm, rows: Array, columns: Array, top: Array, left: Array, sideways: Array, height: int, width: int
) -> Float[Array, "b h w 1"]:
    """Draw two bumps of opposite signs and equal norms, one above the other or side by side; norm 1 in all.

    A bump over a x b features is the sum of (i + 1)^-q over the centred squares of radius i that hold the
    feature, i from 0 to max(a // 2, b // 2), with q = 2 for l2 and 4 for l1.

    Args:
      kind: "l2" or "l1".
      rows, columns, top, left: the rectangle of each example, int32 (b,).
      sideways: True for side by side, bool (b,).
      height, width: of the image.
    """
    inside = window(rows, columns, top, left, height, width)[..., 0]
    cut = [v[:, None, None] for v in (rows, columns, sideways)]
    down = jnp.arange(height)[None, :, None] - top[:, None, None]
    right = jnp.arange(width)[None, None] - left[:, None, None]
    along, across = jnp.where(cut[2], right, down), jnp.where(cut[2], down, right)
    length, breadth = jnp.where(cut[2], cut[1], cut[0]), jnp.where(cut[2], cut[0], cut[1])

    half = length // 2
    first = along < half
    size = jnp.where(first, half, length - half)
    distance = jnp.maximum(
        jnp.abs(along - jnp.where(first, 0, half) - size // 2), jnp.abs(across - breadth // 2)
    )
    reach = max(height, width) // 2 + 1
    table = jnp.asarray(_tails(reach, 2 if kind == "l2" else 4))
    value = jnp.where(inside, table[jnp.maximum(size // 2, breadth // 2), jnp.clip(distance, 0, reach)], 0.0)

    def unit(v):
        # Where a window is one feature thick, the first bump is empty.
        total = (
            jnp.square(v).sum((1, 2), keepdims=True) ** 0.5 if kind == "l2" else v.sum((1, 2), keepdims=True)
        )
        return jnp.where(total > 0, v / jnp.where(total > 0, total, 1.0), 0.0)

    upper, lower = unit(jnp.where(first, value, 0.0)), unit(jnp.where(first, 0.0, value))
    both = half > 0
    weight = jnp.where(both, 0.5**0.5 if kind == "l2" else 0.5, 1.0)
    return (weight * (upper - lower))[..., None]


def _tails(reach: int, power: int) -> Float[np.ndarray, "m m"]:
    """Tabulate sum_{i=d}^{m} (i + 1)^-power at [m, d]; 0 for d > m."""
    terms = np.tile(1.0 / np.arange(1, reach + 2) ** power, (reach + 1, 1))
    return np.tril(terms)[:, ::-1].cumsum(axis=1)[:, ::-1].astype(np.float32)
