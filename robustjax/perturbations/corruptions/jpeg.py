"""JPEG compression without a file: quantised cosines, chroma at half size, straight-through gradients."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from robustjax.perturbations.corruptions import parameters
from robustjax.perturbations.corruptions.severity import at, each
from robustjax.perturbations.corruptions.smoothing import interpolation, separable
from robustjax.types import Images, Keys, Number, Radius

LUMA = np.asarray(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float32,
)
CHROMA = np.full((8, 8), 99, np.float32)
CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
TO_YCBCR = np.asarray(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32
)


def jpeg_compression(key: Keys, x: Images, severity: Radius) -> Images:
    """Compress and decompress; below severity 1 mix with the image. Nothing is random."""

    def one(key, image, severity):
        del key
        quality, weight = at(parameters.JPEG_COMPRESSION, severity)
        return (1.0 - weight) * image + weight * compressed(image, quality)

    return each(one, key, x, severity)


def compressed(image: Float[Array, "h w c"], quality: Number) -> Float[Array, "h w c"]:
    """Give what is left of one image in [0, 1] after JPEG compression.

    Three channels become luma and chroma, chroma at half the size (4:2:0); any other number are compressed
    each like luma. Rounding counts as the identity in the gradient, so that image and quality have one.

    Args:
      image: (h, w, c) of any size; it is continued by its last row and column.
      quality: 1 to 100, in the sense of libjpeg; it may be traced.

    Reference: ITU T.81, the tables of its annex K, and libjpeg's scaling, chroma filters and rounding; only the
      result itself is not rounded to 8 bits. A coefficient next to the middle of two steps may be rounded the other
      way, which changes its block: some values in a hundred then differ from Pillow's, by up to 20 levels.
    """
    height, width, channels = image.shape
    levels = 255.0 * image
    if channels != 3:
        return (_through_blocks(levels - 128.0, _scaled(LUMA, quality)) + 128.0) / 255.0
    rotation = jnp.asarray(TO_YCBCR)
    colours = jnp.einsum("hwc,dc->hwd", levels, rotation, precision=jax.lax.Precision.HIGHEST)
    luma, chroma = jnp.split(_rounded(colours, jnp.round), [1], axis=-1)
    luma = _through_blocks(luma - 128.0, _scaled(LUMA, quality)) + 128.0
    small = separable(chroma, *(jnp.asarray(_halving(n)) for n in (height, width)))
    # Means of four that end in a half or a quarter go down and up by turns, so that no drift results.
    turns = jnp.where(jnp.arange(small.shape[1]) % 2 == 0, 0.25, 0.5)[None, :, None]
    small = _rounded(small, lambda plane: jnp.floor(plane + turns))
    small = _through_blocks(small, _scaled(CHROMA, quality))
    chroma = _rounded(separable(small, *(_doubling(n) for n in (height, width))), jnp.round)
    back = jnp.asarray(np.linalg.inv(TO_YCBCR.astype(np.float64)).astype(np.float32))
    joined = jnp.concatenate([luma, chroma], axis=-1)
    return jnp.einsum("hwc,dc->hwd", joined, back, precision=jax.lax.Precision.HIGHEST) / 255.0


def _through_blocks(plane: Float[Array, "h w c"], table: Float[Array, "8 8"]) -> Float[Array, "h w c"]:
    """Round the cosine coefficients of blocks of 8 x 8 to multiples of the table."""
    height, width, channels = plane.shape
    plane = jnp.pad(plane, ((0, -height % 8), (0, -width % 8), (0, 0)), mode="edge")
    rows, columns = plane.shape[0] // 8, plane.shape[1] // 8
    blocks = plane.reshape(rows, 8, columns, 8, channels)
    cosine, precision = jnp.asarray(_cosines()), jax.lax.Precision.HIGHEST
    waves = jnp.einsum("ui,ribjc,vj->rubvc", cosine, blocks, cosine, precision=precision)
    table = table[None, :, None, :, None]
    waves = _rounded(waves / table, lambda waves: _to_levels(waves * table, table)) * table
    blocks = jnp.einsum("ui,rubvc,vj->ribjc", cosine, waves, cosine, precision=precision)
    # A decoder keeps to the 256 levels.
    plane = _rounded(blocks.reshape(plane.shape)[:height, :width], jnp.round)
    return jnp.clip(plane, -128.0, 127.0)


def _scaled(table: np.ndarray, quality: Number) -> Float[Array, "8 8"]:
    """Scale a table for a quality as libjpeg does, in percent: 200 - 2 q from 50 on, 5000 / q below."""
    percent = jnp.where(jnp.asarray(quality) < 50, 5000.0 / quality, 200.0 - 2.0 * quality)
    # The small number keeps whole hundreds whole where a device divides carelessly.
    exact = (jnp.asarray(table) * percent + 50.0) / 100.0 + 1e-3
    return jnp.clip(_rounded(exact, jnp.floor), 1.0, 255.0)


def _to_levels(waves: Array, table: Array) -> Array:
    """Round to multiples of the table as libjpeg does: to eighths first, then halves away from zero."""
    eighths = jnp.round(8.0 * jnp.abs(waves)) / 8.0
    return jnp.sign(waves) * jnp.floor(eighths / table + (0.5 + 1e-5))


def _rounded(x: Array, to) -> Array:
    return x + jax.lax.stop_gradient(to(x) - x)


def _cosines() -> np.ndarray:
    """The orthonormal cosine transform of eight values."""
    u = np.arange(8)
    basis = np.cos(np.pi * u[:, None] * (2 * u + 1) / 16) / 2
    basis[0] /= np.sqrt(2)
    return basis.astype(np.float32)


def _halving(size: int) -> np.ndarray:
    """Average pairs, the last pixel of an odd line with itself."""
    half = (size + 1) // 2
    matrix = np.zeros((half, size), np.float32)
    for i in range(half):
        matrix[i, 2 * i] += 0.5
        matrix[i, min(2 * i + 1, size - 1)] += 0.5
    return matrix


def _doubling(size: int) -> Array:
    """Interpolate between the middles of pairs."""
    half = (size + 1) // 2
    place = np.clip((np.arange(size) + 0.5) / 2 - 0.5, 0, half - 1)
    return interpolation(jnp.asarray(place, jnp.float32), half)
