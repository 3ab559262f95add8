"""Linear filters whose width is traced: matrices for each axis, and blur along a line."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from robustjax.perturbations.sampling import Border, folded

Plane = Float[Array, "h w c"]
NARROW = 0.05  # standard deviation, in pixels, below which a Gaussian is a single pixel


def gaussian(
    image: Plane, sigma: Scalar, *, largest: float, truncate: float = 4.0, border: Border = "edge"
) -> Plane:
    """Smooth height and width by a Gaussian of traced width, cut off at `truncate` standard deviations.

    Args:
      image: (h, w, c).
      sigma: standard deviation in pixels; 0 for the image itself.
      largest: a bound on sigma, which fixes the shapes.
      truncate: where the kernel ends, rounded to whole pixels as scipy.ndimage does.
      border: what lies beyond.
    """
    lines = [_gaussian_matrix(size, sigma, largest, truncate, border) for size in image.shape[:2]]
    return separable(image, lines[0], lines[1])


def separable(
    image: Float[Array, "i j c"], down: Float[Array, "h i"], across: Float[Array, "w j"]
) -> Float[Array, "h w c"]:
    """Apply one matrix along the height and one along the width."""
    # Lower precisions, default on some devices, are off by more than a grey level.
    precision = jax.lax.Precision.HIGHEST
    image = jnp.einsum("hi,ijc->hjc", down, image, precision=precision)
    return jnp.einsum("wj,hjc->hwc", across, image, precision=precision)


def interpolation(places: Float[Array, "n"], size: int) -> Float[Array, "n size"]:
    """Write linear interpolation at real places in [0, size - 1] as a matrix."""
    return jnp.maximum(1.0 - jnp.abs(places[:, None] - jnp.arange(size, dtype=places.dtype)[None]), 0.0)


def along(image: Plane, radius: Scalar, sigma: Scalar, angle: Scalar, *, largest: int) -> Plane:
    """Blur along a line that starts at each pixel: half a Gaussian over 2 radius + 1 pixels.

    Args:
      image: (h, w, c); beyond the border lies the last pixel.
      radius: in pixels; between two whole numbers the last pixel gets a part of its weight.
      sigma: standard deviation in pixels; 0 for the image itself.
      angle: of the line, in degrees, clockwise from the direction of the width.
      largest: a bound on the radius.

    Reference: ImageMagick's MotionBlurImage, which computes in 8 or 16 bits.
    """
    steps = jnp.arange(2 * largest + 1, dtype=image.dtype)
    weight = jnp.exp(-0.5 * jnp.square(steps / jnp.maximum(sigma, NARROW)))
    weight = weight * jnp.clip(2.0 * radius + 1.0 - steps, 0.0, 1.0)
    turn = jnp.deg2rad(angle)
    down, right = (jnp.ceil(steps * f(turn) - 0.5).astype(jnp.int32) for f in (jnp.sin, jnp.cos))
    rows = folded(jnp.arange(image.shape[0])[None] + down[:, None], image.shape[0], "edge")
    columns = folded(jnp.arange(image.shape[1])[None] + right[:, None], image.shape[1], "edge")
    seen = image[rows[:, :, None], columns[:, None, :]]
    return jnp.einsum("k,khwc->hwc", weight / weight.sum(), seen, precision=jax.lax.Precision.HIGHEST)


def _gaussian_matrix(size: int, sigma: Scalar, largest: float, truncate: float, border: Border) -> Array:
    offsets = jnp.arange(-int(truncate * largest + 0.5), int(truncate * largest + 0.5) + 1)
    distance = jnp.abs(offsets).astype(sigma.dtype)
    kernel = jnp.exp(-0.5 * jnp.square(distance / jnp.maximum(sigma, NARROW)))
    kernel = jnp.where(distance <= jnp.floor(truncate * sigma + 0.5), kernel, 0.0)
    rows = jnp.arange(size)[:, None]
    matrix = jnp.zeros((size, size), kernel.dtype)
    return matrix.at[rows, folded(rows + offsets[None], size, border)].add((kernel / kernel.sum())[None])
