"""Confidence intervals for the numbers in tables."""

from typing import NamedTuple

import numpy as np
import scipy.stats


class Estimate(NamedTuple):
    """A value with the ends of its interval."""

    value: float
    low: float
    high: float


def proportion(hits: np.ndarray, *, level: float = 0.95) -> Estimate:
    """Estimate a proportion with the exact Clopper-Pearson interval.

    Args:
      hits: (n,), 1 or True where the event happened.
      level: coverage of the interval, at least.

    Raises:
      ValueError: if hits is empty or level is not inside (0, 1).

    Reference: Clopper and Pearson 1934, Biometrika 26.
    """
    hits = np.asarray(hits)
    if hits.size == 0:
        raise ValueError("proportion: hits is empty, needs at least one example")
    if not 0 < level < 1:
        raise ValueError(f"proportion: level is {level}, must be inside (0, 1)")
    count = int(hits.astype(bool).sum())
    ends = scipy.stats.binomtest(count, hits.size).proportion_ci(level, method="exact")
    return Estimate(count / hits.size, float(ends.low), float(ends.high))
