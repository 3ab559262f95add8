"""One core and one spurious feature: the whole theory in closed form, piece by piece of the path.

The features have standard deviations a and b and correlation rho; the target is beta times the core feature plus
noise of deviation sigma. Every function gives the predictor (core, spurious) at a weight of the penalty;
`minimiser.eps_of` turns weights into radii.
"""

import math
from typing import NamedTuple

import numpy as np

from robustjax.analysis.linear.gaussian import Gaussian, gaussian
from robustjax.analysis.linear.minimiser import eps_of
from robustjax.numerics import Norm


class Transition(NamedTuple):
    """Where the path of two features bends.

    Attributes:
      lam: weight of the penalty there.
      eps: radius there.
      theta: (2,), the predictor.
    """

    lam: float
    eps: float
    theta: np.ndarray


def pair(*, a: float = 1.0, b: float, rho: float, beta: float = 1.0, sigma: float) -> Gaussian:
    """Build the model of one core and one spurious feature.

    Raises:
      ValueError: if a or b is not positive, rho is not inside (-1, 1), beta is 0 or sigma negative.
    """
    if not (a > 0 and b > 0):
        raise ValueError(f"pair: the scales are {a} and {b}, must be above 0")
    if not -1 < rho < 1:
        raise ValueError(f"pair: rho is {rho}, must be inside (-1, 1)")
    return gaussian([[a * a, rho * a * b], [rho * a * b, b * b]], [beta, 0.0], sigma, core=1)


def under_l2(mu: float, *, a: float, b: float, rho: float, beta: float) -> np.ndarray:
    """Return the predictor of an l2 budget at mu = lam / |theta|_2.

    The spurious share theta_S / theta_C rises from 0 to rho b / a as mu grows: any correlation is used.
    """
    determinant = (a * a + mu) * (b * b + mu) - (rho * a * b) ** 2
    core = beta * a * a * (b * b * (1 - rho**2) + mu)
    return np.array([core, beta * rho * a * b * mu]) / determinant


def under_l1(lam: float, *, a: float, b: float, rho: float, beta: float) -> np.ndarray:
    """Return the predictor of an l1 budget: the core weight falls, the spurious one rises until they tie."""
    strength, apart = abs(rho), 1 - rho**2
    if lam <= _tie(a, b, strength, abs(beta)):
        size = np.array([abs(beta) - lam / (a * a * apart), lam * strength / (a * b * apart)])
    else:
        both = (abs(beta) * (a * a + strength * a * b) - lam) / (a * a + 2 * strength * a * b + b * b)
        size = np.full(2, max(both, 0.0))
    return _signed(size, rho, beta)


def under_linf(lam: float, *, a: float, b: float, rho: float, beta: float) -> np.ndarray:
    """Return the predictor of a linf budget: spurious only if |rho| b > a, and then nothing else in the end."""
    strength = abs(rho)
    if strength * b <= a:
        size = np.array([max(abs(beta) - lam / a**2, 0.0), 0.0])
    elif lam <= _takeover(a, b, strength, abs(beta)):
        apart = a * b * (1 - rho**2)
        size = np.array(
            [
                abs(beta) - lam * (b - strength * a) / (a * apart),
                lam * (strength * b - a) / (b * apart),
            ]
        )
    else:
        size = np.array([0.0, max((abs(beta) * strength * a * b - lam) / b**2, 0.0)])
    return _signed(size, rho, beta)


def transition(*, a: float, b: float, rho: float, beta: float, sigma: float, kind: Norm) -> Transition:
    """Find the radius at which an l1 budget ties the weights, or a linf budget leaves only the spurious one.

    Raises:
      ValueError: for an l2 budget, whose path is smooth, for rho = 0, and for linf where |rho| b <= a.
    """
    setting = {"a": a, "b": b, "rho": rho, "beta": beta}
    if kind == "l1" and rho != 0:
        lam = _tie(a, b, abs(rho), abs(beta))
        theta = under_l1(lam, **setting)
    elif kind == "linf" and abs(rho) * b > a:
        lam = _takeover(a, b, abs(rho), abs(beta))
        theta = under_linf(lam, **setting)
    else:
        raise ValueError(
            f"transition: kind is {kind!r} with rho {rho} and scales {a} and {b}, must be l1 with rho not 0, "
            "or linf with |rho| b > a"
        )
    model = pair(**setting, sigma=sigma)
    gap = theta - model.theta_star
    s = math.sqrt(float(gap @ model.covariance @ gap) + sigma**2)
    return Transition(lam, eps_of(lam, s, float(np.linalg.norm(theta, np.inf if kind == "l1" else 1))), theta)


def _tie(a: float, b: float, rho: float, beta: float) -> float:
    return beta * (1 - rho**2) * a * a * b / (b + rho * a)


def _takeover(a: float, b: float, rho: float, beta: float) -> float:
    return beta * a * a * b * (1 - rho**2) / (b - rho * a)


def _signed(size: np.ndarray, rho: float, beta: float) -> np.ndarray:
    return np.array([math.copysign(size[0], beta), math.copysign(size[1], beta * rho)])
