"""Brightness, contrast, saturation, coarse pixels and elastic deformation."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from robustjax.numerics import divide
from robustjax.perturbations.corruptions import parameters
from robustjax.perturbations.corruptions.draws import uniform
from robustjax.perturbations.corruptions.severity import at, each
from robustjax.perturbations.corruptions.smoothing import gaussian, separable
from robustjax.perturbations.sampling import bilinear
from robustjax.types import Images, Keys, Radius


def brightness(key: Keys, x: Images, severity: Radius) -> Images:
    """Raise the value of HSV, the largest channel, at fixed hue and saturation. Nothing is random."""

    def one(key, image, severity):
        del key
        value = image.max(axis=-1, keepdims=True)
        brighter = jnp.clip(value + at(parameters.BRIGHTNESS[:, 0], severity), 0.0, 1.0)
        return jnp.where(value > 0, divide(image, value), 1.0) * brighter

    return each(one, key, x, severity)


def contrast(key: Keys, x: Images, severity: Radius) -> Images:
    """Move every value towards the mean of its channel. Nothing is random."""

    def one(key, image, severity):
        del key
        mean = image.mean(axis=(0, 1), keepdims=True)
        return (image - mean) * at(parameters.CONTRAST[:, 0], severity) + mean

    return each(one, key, x, severity)


def saturate(key: Keys, x: Images, severity: Radius) -> Images:
    """Scale and shift the saturation of HSV at fixed hue and value. Nothing is random.

    Severities 1 and 2 fade the colours, 3 to 5 strengthen them; in between, where the factor passes 1, an
    image comes out unchanged. Images of one channel always do.

    Reference: see `parameters`. Grey has the hue of red there, so it turns reddish at severities 4 and 5.
    """

    def one(key, image, severity):
        del key
        factor, shift = at(parameters.SATURATE, severity)
        value = image.max(axis=-1, keepdims=True)
        depth = value - image
        deepest = depth.max(axis=-1, keepdims=True)
        saturation = divide(deepest, value)
        red = (jnp.arange(image.shape[-1]) > 0).astype(image.dtype)
        share = jnp.where(deepest > 0, divide(depth, deepest), red)
        return value * (1.0 - jnp.clip(saturation * factor + shift, 0.0, 1.0) * share)

    return each(one, key, x, severity)


def pixelate(key: Keys, x: Images, severity: Radius) -> Images:
    """Shrink by averaging boxes and enlarge by repeating pixels. Nothing is random.

    Between two severities their matrices are mixed, since the number of pixels is whole.
    """

    def one(key, image, severity):
        del key
        return separable(image, *(at(_coarse(size), severity) for size in image.shape[:2]))

    return each(one, key, x, severity)


def elastic_transform(key: Keys, x: Images, severity: Radius) -> Images:
    """Move three points at random, the image with them, then every pixel by a smooth random displacement.

    Lengths scale with the shorter side.

    Reference: see `parameters`. Places between pixels are not rounded to 32nds as OpenCV does.
    """

    def one(key, image, severity):
        points, field = jax.random.split(key)
        height, width = image.shape[:2]
        side = min(height, width)
        amplitude, sigma, jitter = side * at(parameters.ELASTIC_TRANSFORM, severity)
        rows, columns = jnp.meshgrid(
            jnp.arange(height, dtype=image.dtype), jnp.arange(width, dtype=image.dtype), indexing="ij"
        )
        moves = jitter * uniform(points, (3, 2), -1.0, 1.0)
        image = bilinear(image, *_affine(rows, columns, moves), "mirror")
        draws = uniform(field, (height, width, 2), -1.0, 1.0)
        largest = float(side * parameters.ELASTIC_TRANSFORM[:, 1].max())
        shift = amplitude * gaussian(draws, sigma, largest=largest, truncate=3.0, border="symmetric")
        return bilinear(image, rows + shift[..., 0], columns + shift[..., 1], "symmetric")

    return each(one, key, x, severity)


def grey(image: Float[Array, "h w c"]) -> Float[Array, "h w 1"]:
    """Weigh red, green and blue as video does (BT.601); any other number of channels equally."""
    channels = image.shape[-1]
    weight = jnp.asarray([0.299, 0.587, 0.114] if channels == 3 else [1.0 / channels] * channels, image.dtype)
    return (image * weight[None, None]).sum(axis=-1, keepdims=True)


def _affine(rows: Array, columns: Array, moves: Float[Array, "3 2"]) -> tuple[Array, Array]:
    """Say where pixels come from when three corners of the middle third's square move by (down, right)."""
    height, width = rows.shape
    third = max(min(height, width) // 3, 1)
    middle = jnp.asarray([height // 2, width // 2], rows.dtype)
    before = middle[None] + third * jnp.asarray([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0]])
    after = before + moves
    # Edges of the moved triangle in terms of its old ones, which are 2 third long and lie along the axes.
    down, right = after[0] - after[1], after[1] - after[2]
    determinant = down[0] * right[1] - down[1] * right[0]
    row, column = rows - after[0, 0], columns - after[0, 1]
    along_down = (row * right[1] - column * right[0]) / determinant
    along_right = (column * down[0] - row * down[1]) / determinant
    return before[0, 0] + 2.0 * third * along_down, before[0, 1] + 2.0 * third * along_right


def _coarse(size: int) -> np.ndarray:
    """Write shrinking and enlarging a line, for each severity, as one matrix: (6, size, size)."""
    kept = [max(int(size * round(float(share), 2)), 1) for share in parameters.PIXELATE[:, 0]]
    return np.stack([_box(n, size) @ _box(size, n) for n in kept]).astype(np.float32)


def _box(old: int, new: int) -> np.ndarray:
    """Write Pillow's BOX resampling of a line as a matrix: the mean of the pixels whose centres are in reach."""
    scale = old / new
    centre = (np.arange(new) + 0.5) * scale
    place = (np.arange(old) + 0.5 - centre[:, None]) / max(scale, 1.0)
    inside = ((place > -0.5) & (place <= 0.5)).astype(np.float64)
    return inside / inside.sum(axis=1, keepdims=True)
