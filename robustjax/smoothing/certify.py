"""Certified prediction with the smoothed classifier, and prediction alone."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from robustjax import binomial, checks
from robustjax.numerics import fold, keys_for
from robustjax.smoothing.radii import Reach, gaussian
from robustjax.smoothing.votes import Count, require, require_norm
from robustjax.types import Keys

ABSTAIN = -1  # the label of no decision
MOST = 2**30  # samples, which int32 counts


class Certificate(NamedTuple):
    """What holds with probability 1 - alpha, per example; numpy arrays (b,).

    Attributes:
      label: class of the smoothed classifier, -1 if it abstains.
      radius: float64; within this distance, l2 for Gaussian noise, the class does not change. In the units of the
        noise; 0 if it abstains.
      lower_bound: float64; of the probability that the class wins a sample of the noise.
    """

    label: np.ndarray
    radius: np.ndarray
    lower_bound: np.ndarray


def certificate(
    chosen: np.ndarray,
    wins: np.ndarray,
    samples: np.ndarray | int,
    *,
    sigma: float | None = None,
    alpha: float,
    reach: Reach | None = None,
) -> Certificate:
    """Turn counts into certificates, all other classes together being bounded by 1 - p.

    Args:
      chosen: classes, (b,), from other samples than these.
      wins: how many of the samples each of them won.
      samples: of the noise.
      sigma: standard deviation of Gaussian noise.
      alpha: probability of being wrong.
      reach: of other noise, such as `radii.uniform(half_width)`, in the place of sigma.
    Raises:
      ValueError: if a setting is out of range, sigma and reach are both given or neither, or there are more wins than
        samples.
    """
    far = reach_of("certificate", sigma, reach)
    check("certificate", alpha)
    bound = binomial.lower(wins, samples, alpha)
    label = np.where(bound >= 0.5, np.asarray(chosen), ABSTAIN).astype(np.int32)
    return Certificate(label, far.radius(bound), bound)


def certify(
    count: Count,
    *,
    sigma: float | None = None,
    selection_samples: int = 100,
    samples: int = 100_000,
    alpha: float = 0.001,
    reach: Reach | None = None,
) -> Callable[[Keys, Array], Certificate]:
    """Choose a class by some samples of the noise, bound its probability by others.

    Args:
      count: such as `votes(logits_fn, in_pixels(sigma), classes=10)`; compiled here once.
      sigma: standard deviation of the noise that `count` draws.
      selection_samples: for the choice (n0 in the paper).
      samples: for the bound (n in the paper); below log2(1 / alpha) everything abstains.
      alpha: probability with which a certificate may be wrong.
      reach: for other noise than Gaussian, such as `radii.uniform(half_width)`, in the place of sigma.
    Returns:
      (key, x) -> Certificate; one key, or one per example.
    Raises:
      ValueError: if sigma is not positive, sigma and reach are both given or neither, a number of samples less than 1,
        or alpha outside (0, 1).

    Reference: Cohen, Rosenfeld and Kolter 2019, arXiv:1902.02918, CERTIFY.
    """
    require_norm("certify", count, reach_of("certify", sigma, reach).norm)
    check("certify", alpha, selection_samples, samples)
    compiled = jax.jit(count)

    def run(key: Keys, x: Array) -> Certificate:
        require("certify", count, x)
        keys = keys_for(key, x.shape[0])
        chosen = np.asarray(compiled(fold(keys, 0), x, selection_samples)).argmax(axis=1)
        wins = np.asarray(compiled(fold(keys, 1), x, samples))[np.arange(len(chosen)), chosen]
        return certificate(chosen, wins, samples, sigma=sigma, alpha=alpha, reach=reach)

    return run


def prediction(counts: np.ndarray, alpha: float = 0.001) -> np.ndarray:
    """Name the class of most votes, (b, k) -> (b,), or -1 where it could be a tie with the next at level alpha.

    Raises:
      ValueError: if there are fewer than two classes, counts that are no whole numbers from 0, or alpha is outside
        (0, 1).
    """
    counts = np.asarray(counts)
    checks.share("prediction", "alpha", alpha)
    if counts.ndim != 2 or counts.shape[1] < 2:
        raise ValueError(
            f"prediction: counts have shape {counts.shape}, must be (b, k) of at least two classes"
        )
    best = counts.argmax(axis=1)
    ranked = np.sort(counts, axis=1)
    return np.where(binomial.tie(ranked[:, -1], ranked[:, -2]) <= alpha, best, ABSTAIN).astype(np.int32)


def predict(
    count: Count, *, samples: int = 1000, alpha: float = 0.001
) -> Callable[[Keys, Array], np.ndarray]:
    """Predict with the smoothed classifier: the class differs from its own with probability at most alpha.

    Args:
      count: as in `certify`.
      samples: of the noise.
      alpha: probability of a wrong class; -1 otherwise.
    Returns:
      (key, x) -> (b,) int32.
    Raises:
      ValueError: if samples is less than 1 or alpha outside (0, 1).

    Reference: Cohen, Rosenfeld and Kolter 2019, arXiv:1902.02918, PREDICT.
    """
    check("predict", alpha, samples)
    compiled = jax.jit(count)

    def run(key: Keys, x: Array) -> np.ndarray:
        require("predict", count, x)
        return prediction(np.asarray(compiled(key, x, samples)), alpha)

    return run


def check(name: str, alpha: float, *numbers: int) -> None:
    """Validate the settings of a certificate."""
    checks.share(name, "alpha", alpha)
    for number in numbers:
        checks.count(name, "a number of samples", number, most=MOST)


def reach_of(name: str, sigma: float | None, reach: Reach | None) -> Reach:
    """Give what a bound promises: under Gaussian noise, or under that of `reach`.

    Raises:
      ValueError: if both or neither are given, or sigma is not positive.
    """
    if (sigma is None) == (reach is None):
        given = "neither is" if sigma is None else "both are"
        raise ValueError(f"{name}: of sigma and reach {given} given, must be one: sigma for Gaussian noise")
    if reach is not None:
        return reach
    checks.positive(name, "sigma", sigma)
    assert sigma is not None
    return gaussian(sigma)
