"""Exact statistics of counts, in float64 on the host: Clopper-Pearson bounds, tests, order statistics."""

import numpy as np
from scipy.special import (  # scipy.stats takes a second to import
    betainc,
    betaincinv,
    betaln,
    ndtr,
    ndtri,
    xlog1py,
    xlogy,
)

from robustjax import checks

Counts = np.ndarray | np.integer | int  # integers of any shape
Chances = np.ndarray  # float64 of the same shape


def lower(wins: Counts, samples: Counts, alpha: float) -> Chances:
    """Bound a probability from below: it is less with probability at most alpha. 0 without wins.

    Reference: Clopper and Pearson 1934, Biometrika 26, one-sided: the alpha quantile of Beta(wins, samples - wins + 1).
    """
    wins, samples = np.broadcast_arrays(_counts("wins", wins), _counts("samples", samples))
    checks.number("binomial.lower", "alpha", alpha, above=0, below=1)
    if (wins > samples).any():
        raise ValueError(
            f"binomial.lower: {wins.max()} wins of {samples.min()} samples, must be at most as many"
        )
    # Not defined without wins; the arguments are moved off the edge before the answer is replaced.
    bound = betaincinv(np.maximum(wins, 1), samples - np.maximum(wins, 1) + 1, alpha)
    return np.where(wins > 0, bound, 0.0)


def upper(wins: Counts, samples: Counts, alpha: float) -> Chances:
    """Bound a probability from above: it is more with probability at most alpha. 1 without losses."""
    return np.asarray(1.0 - lower(np.asarray(np.subtract(samples, wins)), samples, alpha))


def between(wins: Counts, samples: Counts, alpha: float) -> tuple[Chances, Chances]:
    """Bound a probability from both sides, for all numbers of samples at once.

    With probability 1 - alpha it lies within these bounds after every sample of an endless sequence, so one may look
    after any number of samples and stop whenever one likes. They are where the odds of the counts under Beta(1/2, 1/2)
    against the probability reach 1 / alpha: a martingale, by Ville's inequality.

    Returns:
      Lower and upper bound; 0 and 1 without samples.

    Reference: Robbins 1970, Annals of Mathematical Statistics 41; for a beta mixture Howard et al. 2021,
      arXiv:1810.08240.
    """
    wins, samples = np.broadcast_arrays(_counts("wins", wins), _counts("samples", samples))
    checks.number("binomial.between", "alpha", alpha, above=0, below=1)
    if (wins > samples).any():
        raise ValueError(
            f"binomial.between: {wins.max()} wins of {samples.min()} samples, must be at most as many"
        )
    low, high = _from_below(wins, samples, alpha), _from_below(np.subtract(samples, wins), samples, alpha)
    return low, np.asarray(1.0 - high)


def _from_below(wins: Counts, samples: Counts, alpha: float) -> Chances:
    """Find by halving where the odds reach 1 / alpha below the share of wins; the end that is still excluded."""
    wins, samples = np.asarray(wins), np.asarray(samples)
    losses = samples - wins
    mixture = betaln(wins + 0.5, losses + 0.5) - betaln(0.5, 0.5)
    low, high = np.zeros(wins.shape), wins / np.maximum(samples, 1)
    for _ in range(60):
        middle = 0.5 * (low + high)
        odds = mixture - xlogy(wins, middle) - xlog1py(losses, -middle)
        excluded = odds >= -np.log(alpha)
        low, high = np.where(excluded, middle, low), np.where(excluded, high, middle)
    return low


def radius(chance: Chances, sigma: float) -> Chances:
    """Turn the probability of the top class into an l2 radius: sigma Phi^-1(p), 0 below one half."""
    return np.where(chance >= 0.5, sigma * ndtri(np.maximum(chance, 0.5)), 0.0)


def chance(radius: float, sigma: float) -> float:
    """Say what probability of the top class a radius needs: Phi(radius / sigma)."""
    return float(ndtr(radius / sigma))


def tie(first: Counts, second: Counts) -> Chances:
    """Give the p-value that two classes are equally likely, from their counts: the exact two-sided test."""
    first, second = _counts("votes", first), _counts("votes", second)
    total = first + second
    return np.where(
        first == second, 1.0, np.minimum(1.0, 2.0 * at_most(np.minimum(first, second), total, 0.5))
    )


def _counts(name: str, value: Counts) -> np.ndarray:
    value = np.asarray(value)
    if value.dtype.kind not in "iu" or (value.size and value.min() < 0):
        shown = f"down to {value.min()}" if value.dtype.kind in "iu" else str(value.dtype)
        raise ValueError(f"binomial: {name} are {shown}, must be whole numbers from 0")
    return value.astype(np.int64)


def order_statistics(samples: int, alpha: float, *, quantile: float, shift: float) -> tuple[int, int]:
    """Name the order statistics that bound two quantiles: the `first` smallest and the `last` smallest of the samples.

    The quantiles are Phi(Phi^-1(quantile) -+ shift). The `first` smallest exceeds the lower one with probability at
    most alpha / 2: fewer than `first` samples, a binomial number, must lie below it. 0 and samples + 1 stand for no
    bound.
    """
    below, above = ndtr(ndtri(quantile) - shift), ndtr(ndtri(quantile) + shift)
    counts = np.arange(samples + 1)
    first = int((at_most(counts, samples, below) <= alpha / 2).sum())
    more = at_most(samples - 1 - counts[:-1], samples, 1 - above)  # than each count below all samples
    last = int((more > alpha / 2).sum()) + 1
    return first, last


def at_most(count: Counts, samples: Counts, chance: float) -> Chances:
    """Give the probability that a binomial number is at most `count`, at least 0."""
    count, samples = np.broadcast_arrays(count, samples)
    inside = np.minimum(count, np.maximum(samples - 1, 0))
    tail = betainc(np.maximum(samples - inside, 1), inside + 1.0, 1.0 - chance)
    return np.where(count >= samples, 1.0, tail)
