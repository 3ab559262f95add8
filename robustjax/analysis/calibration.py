"""Calibration: the expected calibration error (ECE), reliability diagrams, and the temperature of least ECE."""

from typing import NamedTuple

import numpy as np
import scipy.special
from numpy.typing import ArrayLike

from robustjax import checks

FARTHEST = 10.0  # of log T: confidences are 1 or 1 / k to rounding for logits of usual size


class Bins(NamedTuple):
    """A reliability diagram.

    Attributes:
      edge: (bins + 1,) from 0 to 1; a bin holds confidences above its lower and up to its upper edge.
      share: (bins,) of the examples.
      confidence: (bins,) mean of the examples there, NaN where there are none.
      accuracy: (bins,) likewise.
    """

    edge: np.ndarray
    share: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def reliability(confidence: ArrayLike, correct: ArrayLike, *, bins: int = 15) -> Bins:
    """Compare confidence and accuracy, bin by bin of equal width.

    Args:
      confidence: (n,) probabilities of the predicted classes.
      correct: (n,) 1 or True where the prediction is right.
      bins: how many.
    Raises:
      ValueError: if the arrays are empty or differ in length, a confidence is outside [0, 1], correct is
        anything but 0 or 1, or bins is below 1.
    """
    p, right = np.asarray(confidence, np.float64), np.asarray(correct)
    if p.ndim != 1 or p.shape != right.shape or not p.size:
        raise ValueError(
            f"reliability: confidence and correct have shapes {p.shape} and {right.shape}, must be equal vectors"
        )
    if not ((p >= 0) & (p <= 1 + 1e-6)).all():
        raise ValueError("reliability: confidence has values outside [0, 1], must be probabilities")
    right = checks.hits("reliability", "correct", right)
    checks.count("reliability", "bins", bins)
    edge = np.linspace(0.0, 1.0, bins + 1)
    # Rounded before comparing, so that a float32 confidence on an edge counts as on it.
    place = np.clip(np.searchsorted(np.round(edge, 9), np.round(p, 7), side="left") - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(place, weights=v, minlength=bins) / count for v in (p, right)]
    return Bins(edge, count / p.size, *means)


def ece(confidence: ArrayLike, correct: ArrayLike, *, bins: int = 15) -> float:
    """Compute the expected calibration error, sum over bins of share * |confidence - accuracy|.

    Reference: Guo et al. 2017, arXiv:1706.04599. RATIO's code takes 20 bins.
    """
    found = reliability(confidence, correct, bins=bins)
    gap = np.where(found.share > 0, np.abs(found.confidence - found.accuracy), 0.0)
    return float((found.share * gap).sum())


def confidence(logits: ArrayLike, *, temperature: float = 1.0) -> np.ndarray:
    """Compute max_k softmax(z / T)_k, in float64.

    Args:
      logits: (..., k).
      temperature: T > 0.
    Raises:
      ValueError: if temperature is not positive.
    """
    checks.number("confidence", "temperature", temperature, above=0)
    z = np.asarray(logits, np.float64) / temperature
    return np.exp(z.max(axis=-1) - scipy.special.logsumexp(z, axis=-1))


def temperature(
    logits: ArrayLike,
    label: ArrayLike,
    *,
    bins: int = 20,
    points: int = 2000,
    low: float = -3.0,
    high: float = 1.0,
) -> float:
    """Find T = exp(s) of least calibration error, over equally spaced s; softmax(z / T) is then calibrated.

    Where the best s is the first or the last one, more are tried on that side, as far apart, until it is not; at
    most to s = -10 and 10, beyond which confidences are 1 and 1 / k.

    Args:
      logits: (n, k) of held-out images, which nothing else should be measured on.
      label: (n,).
      bins: of the calibration error.
      points: how many s to try.
      low, high: the first and the last s at first. The defaults are those of the authors, who calibrate networks
        that are underconfident: T from 0.05 to 2.7.
    Raises:
      ValueError: if points is below 1, low above high, the arrays do not fit, a logit is NaN, or a label is not in
        0..k-1.

    Reference: Augustin, Meinke and Hein 2020, arXiv:2003.09461, by their code. Ties go to the T nearest to 1.
    """
    checks.count("temperature", "points", points)
    z, y = np.asarray(logits, np.float64), np.asarray(label)
    if z.ndim != 2 or y.shape != z.shape[:1]:
        raise ValueError(f"temperature: logits and label have shapes {z.shape} and {y.shape}, must fit")
    if np.isnan(z).any():
        raise ValueError(
            f"temperature: {int(np.isnan(z).any(axis=1).sum())} images have logits that are NaN, must be numbers"
        )
    y = checks.labels("temperature", y, count=len(z), classes=z.shape[1])
    if not low <= high:
        raise ValueError(f"temperature: low is {low} and high {high}, must be low <= high")
    right = z.argmax(axis=1) == y

    def tried(exponents: np.ndarray) -> np.ndarray:
        return np.array([ece(confidence(z, temperature=np.exp(s)), right, bins=bins) for s in exponents])

    exponents = np.linspace(low, high, points)
    errors = tried(exponents)
    gap = (high - low) / max(points - 1, 1)
    while gap > 0:
        best = _best(exponents, errors)
        more = gap * np.arange(1, max(points // 4, 1) + 1)
        if best == 0 and exponents[0] > -FARTHEST:
            more = exponents[0] - more[::-1]
            exponents, errors = np.append(more, exponents), np.append(tried(more), errors)
        elif best == len(exponents) - 1 and exponents[-1] < FARTHEST:
            more = exponents[-1] + more
            exponents, errors = np.append(exponents, more), np.append(errors, tried(more))
        else:
            break
    return float(np.exp(exponents[_best(exponents, errors)]))


def _best(exponents: np.ndarray, errors: np.ndarray) -> int:
    """Find the place of the least error; of the s nearest to 0 among ties."""
    best = np.flatnonzero(errors == errors.min())
    return int(best[np.abs(exponents[best]).argmin()])
