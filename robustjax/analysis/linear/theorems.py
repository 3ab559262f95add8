"""The theorems: when adversarial training relies on spurious features, and what that costs and brings.

They hold for the population: y = theta* . x + sigma xi with sigma > 0, so that the standard predictor theta* uses
no spurious feature however correlated. Each function checks its assumptions. `gaussian` has checked those on the
model: jointly Gaussian zero-mean features, positive definite covariance, no spurious coefficient.

Reference: the setting of Moayeri, Banihashem and Feizi 2022, arXiv:2209.07592, whose claims (i) to (iii) these
  functions decide. The conditions are our own derivation, necessary and sufficient, not the paper's statements.
"""

import math
from typing import NamedTuple

import numpy as np

from robustjax.analysis.linear.closed_form import expected_square
from robustjax.analysis.linear.gaussian import Gaussian, checked, core_only
from robustjax.analysis.linear.minimiser import Solution, least_subgradient, minimise, thresholds
from robustjax.numerics import Norm


class Reliance(NamedTuple):
    """Whether training uses spurious features, and why.

    Attributes:
      relies: whether the adversarially trained predictor gives any spurious feature a weight.
      pull: (m - core,), |Sigma_SC (theta*_C - theta_C)|: how much each spurious feature could still explain of
        what the predictor trained on core features alone leaves.
      limit: what the pull must exceed to count: 0 for l1 and l2 budgets, the weight of the penalty for linf.
    """

    relies: bool
    pull: np.ndarray
    limit: float


class Shift(NamedTuple):
    """What breaking the correlations does to a predictor: MSE(tau) = sigma^2 + own - 2 tau gain + cost.

    Attributes:
      noise: sigma^2, the error of the standard predictor in every domain.
      own: d_C' Sigma_CC d_C with d = theta - theta*, what the shrunken core part misses.
      gain: (theta*_C - theta_C)' Sigma_CS theta_S, what the spurious part makes up for.
      cost: theta_S' Sigma_SS theta_S, its own variance.
    """

    noise: float
    own: float
    gain: float
    cost: float

    def error(self, tau: float) -> float:
        """Return the mean squared error where core-spurious covariances are multiplied by tau."""
        return self.noise + self.own - 2 * tau * self.gain + self.cost


class Benefit(NamedTuple):
    """Adversarial risks: what access to spurious features brings while their correlation lasts.

    Attributes:
      preserved: of the best predictor on all features, in the domain of training.
      broken: of the same predictor where tau = 0.
      core_only: of the best predictor on core features alone, in either domain.
    """

    preserved: float
    broken: float
    core_only: float


def relies(model: Gaussian, eps: float, kind: Norm) -> Reliance:
    """Decide claims (i) and (ii) without training on the spurious features.

    (i) Under an l1 or l2 budget the predictor uses spurious features if and only if some spurious feature
    correlates with what adversarial training on the core features leaves unexplained: Sigma_SC (theta*_C - theta_C)
    is not zero. With one core feature that is any correlation at all.
    (ii) Under a linf budget that correlation must exceed the weight lam of the penalty, which is the
    irrepresentable condition of the lasso. With one core feature that is |rho_j| b_j > a, whatever eps.

    Raises:
      ValueError: if sigma or eps is 0, or if eps is so large that the core features alone are given up.
    """
    alone, inner = _core_solution(model, eps, kind, "relies")
    core = alone.core
    across = np.asarray(model.covariance[core:, :core], np.float64)
    missed = np.asarray(alone.theta_star - inner.theta)
    pull = np.abs(across @ missed)
    limit = inner.lam if kind == "linf" else 0.0
    # A sum that is zero but for the rounding of its terms must not count as a correlation.
    rounding = np.abs(across) @ (1e-10 * np.abs(missed) + 1e-15 * np.abs(alone.theta_star))
    return Reliance(bool((pull > limit + rounding).any()), pull, limit)


