"""How well scores separate ID from OOD images: exact in the presence of ties, in float64 on the host.

Everywhere a score is larger on ID images (`id_scores`) than on OOD images (`ood_scores`), and an image is accepted
where its score reaches a threshold. A score that is NaN counts against the detector: ID is rejected, OOD accepted.
Intervals are made in `analysis.intervals`, of the pooled scores and a mask:
`bootstrap(lambda s, data: auroc(s[data], s[~data]), scores, is_data)`.
"""

import math
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike

from robustjax import checks


def auroc(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Compute P(a > b) + P(a = b) / 2 for random scores a of ID and b of OOD images.

    Args:
      id_scores: scores of ID images (n,).
      ood_scores: scores of OOD images (m,).
    Raises:
      ValueError: if one of them is empty or not a vector; so do all functions here.
    """
    less, ties, pairs = _compare(*pair("auroc", id_scores, ood_scores))
    return (2 * less + ties) / (2 * pairs)


def auroc_pessimistic(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Compute P(a > b): every tie counts against the detector."""
    less, _, pairs = _compare(*pair("auroc_pessimistic", id_scores, ood_scores))
    return less / pairs


def tie_mass(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Compute P(a = b), the share of the AUROC that rests on ties, as saturated probabilities produce them."""
    _, ties, pairs = _compare(*pair("tie_mass", id_scores, ood_scores))
    return ties / pairs


def aupr_in(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Compute the average precision with ID as positives: sum_k (R_k - R_{k-1}) P_k over distinct thresholds."""
    return _average_precision(*pair("aupr_in", id_scores, ood_scores))


def aupr_out(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Compute the average precision with OOD as positives."""
    a, b = pair("aupr_out", id_scores, ood_scores)
    return _average_precision(-b, -a)


def threshold_keeping(id_scores: ArrayLike, share: float = 0.95) -> float:
    """Find the largest threshold that accepts at least this share of ID images.

    Raises:
      ValueError: if share is not in (0, 1].
    """
    a = vector("threshold_keeping", id_scores, -math.inf)
    return float(np.sort(a)[a.size - _needed("threshold_keeping", share, a.size)])


def fpr_id95(id_scores: ArrayLike, ood_scores: ArrayLike, *, share: float = 0.95) -> float:
    """Compute the share of OOD images accepted when 95 % of ID images are: ID is positive.

    This is the FPR of ODIN, ALOE, ATOM and RATIO; `fpr_ood95` is another number under the same usual name. Their code
    reads it at thresholds of its own: ALOE's where the recall is nearest to 0.95 and ATOM's strictly above the score of
    rank round(n / 20), see `compat`; RATIO's at a quantile interpolated between two scores, which accepts as many OOD
    images unless some lie between these.

    Args:
      id_scores: scores of ID images (n,).
      ood_scores: scores of OOD images (m,).
      share: of ID images to accept, at least.
    """
    return fpr(ood_scores, threshold_keeping(id_scores, share))


def fpr_ood95(id_scores: ArrayLike, ood_scores: ArrayLike, *, share: float = 0.95) -> float:
    """Compute the share of ID images rejected when 95 % of OOD images are: OOD is positive.

    This is the FPR of Hendrycks' outlier exposure and of OpenOOD since version 1.5.

    Args:
      id_scores: scores of ID images (n,).
      ood_scores: scores of OOD images (m,).
      share: of OOD images to reject, at least.
    """
    a, b = pair("fpr_ood95", id_scores, ood_scores)
    threshold = np.sort(b)[_needed("fpr_ood95", share, b.size) - 1]
    return float((a <= threshold).mean())


def detection_error(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Compute the least mean of both error rates over all thresholds, min_t [P(a < t) + P(b >= t)] / 2."""
    a, b = (np.sort(v) for v in pair("detection_error", id_scores, ood_scores))
    thresholds = np.unique(np.concatenate([a, b]))
    missed = np.searchsorted(a, thresholds) / a.size
    accepted = 1.0 - np.searchsorted(b, thresholds) / b.size
    return min(0.5, float((missed + accepted).min()) / 2)  # 0.5: above all scores, nothing is accepted


def fnr(id_scores: ArrayLike, threshold: float) -> float:
    """Compute the share of ID images rejected at a given threshold."""
    return float((vector("fnr", id_scores, -math.inf) < threshold).mean())


def fpr(ood_scores: ArrayLike, threshold: float) -> float:
    """Compute the share of OOD images accepted at a given threshold."""
    return float((vector("fpr", ood_scores, math.inf) >= threshold).mean())


def end_to_end_accuracy(correct: ArrayLike, id_scores: ArrayLike, threshold: float) -> float:
    """Compute the share of ID images that are both classified correctly and accepted.

    Args:
      correct: (n,), 1 or True where the class is right.
      id_scores: scores of the same examples (n,).
      threshold: least score that is accepted.
    Raises:
      ValueError: if correct has another length, or holds anything but 0 and 1.
    """
    a, right = vector("end_to_end_accuracy", id_scores, -math.inf), np.asarray(correct)
    if right.shape != a.shape:
        raise ValueError(f"end_to_end_accuracy: correct has shape {right.shape}, must be {a.shape}")
    right = checks.hits("end_to_end_accuracy", "correct", right) > 0
    return float((right & (a >= threshold)).mean())


def summary(id_scores: ArrayLike, ood_scores: ArrayLike) -> dict[str, float]:
    """Compute all of the above that need no setting, by name."""
    of = (
        auroc, auroc_pessimistic, tie_mass, aupr_in, aupr_out, fpr_id95, fpr_ood95, detection_error,
    )  # fmt: skip
    return {metric.__name__: metric(id_scores, ood_scores) for metric in of}


def pair(name: str, id_scores: ArrayLike, ood_scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Read both vectors of scores in float64, NaN as the worst score for the detector."""
    return vector(name, id_scores, -math.inf), vector(name, ood_scores, math.inf)


def vector(name: str, scores: ArrayLike, for_nan: float) -> np.ndarray:
    """Read a vector of scores in float64.

    Raises:
      ValueError: if it is empty, not a vector or not of numbers.
    """
    values = np.asarray(scores)
    if values.dtype.kind not in "biuf" and values.dtype.name != "bfloat16":
        raise ValueError(f"{name}: scores are {values.dtype}, must be numbers")
    values = values.astype(np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"{name}: scores have shape {values.shape}, must be a vector of at least one")
    return np.where(np.isnan(values), for_nan, values)


def _compare(a: np.ndarray, b: np.ndarray) -> tuple[int, int, int]:
    """Count the pairs with a > b, those with a = b, and all: whole numbers, so nothing is rounded."""
    b = np.sort(b)
    below, up_to = np.searchsorted(b, a, "left"), np.searchsorted(b, a, "right")
    return int(below.sum()), int((up_to - below).sum()), a.size * b.size


def _average_precision(positive: np.ndarray, negative: np.ndarray) -> float:
    positive, negative = np.sort(positive), np.sort(negative)
    thresholds = np.unique(positive)[::-1]  # elsewhere recall does not rise
    hits = positive.size - np.searchsorted(positive, thresholds)
    alarms = negative.size - np.searchsorted(negative, thresholds)
    gained = np.diff(hits, prepend=0) / positive.size
    return float((gained * hits / (hits + alarms)).sum())


def _needed(name: str, share: float, count: int) -> int:
    """Round share * count up, reading the share as the decimal that was written: 0.95 of 20 is 19."""
    checks.number(name, "share", share, above=0, most=1)
    return math.ceil(Fraction(str(float(share))) * count)
