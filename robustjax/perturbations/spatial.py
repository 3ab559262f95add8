"""Rotate, shift, scale and shear images by a few numbers per example."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax import checks
from robustjax.perturbations.sampling import Border, Sampler, bilinear, check_border
from robustjax.types import Images


def warp(
    x: Images, theta: Float[Array, "b p"], *, border: Border = "zero", sampler: Sampler = bilinear
) -> Images:
    """Move the content of each image about its centre: first shear, then scale, rotate and shift it.

    Args:
      x: (b, h, w, c).
      theta: 3, 4 or 5 numbers per example, all 0 for the image itself: rotation in degrees, counter-clockwise;
        shift down and shift right, in pixels; growth g, for a scale of 1 + g > 0; shear in degrees, by which
        upright lines lean to the left.
      border: what moves in from outside; see `sampling.bilinear`.
      sampler: how to read between pixels; `sampling.nearest` makes the training pairs of MNIST-RTS.
    Returns:
      Images of the same shape, differentiable in x and theta.
    Raises:
      ValueError: if images are no floats, theta has another shape or the border is unknown.

    Reference: Engstrom et al. 2019, arXiv:1712.02779 (30 degrees and a tenth of the side each way); scale as in
      the rotation-translation-skew sets of Wong and Kolter 2020, arXiv:2007.08450 (45 degrees, growth 0.3, 7 of
      42 pixels).
    """
    check_border("warp", border)
    checks.floats("warp", x, lower=-math.inf, upper=math.inf)
    if theta.ndim != 2 or theta.shape[0] != x.shape[0] or theta.shape[1] not in (3, 4, 5):
        raise ValueError(f"warp: theta has shape {theta.shape}, must be ({x.shape[0]}, 3), 4 or 5 columns")
    theta = jnp.pad(theta, ((0, 0), (0, 5 - theta.shape[1])))

    def one(image: Array, theta: Array) -> Array:
        rows, columns = _sources(theta, image.shape[0], image.shape[1])
        return sampler(image, rows, columns, border)

    return jax.vmap(one)(x, theta)


def _sources(theta: Float[Array, "5"], height: int, width: int) -> tuple[Array, Array]:
    """Find for each pixel of the result the place in the image that moves there: undo shift, turn, growth, shear."""
    rotation, down, right, growth, shear = theta
    middle = (height - 1) / 2, (width - 1) / 2
    row, column = jnp.meshgrid(
        jnp.arange(height, dtype=theta.dtype) - middle[0],
        jnp.arange(width, dtype=theta.dtype) - middle[1],
        indexing="ij",
    )
    row, column = row - down, column - right
    cosine, sine = jnp.cos(jnp.deg2rad(rotation)), jnp.sin(jnp.deg2rad(rotation))
    # Rows count downwards: a counter-clockwise turn takes what lies right of the centre up, to smaller rows.
    row, column = cosine * row + sine * column, cosine * column - sine * row
    row, column = row / (1.0 + growth), column / (1.0 + growth)
    column = column - jnp.tan(jnp.deg2rad(shear)) * row
    return row + middle[0], column + middle[1]
