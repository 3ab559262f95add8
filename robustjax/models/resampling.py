"""Change the size of feature maps, by one matrix for rows and one for columns."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Maps = Float[Array, "b h w c"]


def adaptive_average(x: Maps, size: tuple[int, ...]) -> Float[Array, "b i j c"]:
    """Average over `size` windows: the i-th of n covers floor(i h / n) up to ceil((i + 1) h / n)."""

    def weights(old: int, new: int) -> np.ndarray:
        matrix = np.zeros((new, old))
        for i in range(new):
            first, last = i * old // new, -(-(i + 1) * old // new)
            matrix[i, first:last] = 1.0 / (last - first)
        return matrix

    return _apply(x, size, weights)


def stretch(x: Maps, size: tuple[int, ...]) -> Float[Array, "b i j c"]:
    """Interpolate linearly so that the first and last pixels keep their places at the corners."""
    return _apply(x, size, lambda old, new: _linear(np.arange(new) * (old - 1) / max(new - 1, 1), old))


def resize(x: Maps, size: tuple[int, ...]) -> Float[Array, "b i j c"]:
    """Interpolate linearly between pixel centres, edges aligned, without smoothing when it shrinks."""
    return _apply(x, size, lambda old, new: _linear((np.arange(new) + 0.5) * old / new - 0.5, old))


def _linear(places: np.ndarray, old: int) -> np.ndarray:
    """Write linear interpolation at real places as a matrix; beyond the border the last pixel goes on."""
    places = np.clip(places, 0, old - 1)
    first = np.minimum(np.floor(places).astype(int), max(old - 2, 0))
    matrix = np.zeros((len(places), old))
    rows = np.arange(len(places))
    matrix[rows, first] += 1.0 - (places - first)
    matrix[rows, np.minimum(first + 1, old - 1)] += places - first
    return matrix


def _apply(
    x: Maps, size: tuple[int, ...], weights: Callable[[int, int], np.ndarray]
) -> Float[Array, "b i j c"]:
    if tuple(x.shape[1:3]) == tuple(size):
        return x
    rows, columns = (
        jnp.asarray(weights(old, new), x.dtype) for old, new in zip(x.shape[1:3], size, strict=True)
    )
    # Positions in full precision, also where products are fast and coarse by default.
    return jnp.einsum("ih,bhwc,jw->bijc", rows, x, columns, precision=jax.lax.Precision.HIGHEST)
