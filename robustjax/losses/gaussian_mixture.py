"""Mixtures of spherical Gaussians over images, in coordinates along the principal axes of the data."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from robustjax import checks
from robustjax.numerics import constant, divide
from robustjax.types import Images, Number, PerExample


class Axes(NamedTuple):
    """Coordinates of an image x: `forward @ x`, in which spherical Gaussians fit images better.

    `log_volume` is log |det forward|, which makes densities there densities over images.
    """

    forward: Float[Array, "d d"]
    log_volume: Float[Array, ""]

    def __call__(self, x: Images) -> Float[Array, "b d"]:
        """Compute the coordinates of each image."""
        flat = x.reshape(x.shape[0], -1)
        return jnp.dot(flat, self.forward.T, precision=jax.lax.Precision.HIGHEST)


class Mixture(NamedTuple):
    """Gaussians of equal weight: their means, and the logarithm of the variance of each, the same on all axes."""

    mean: Float[Array, "m d"]
    log_variance: Float[Array, "m"]


def principal(images: Images, *, floor: float = 1e-6) -> Axes:
    """Rotate to the principal axes of images and divide each axis by the square root of its singular value.

    That is half of a whitening: along an axis of n images with deviation s the divisor is (s sqrt(n))^(1/2).

    Args:
      images: the training data, or a sample; computed in float64 on the host.
      floor: singular values count at least as this share of the largest one.

    Raises:
      ValueError: if floor is not in (0, 1], or all images are the same.

    Reference: Meinke and Hein 2020, arXiv:1909.12180, whose code divides by the roots of singular values.
    """
    checks.number("principal", "floor", floor, above=0, most=1)
    flat = np.asarray(images, np.float64).reshape(len(images), -1)
    checks.finite("principal", "images", flat)
    flat = flat - flat.mean(axis=0)
    square, axes = np.linalg.eigh(flat.T @ flat)
    singular = np.sqrt(np.maximum(square, 0.0))
    if not singular.max() > 0:
        raise ValueError(f"principal: the {len(images)} images are all the same, must vary")
    root = np.sqrt(np.maximum(singular, floor * singular.max()))
    return Axes(jnp.asarray(axes.T / root[:, None], jnp.float32), jnp.float32(-np.log(root).sum()))


def fitted(
    key: PRNGKeyArray, axes: Axes, images: Images, *, components: int = 100, rounds: int = 20
) -> Mixture:
    """Place the means by k-means, from random images, and give all the mean squared distance as variance.

    Args:
      key: draws the first means, which are distinct images.
      axes: made by `principal`.
      images: what to fit.
      components: how many Gaussians.
      rounds: of k-means; a mean that lost all its images stays where it is.

    Raises:
      ValueError: if components is below 1 or above the number of images, or rounds is negative.

    Reference: Meinke and Hein 2020, arXiv:1909.12180: 100 components, whose variances their code averages too.
    """
    if not 1 <= components <= len(images):
        raise ValueError(
            f"fitted: components is {components}, must be at least 1 and at most {len(images)}, the images"
        )
    checks.count("fitted", "rounds", rounds, least=0)
    checks.finite("fitted", "images", images)
    points = axes(images)
    first = points[jax.random.permutation(key, len(points))[:components]]

    def move(_, mean):
        member = jax.nn.one_hot(squared_distance(points, mean).argmin(axis=1), components)
        count = member.sum(axis=0)[:, None]
        total = jnp.dot(member.T, points, precision=jax.lax.Precision.HIGHEST)
        return jnp.where(count > 0, divide(total, jnp.broadcast_to(count, total.shape)), mean)

    mean = jax.lax.fori_loop(0, rounds, move, first)
    nearest = squared_distance(points, mean).min(axis=1)
    variance = jnp.maximum(nearest.mean() / points.shape[1], 1e-12)
    return Mixture(mean, constant(mean, jnp.log(variance)))


def log_density(axes: Axes, mixture: Mixture, x: Images) -> PerExample:
    """Compute log p(x), in nats, as a density over images."""
    size = mixture.mean.shape[1]
    square = squared_distance(axes(x), mixture.mean)
    log_variance = mixture.log_variance[None]
    each = -0.5 * (square * jnp.exp(-log_variance) + size * log_variance)
    rest = math.log(mixture.mean.shape[0]) + 0.5 * size * math.log(2 * math.pi)
    return jax.nn.logsumexp(each, axis=1) - rest + axes.log_volume


def widened(mixture: Mixture, *, above: Mixture, factor: Number = 4.0) -> Mixture:
    """Raise variances to at least `factor` times the largest of another mixture."""
    least = above.log_variance.max() + jnp.log(jnp.asarray(factor, jnp.float32))
    return mixture._replace(log_variance=jnp.maximum(mixture.log_variance, least))


def squared_distance(points: Float[Array, "b d"], mean: Float[Array, "m d"]) -> Float[Array, "b m"]:
    """Compute |points_i - mean_j|^2."""
    # The expanded square needs no (b, m, d) array; about the centre of the means it loses least to cancellation.
    centre = jax.lax.stop_gradient(mean.mean(axis=0, keepdims=True))
    points, mean = points - centre, mean - centre
    cross = jnp.dot(points, mean.T, precision=jax.lax.Precision.HIGHEST)
    square = jnp.square(points).sum(axis=1)[:, None] + jnp.square(mean).sum(axis=1)[None] - 2.0 * cross
    return jnp.maximum(square, 0.0)
