"""What Pillow's affine transforms do to an 8-bit image, as array code on one image of whole numbers from 0 to 255."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from robustjax.data.pillow_tones import Levels

Fill = Int[Array, "c"]
_ONE = 1 << 16  # Pillow's nearest neighbours are found in fixed point


def sheared(image: Levels, slope: Float[Array, ""], fill: Fill) -> Levels:
    """Shift row y by slope (y + 1/2) columns to the left, by bicubic interpolation, rounding down.

    Pillow computes in float64, and may come out one apart.
    """
    h, w, _ = image.shape
    row, column = jnp.mgrid[:h, :w]
    at = column.astype(jnp.float32) + 0.5 + slope * (row.astype(jnp.float32) + 0.5)
    first = jnp.floor(at - 0.5)
    t = (at - 0.5 - first)[..., None]
    taps = [
        jnp.take_along_axis(image, jnp.clip(first.astype(jnp.int32) + i, 0, w - 1)[..., None], axis=1).astype(
            jnp.float32
        )
        for i in (-1, 0, 1, 2)
    ]
    a, b, c, d = taps
    value = b + t * (c - a + t * (2.0 * (a - b) + c - d + t * (b - a - c + d)))
    # Places on the very edge are frequent, and float32 must not tell them apart from those beyond it.
    inside = ((at >= -1e-5) & (at < w - 1e-5))[..., None]
    return jnp.where(inside, jnp.clip(jnp.floor(value), 0, 255).astype(jnp.int32), fill[None, None])


def moved(image: Levels, matrix: Int[Array, "6"], fill: Fill) -> Levels:
    """Take from each place (x, y) of the result the pixel under a x + b y + c, d x + e y + f, in fixed point."""
    h, w, _ = image.shape
    y, x = jnp.mgrid[:h, :w]
    a, b, c, d, e, f = matrix
    column, row = (a * x + b * y + c) >> 16, (d * x + e * y + f) >> 16
    inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
    found = image[jnp.clip(row, 0, h - 1), jnp.clip(column, 0, w - 1)]
    return jnp.where(inside[..., None], found, fill[None, None])


def translation(right: float, down: float) -> np.ndarray:
    """Write the matrix of `moved` that reads so many pixels further right and down."""
    across, along = math.floor(right + 0.5), math.floor(down + 0.5)
    half = _ONE // 2
    return np.array([_ONE, 0, across * _ONE + half, 0, _ONE, along * _ONE + half], np.int32)


def rotation(degrees: float, size: tuple[int, int]) -> np.ndarray:
    """Write the matrix of `moved` that turns an image of (height, width) counter-clockwise about its centre."""
    h, w = size
    angle = -math.radians(degrees)
    a, b = round(math.cos(angle), 15), round(math.sin(angle), 15)
    d, e = round(-math.sin(angle), 15), a
    c = a * (-w / 2) + b * (-h / 2) + w / 2
    f = d * (-w / 2) + e * (-h / 2) + h / 2
    places = (a, b, c + 0.5 * (a + b), d, e, f + 0.5 * (d + e))
    return np.array([math.floor(v * _ONE + 0.5) for v in places], np.int32)
