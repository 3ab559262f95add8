"""How far the probability of a class reaches: from a bound on it under noise to a radius, and back, by the noise."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from robustjax import binomial, checks
from robustjax.numerics import Norm


class Reach(NamedTuple):
    """What a bound of more than one half on the probability of a class promises.

    Attributes:
      norm: that the radius is measured in.
      radius: probabilities (float64) -> radii; 0 at one half and below.
      chance: radius -> the probability that it takes.
    """

    norm: Norm
    radius: Callable[[np.ndarray], np.ndarray]
    chance: Callable[[float], float]


def gaussian(sigma: float) -> Reach:
    """Give sigma Phi^-1(p) in l2, for Gaussian noise.

    Raises:
      ValueError: if sigma is not positive.

    Reference: Cohen, Rosenfeld and Kolter 2019, arXiv:1902.02918, theorem 1 with all other classes together.
    """
    checks.positive("gaussian", "sigma", sigma)
    return Reach("l2", lambda p: binomial.radius(p, sigma), lambda r: binomial.chance(r, sigma))


def uniform(half_width: float) -> Reach:
    """Give 2 half_width (p - 1/2) in l1, for noise that is uniform in [-half_width, half_width] for every feature.

    Raises:
      ValueError: if half_width is not positive.

    Reference: Lee et al. 2019, arXiv:1906.04948; Yang et al. 2020, arXiv:2002.08118, table 1.
    """
    checks.positive("uniform", "half_width", half_width)
    return Reach(
        "l1",
        lambda p: 2.0 * half_width * np.maximum(np.asarray(p, np.float64) - 0.5, 0.0),
        lambda r: min(0.5 + r / (2.0 * half_width), 1.0),
    )


def laplace(scale: float) -> Reach:
    """Give -scale log(2 (1 - p)) in l1, for Laplace noise of density exp(-|x| / scale) / (2 scale).

    Raises:
      ValueError: if scale is not positive.

    Reference: Teng, Lee and Yuan 2020, l1 adversarial robustness certificates; Yang et al. 2020, arXiv:2002.08118.
    """
    checks.positive("laplace", "scale", scale)

    def radius(p: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return np.maximum(-scale * np.log(2.0 * (1.0 - np.maximum(p, 0.5))), 0.0)

    return Reach("l1", radius, lambda r: 1.0 - 0.5 * math.exp(-r / scale))


def in_linf(radius: np.ndarray, dimension: int) -> np.ndarray:
    """Turn l2 radii into linf radii: the ball of radius r / sqrt(dimension) lies in the l2 ball of r.

    Args:
      radius: in l2.
      dimension: how many features an image has.
    Raises:
      ValueError: if dimension is below 1.
    """
    checks.count("in_linf", "dimension", dimension)
    return np.asarray(radius, np.float64) / math.sqrt(dimension)
