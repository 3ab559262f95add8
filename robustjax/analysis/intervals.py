"""Confidence intervals for the numbers in tables."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from robustjax import binomial, checks


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
      ValueError: if hits is empty or holds anything but 0 and 1, or level is not inside (0, 1).

    Reference: Clopper and Pearson 1934, Biometrika 26.
    """
    hits = np.asarray(hits)
    if hits.size == 0:
        raise ValueError("proportion: hits is empty, needs at least one example")
    if not 0 < level < 1:
        raise ValueError(f"proportion: level is {level}, must be inside (0, 1)")
    count = int(checks.hits("proportion", "hits", hits).sum())
    tail = (1 - level) / 2
    low, high = (float(bound(count, hits.size, tail)) for bound in (binomial.lower, binomial.upper))
    return Estimate(count / hits.size, low, high)


def bootstrap(
    statistic: Callable[..., Any],
    *arrays: Any,
    nested: bool = False,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Estimate any statistic of examples with a percentile bootstrap interval.

    Examples are drawn with replacement, the same rows of all arrays, so that what is paired stays paired. With
    few runs the interval of `nested` is rough: three runs can be drawn in ten ways only.

    Args:
      statistic: (*arrays) -> a number; of the resampled arrays it may give NaN, which is left out.
      arrays: each (n, ...), or (s, n, ...) of s runs with `nested`.
      nested: draw runs with replacement, then examples within each; the statistic gets (s, n, ...).
      resamples: how many.
      level: share of them between the ends.
      seed: of the draws.

    Raises:
      ValueError: if arrays are absent, empty or of different lengths, or a setting is out of range.

    Reference: Efron 1979, Annals of Statistics 7.
    """
    leading = 2 if nested else 1
    data = [np.asarray(a) for a in arrays]
    shape: Sequence[int] = data[0].shape[:leading] if data else []
    if len(shape) != leading or 0 in shape or any(a.shape[:leading] != shape for a in data):
        raise ValueError(
            f"bootstrap: arrays are {[list(a.shape) for a in data]}, must lead with the same {leading} axes"
        )
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(
            f"bootstrap: level is {level} and resamples {resamples}, must be inside (0, 1) and at least 1"
        )
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(resamples):
        rows: tuple[np.ndarray, ...] = (rng.integers(0, shape[-1], tuple(shape)),)
        if nested:
            rows = (np.broadcast_to(rng.integers(0, shape[0], (shape[0], 1)), tuple(shape)), *rows)
        values.append(float(statistic(*(a[rows] for a in data))))
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(statistic(*data)), float(low), float(high))
