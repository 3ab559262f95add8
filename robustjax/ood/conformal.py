"""Thresholds with finite-sample guarantees, whatever the score and the distribution are.

All that is asked is that calibration and test scores are exchangeable: held-out ID images that neither the network
nor the score was fitted to. Calibrated on scores under an attack, the guarantee holds for ID images under that attack.
"""

import math
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike

from robustjax.ood.metrics import vector


def threshold(calibration: ArrayLike, *, miss: float = 0.05) -> float:
    """Find a threshold below which a new ID score falls with probability `miss` at most.

    The floor(miss (n + 1))-th smallest of n scores; -inf, which accepts everything, where n is too small. The
    probability is over the calibration set and the new example together; see `confident_threshold`.

    Args:
      calibration: scores of held-out ID images (n,).
      miss: share of ID images that may be rejected, in (0, 1).
    Raises:
      ValueError: if calibration is empty or miss is out of range.

    Reference: Vovk, Gammerman and Shafer 2005; Lei et al. 2018, arXiv:1604.04173.
    """
    scores = np.sort(vector("threshold", calibration, -math.inf))
    rank = math.floor(_share("threshold", "miss", miss) * (scores.size + 1))
    return _at(scores, rank)


def confident_threshold(calibration: ArrayLike, *, miss: float = 0.05, risk: float = 0.05) -> float:
    """Find a threshold that rejects more than `miss` of all ID images with probability `risk` at most.

    The probability is over the calibration set: with 1 - risk one has drawn a set whose threshold is good for
    ever. The k-th smallest score, with the largest k for which P(Binomial(n, miss) < k) <= risk.

    Args:
      calibration: scores of independent held-out ID images (n,).
      miss: share of ID images that may be rejected, in (0, 1).
      risk: probability of an unlucky calibration set, in (0, 1).
    Raises:
      ValueError: if calibration is empty or a setting is out of range.

    Reference: Wilks 1941, Annals of Mathematical Statistics 12; Vovk 2012, arXiv:1209.2673.
    """
    scores = np.sort(vector("confident_threshold", calibration, -math.inf))
    _share("confident_threshold", "miss", miss)
    _share("confident_threshold", "risk", risk)
    n = scores.size
    counts = np.arange(n + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    log_p = log_factorial[n] - log_factorial[counts] - log_factorial[n - counts]
    log_p = log_p + counts * math.log(miss) + (n - counts) * math.log1p(-miss)
    fewer = np.cumsum(np.exp(log_p))  # P(Binomial <= k)
    return _at(scores, int((fewer[:n] <= risk).sum()))


def p_values(calibration: ArrayLike, scores: ArrayLike) -> np.ndarray:
    """Compute how unusual each score would be for an ID image: (1 + #{calibration <= s}) / (n + 1).

    For ID images P(p <= u) <= u. Reference: Bates et al. 2021, arXiv:2104.08279.

    Args:
      calibration: scores of held-out ID images (n,).
      scores: of new images (m,); NaN is taken for the largest score, which is never unusual.
    """
    known = np.sort(vector("p_values", calibration, -math.inf))
    new = vector("p_values", scores, math.inf)
    return (1 + np.searchsorted(known, new, "right")) / (known.size + 1)


def _share(name: str, setting: str, value: float) -> Fraction:
    if not 0 < value < 1:
        raise ValueError(f"{name}: {setting} is {value}, must be inside (0, 1)")
    return Fraction(str(float(value)))


def _at(scores: np.ndarray, rank: int) -> float:
    return float(scores[rank - 1]) if rank > 0 else -math.inf
