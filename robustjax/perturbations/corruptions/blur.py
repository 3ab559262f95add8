"""Gaussian, defocus, glass, motion and zoom blur."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from robustjax.perturbations.corruptions import parameters
from robustjax.perturbations.corruptions.draws import uniform
from robustjax.perturbations.corruptions.severity import at, each
from robustjax.perturbations.corruptions.smoothing import along, gaussian, interpolation
from robustjax.perturbations.sampling import folded
from robustjax.types import Images, Keys, Radius


def gaussian_blur(key: Keys, x: Images, severity: Radius) -> Images:
    """Smooth by a Gaussian. Nothing is random."""

    def one(key, image, severity):
        del key
        (sigma,) = at(parameters.GAUSSIAN_BLUR, severity)
        return gaussian(image, sigma, largest=1.0)

    return each(one, key, x, severity)


def defocus_blur(key: Keys, x: Images, severity: Radius) -> Images:
    """Smooth by a disk with soft edges. Nothing is random.

    Between two severities their kernels are mixed, since the pixels inside a disk change in jumps.
    """

    def one(key, image, severity):
        del key
        kernel, (height, width, _) = at(_disks(), severity), image.shape
        rows, columns = (folded(jnp.arange(-2, n + 2), n, "mirror") for n in (height, width))
        wide = image[rows[:, None], columns]
        shifts = [(i, j) for i in range(5) for j in range(5)]
        return sum(
            (kernel[i, j] * wide[i : i + height, j : j + width] for i, j in shifts), jnp.zeros_like(image)
        )

    return each(one, key, x, severity)


def glass_blur(key: Keys, x: Images, severity: Radius) -> Images:
    """Smooth, replace each pixel by itself or a neighbour above or to the left, once or twice, and smooth again.

    Between two severities a sweep is mixed with the image before it.

    Reference: see `parameters`. The published code means to swap pixels, but copies them, always from above
      or the left and never into the first two rows and columns; so do we, without its rounding to 8 bits
      between the first blur and the sweeps, which moves values by half a level at most.
    """

    def one(key, image, severity):
        sigma, _, sweeps = at(parameters.GLASS_BLUR, severity)
        rows, columns = jnp.meshgrid(*(jnp.arange(n) for n in image.shape[:2]), indexing="ij")
        inside = ((rows >= 2) & (columns >= 2))[None, None, ..., None]
        image = gaussian(image, sigma, largest=0.4)
        for sweep, (up, left) in enumerate((uniform(key, (2, 2, *inside.shape[2:])) < 0.5) & inside):
            # What wraps around comes to rows and columns that do not move.
            above = jnp.roll(image, 1, axis=0)
            sideways = jnp.where(up, jnp.roll(above, 1, axis=1), jnp.roll(image, 1, axis=1))
            moved = jnp.where(left, sideways, jnp.where(up, above, image))
            image = image + jnp.clip(sweeps - sweep, 0.0, 1.0) * (moved - image)
        return gaussian(image, sigma, largest=0.4)

    return each(one, key, x, severity)


def motion_blur(key: Keys, x: Images, severity: Radius) -> Images:
    """Blur along a line at a random angle within 45 degrees of the horizontal."""

    def one(key, image, severity):
        radius, sigma = at(parameters.MOTION_BLUR, severity)
        return along(image, radius, sigma, jax.random.uniform(key, (), minval=-45.0, maxval=45.0), largest=9)

    return each(one, key, x, severity)


def zoom_blur(key: Keys, x: Images, severity: Radius) -> Images:
    """Average the image and its centre enlarged by 1, 1.01, 1.02, ... Nothing is random.

    Between two severities the largest zoom has a part of its weight.

    Reference: see `parameters`. The two lowest severities include the end of their series, as rounding makes
      numpy.arange do in the published code. Sides of different length are enlarged each about its middle.
    """
    factors = np.arange(1, 1.26, 0.01)
    counts = np.asarray([len(np.arange(1, end, 0.01)) for end in _ends()], np.float32)

    def one(key, image, severity):
        del key
        weight = jnp.clip(at(counts, severity) - jnp.arange(len(factors), dtype=image.dtype), 0.0, 1.0)
        down, across = (
            jnp.stack([interpolation(jnp.asarray(zoomed(n, z)), n) for z in factors]) for n in image.shape[:2]
        )
        total = jnp.einsum(
            "k,khi,ijc,kwj->hwc", weight, down, image, across, precision=jax.lax.Precision.HIGHEST
        )
        return (image + total) / (1.0 + weight.sum())

    return each(one, key, x, severity)


def zoomed(size: int, factor: float) -> np.ndarray:
    """Say where the pixels of a line come from that is enlarged about its middle and cut to its old size.

    Reference: what scipy.ndimage.zoom of order 1 does with the middle ceil(size / factor) pixels.
    """
    kept = math.ceil(size / factor)
    grown = round(kept * factor)
    step = (kept - 1) / max(grown - 1, 1)
    first = (size - kept) // 2 + (grown - size) // 2 * step
    return (first + step * np.arange(size)).astype(np.float32)


def _ends() -> list[float]:
    # As Python reads 1.06; the float32 of the table would end the series elsewhere.
    return [round(float(end), 2) for end in parameters.ZOOM_BLUR[:, 0]]


def _disks() -> np.ndarray:
    """Sample the six kernels on 5 x 5 pixels: a disk, smoothed by three pixels of a Gaussian."""
    place = np.arange(-2, 3)
    square = np.square(place[:, None]) + np.square(place)
    kernels = []
    for radius, sigma in parameters.DEFOCUS_BLUR.astype(np.float64):
        disk = (square <= radius**2) / (square <= radius**2).sum()
        side = np.exp(-0.5 / sigma**2) if sigma > 0 else 0.0
        line = (np.eye(5) + side * (np.eye(5, k=1) + np.eye(5, k=-1))) / (1.0 + 2.0 * side)
        kernels.append(line @ disk @ line.T)
    return np.asarray(kernels, np.float32)