def irrepresentable(model: Gaussian, eps: float = 0.0) -> np.ndarray:
    """Return |Sigma_SC Sigma_CC^-1 z| per spurious feature: a linf budget uses it if any value exceeds 1.

    z is the subgradient of |theta_C|_1 at the predictor trained on core features alone, the signs of theta*_C
    if these are not zero and eps is small. It can change with eps, as a core coefficient reaches zero: reliance may
    appear only at larger radii.

    Args:
      model: features and rule; sigma must be positive.
      eps: radius of the linf budget; 0 for the limit of small radii.
    Raises:
      ValueError: if sigma is 0, or eps negative or so large that the core features alone are given up.

    Reference: Zhao and Yu 2006, JMLR 7 (model selection consistency of the lasso).
    """
    if eps == 0:
        _assume_noise(model, "irrepresentable")
        z = least_subgradient(core_only(model), "linf")
    else:
        alone, inner = _core_solution(model, eps, "linf", "irrepresentable")
        z = np.asarray(core_only(model).covariance) @ (alone.theta_star - inner.theta) / inner.lam
    core = model.core
    return np.abs(model.covariance[core:, :core] @ np.linalg.solve(model.covariance[:core, :core], z))


def relative_scale(model: Gaussian) -> np.ndarray:
    """Return |rho_j| b_j / a per spurious feature: with one core feature, a linf budget uses j if it exceeds 1.

    So the spurious scale b_j must exceed the core scale a, and by more the weaker the correlation. With several
    core features scale decides nothing; see `irrepresentable`.

    Raises:
      ValueError: if there is more than one core feature.
    """
    if model.core != 1:
        raise ValueError(
            f"relative_scale: there are {model.core} core features, must be 1; use irrepresentable"
        )
    return np.abs(np.asarray(model.covariance[1:, 0], np.float64)) / float(model.covariance[0, 0])


def shift(model: Gaussian, eps: float, kind: Norm) -> Shift:
    """Decide claim (iii): what broken correlations cost an adversarially trained predictor.

    At its optimum gain >= cost >= 0, so its error grows as tau falls, strictly if it relies on spurious
    features at all; breaking them (tau = 0) costs 2 gain. The standard predictor's error is sigma^2 always.

    Raises:
      ValueError: if sigma is 0 or eps is not positive.
    """
    _assume_noise(model, "shift")
    _assume_radius(eps, "shift")
    return shift_of(model, minimise(model, eps, kind).theta)


def shift_of(model: Gaussian, theta: np.ndarray) -> Shift:
    """Split the error of any predictor under shifted correlations; gain >= cost is not promised."""
    model, theta, core = checked(model), np.asarray(theta, np.float64), model.core
    missed, outer = model.theta_star[:core] - theta[:core], theta[core:]
    return Shift(
        float(model.sigma) ** 2,
        float(missed @ model.covariance[:core, :core] @ missed),
        float(missed @ model.covariance[:core, core:] @ outer),
        float(outer @ model.covariance[core:, core:] @ outer),
    )


def benefit(model: Gaussian, eps: float, kind: Norm) -> Benefit:
    """Compare adversarial risks with and without access to the spurious features.

    preserved <= core_only <= broken, strictly if the predictor relies on them: correlations that last make a model
    more robust, and the same model is less robust than one without them once they break.

    Raises:
      ValueError: if sigma is 0 or eps is not positive.
    """
    _assume_noise(model, "benefit")
    _assume_radius(eps, "benefit")
    best = minimise(model, eps, kind)
    s = math.sqrt(shift_of(model, best.theta).error(0.0))
    return Benefit(
        best.loss, float(expected_square(s, eps * best.t)), minimise(core_only(model), eps, kind).loss
    )


def _core_solution(model: Gaussian, eps: float, kind: Norm, name: str) -> tuple[Gaussian, Solution]:
    _assume_noise(model, name)
    _assume_radius(eps, name)
    alone = core_only(checked(model))
    zero = thresholds(alone, kind).zero
    if eps >= zero:
        raise ValueError(
            f"{name}: eps is {eps}, must be below {zero:g}, where training on core features alone predicts zero"
        )
    return alone, minimise(alone, eps, kind)


def _assume_noise(model: Gaussian, name: str) -> None:
    if not float(model.sigma) > 0:
        raise ValueError(f"{name}: sigma is {model.sigma}, must be above 0")


def _assume_radius(eps: float, name: str) -> None:
    if not 0 < eps < math.inf:
        raise ValueError(f"{name}: eps is {eps}, must be above 0")
