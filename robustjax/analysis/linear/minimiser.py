"""What adversarial training converges to with infinite data: the minimiser of the adversarial risk, exactly.

Every minimiser lies on the path argmin |theta - theta*|^2_Sigma / 2 + lam |theta|_* of a penalised regression
(ridge-like for an l2 budget, the lasso for linf, a penalty on the largest coefficient for l1), and lam grows
with eps, so one root in one dimension solves the problem. Float64 on the host, milliseconds a problem.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize

from robustjax import checks
from robustjax.analysis.linear import box
from robustjax.analysis.linear.closed_form import MEAN_ABS, expected_square
from robustjax.analysis.linear.gaussian import Gaussian, checked
from robustjax.numerics import Norm

ORDER = {"linf": np.inf, "l2": 2, "l1": 1}  # of the budget
DUAL_ORDER = {"linf": 1, "l2": 2, "l1": np.inf}


class Solution(NamedTuple):
    """A minimiser of the adversarial risk.

    Attributes:
      theta: (m,), float64.
      s: standard deviation of its residual.
      t: its dual norm, which eps multiplies.
      lam: weight of the penalty at which the path passes through it.
      loss: its adversarial risk, the smallest there is.
      kkt: by how much the optimality conditions are missed; rounding only.
    """

    theta: np.ndarray
    s: float
    t: float
    lam: float
    loss: float
    kkt: float


class Thresholds(NamedTuple):
    """Radii at which the minimiser changes its nature.

    Attributes:
      exact: up to here theta_star itself stays optimal; 0 unless sigma is 0.
      zero: from here on the zero predictor is optimal.
    """

    exact: float
    zero: float


def minimise(model: Gaussian, eps: float, kind: Norm) -> Solution:
    """Find the predictor of least adversarial risk, unique if sigma > 0.

    Args:
      model: features and rule.
      eps: radius, in the units of the features.
      kind: norm of the budget.
    Raises:
      ValueError: if the model breaks an assumption (see `gaussian`), or eps is negative or not finite.
    """
    model = checked(model)
    checks.norm("minimise", kind)
    if not 0 <= eps < math.inf:
        raise ValueError(f"minimise: eps is {eps}, must be a number of at least 0")
    limits = thresholds(model, kind)
    if eps >= limits.zero:
        share = 1.0
    elif eps <= limits.exact:
        share = 0.0
    else:
        along = _path(model, kind)
        share = _root(lambda u: _eps_at(model, along(u), kind) - eps)
    theta = _path(model, kind)(share)
    s, t, pull = _measured(model, theta, kind)
    lam = lam_of(eps, s, t)
    missed = np.linalg.norm(pull, ORDER[kind]) - lam
    kkt = max(0.0, missed) if share == 1 else max(abs(missed), abs(pull @ theta - lam * t))
    return Solution(theta, s, t, lam, float(expected_square(s, eps * t)), float(kkt))


def path(model: Gaussian, lam: float, kind: Norm) -> np.ndarray:
    """Minimise |theta - theta*|^2_Sigma / 2 + lam |theta|_*, the dual norm of the budget.

    Raises:
      ValueError: if the model breaks an assumption, or lam is negative or NaN.
    """
    model = checked(model)
    checks.norm("path", kind)
    checks.number("path", "lam", lam, least=0)
    along = _path(model, kind)
    if lam >= np.linalg.norm(model.covariance @ model.theta_star, ORDER[kind]):
        return along(1.0)
    if lam == 0:
        return along(0.0)

    def excess(u: float) -> float:
        return float(np.linalg.norm(_measured(model, along(u), kind)[2], ORDER[kind])) - lam

    return along(_root(excess))


def thresholds(model: Gaussian, kind: Norm) -> Thresholds:
    """Return the radius up to which nothing changes and the radius from which nothing is predicted.

    zero = |Sigma theta*|_p / (c sqrt(theta*' Sigma theta* + sigma^2)) with p the norm of the budget and
    c = sqrt(2/pi); for sigma = 0, exact = c / min |z|_{Sigma^-1} over the subgradients z of |theta*|_*.

    Raises:
      ValueError: if the model breaks an assumption (see `gaussian`).
    """
    model = checked(model)
    checks.norm("thresholds", kind)
    pull = model.covariance @ model.theta_star
    signal = math.sqrt(float(model.theta_star @ pull) + float(model.sigma) ** 2)
    zero = float(np.linalg.norm(pull, ORDER[kind])) / (MEAN_ABS * signal)
    if model.sigma > 0:
        return Thresholds(0.0, zero)
    z = least_subgradient(model, kind)
    return Thresholds(MEAN_ABS / math.sqrt(float(z @ np.linalg.solve(model.covariance, z))), zero)


def least_subgradient(model: Gaussian, kind: Norm) -> np.ndarray:
    """Return the subgradient z of |theta*|_* of least z' Sigma^-1 z: where a small radius starts to push.

    For small eps and sigma > 0 the minimiser is theta* - eps sqrt(2/pi) sigma Sigma^-1 z.
    """
    checks.norm("least_subgradient", kind)
    theta = np.asarray(model.theta_star, np.float64)
    precision = np.linalg.inv(np.asarray(model.covariance, np.float64))
    if kind == "l2":
        return theta / np.linalg.norm(theta)
    if kind == "linf":
        z, flat = np.sign(theta), theta == 0
        if flat.any():
            inner = precision[np.ix_(flat, flat)]
            z[flat], _ = box.nearest(
                inner, -np.linalg.solve(inner, precision[np.ix_(flat, ~flat)] @ z[~flat]), 1.0
            )
        return z
    # Weights on the largest coefficients, adding up to 1: the direction of the least of y'Ay/2 - sum(y), y >= 0.
    largest = np.isclose(np.abs(theta), np.abs(theta).max(), rtol=1e-12)
    sign = np.sign(theta[largest])
    root = np.linalg.cholesky(precision[np.ix_(largest, largest)] * np.outer(sign, sign)).T
    weight, _ = scipy.optimize.nnls(root, np.linalg.solve(root.T, np.ones(len(sign))))
    z = np.zeros_like(theta)
    z[largest] = sign * weight / weight.sum()
    return z


def lam_of(eps: float, s: float, t: float) -> float:
    """Return the weight of the penalty that belongs to a radius: eps s (c s + eps t) / (s + c eps t)."""
    return eps * s * (MEAN_ABS * s + eps * t) / (s + MEAN_ABS * eps * t) if s > 0 else 0.0


def eps_of(lam: float, s: float, t: float) -> float:
    """Return the radius that belongs to a weight: the positive root of s t e^2 + c (s^2 - lam t) e - lam s."""
    if s == 0 or lam == 0:
        return 0.0
    half = MEAN_ABS * (s * s - lam * t) / 2
    width = math.sqrt(half * half + s * t * lam * s)
    # Of the two forms of the root the one that adds numbers of the same sign.
    return lam * s / (half + width) if half > 0 else (width - half) / (s * t)


def _path(model: Gaussian, kind: Norm) -> Callable[[float], np.ndarray]:
    """Parametrise the path by a share in [0, 1]: theta_star at 0, zero at 1, eps growing in between.

    An l1 budget bounds the coefficients, a linf budget their multipliers Sigma (theta* - theta): both are the
    nearest point of a box, in the metrics Sigma and Sigma^-1.
    """
    covariance: Any = model.covariance
    theta_star: Any = model.theta_star
    full = covariance @ theta_star
    if kind == "l2":
        values, vectors = np.linalg.eigh(covariance)
        rotated, unit = vectors.T @ theta_star, values.mean()

        def inside(u: float) -> np.ndarray:
            return vectors @ (values * (1 - u) / (values * (1 - u) + unit * u) * rotated)

    elif kind == "l1":
        largest = np.abs(theta_star).max()

        def inside(u: float) -> np.ndarray:
            return box.nearest(covariance, theta_star, (1 - u) * largest)[0]

    else:
        precision, strongest = np.linalg.inv(covariance), np.abs(full).max()

        def inside(u: float) -> np.ndarray:
            pull, side = box.nearest(precision, full, u * strongest)
            # Features whose multiplier is inside the box are out, exactly.
            return np.where(side == 0, 0.0, theta_star - np.linalg.solve(covariance, pull))

    # The ends exactly: with sigma = 0 the rounding of a residual that must be zero would pass for a radius.
    ends = {0.0: theta_star, 1.0: np.zeros_like(theta_star)}
    return lambda u: ends[u] if u in ends else inside(u)


def _measured(model: Gaussian, theta: np.ndarray, kind: Norm) -> tuple[float, float, np.ndarray]:
    gap = model.theta_star - theta
    pull = np.asarray(model.covariance @ gap)
    s = math.sqrt(max(0.0, float(gap @ pull)) + float(model.sigma) ** 2)
    return s, float(np.linalg.norm(theta, DUAL_ORDER[kind])), pull


def _eps_at(model: Gaussian, theta: np.ndarray, kind: Norm) -> float:
    s, t, pull = _measured(model, theta, kind)
    return eps_of(float(np.linalg.norm(pull, ORDER[kind])), s, t)


def _root(function: Callable[[float], float]) -> float:
    return float(scipy.optimize.brentq(function, 0.0, 1.0, xtol=1e-20, rtol=1e-15, maxiter=300))  # pyright: ignore
