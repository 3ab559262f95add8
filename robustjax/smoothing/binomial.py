"""Exact statistics of counts, in float64 on the host."""

import numpy as np
from scipy.stats import beta, binom, norm

Counts = np.ndarray | int  # integers of any shape
Chances = np.ndarray  # float64 of the same shape


def lower(wins: Counts, n: Counts, alpha: float) -> Chances:
    """Bound a probability from below: it is less with probability at most alpha. 0 without wins.

    Reference: Clopper and Pearson 1934, one-sided: the alpha quantile of Beta(wins, n - wins + 1).
    """
    wins, n = np.broadcast_arrays(np.asarray(wins, np.int64), np.asarray(n, np.int64))
    # Not defined without wins; the arguments are moved off the edge before the answer is replaced.
    bound = beta.ppf(alpha, np.maximum(wins, 1), n - np.maximum(wins, 1) + 1)
    return np.where(wins > 0, bound, 0.0)


def upper(wins: Counts, n: Counts, alpha: float) -> Chances:
    """Bound a probability from above: it is more with probability at most alpha. 1 without losses."""
    return 1.0 - lower(np.asarray(n) - np.asarray(wins), n, alpha)


def radius(chance: Chances, sigma: float) -> Chances:
    """Turn the probability of the top class into an l2 radius: sigma Phi^-1(p), 0 below one half."""
    return np.where(chance >= 0.5, sigma * norm.ppf(np.maximum(chance, 0.5)), 0.0)


def chance(radius: float, sigma: float) -> float:
    """Say what probability of the top class a radius needs: Phi(radius / sigma)."""
    return float(norm.cdf(radius / sigma))


def tie(first: Counts, second: Counts) -> Chances:
    """Give the p-value that two classes are equally likely, from their counts: the exact two-sided test."""
    first, second = np.asarray(first, np.int64), np.asarray(second, np.int64)
    total = first + second
    return np.where(
        first == second, 1.0, np.minimum(1.0, 2.0 * binom.cdf(np.minimum(first, second), total, 0.5))
    )
