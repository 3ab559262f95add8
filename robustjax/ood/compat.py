"""The metrics as published code computes them, bug-compatible, to compare with published tables.

For everything else use `metrics`: these differ from their definitions, mostly where scores are tied.
"""

import numpy as np
from numpy.typing import ArrayLike

from robustjax.ood.metrics import auroc, pair


def aloe(id_scores: ArrayLike, ood_scores: ArrayLike) -> dict[str, float]:
    """Compute what the code of ALOE reports, which goes back to ODIN's.

    Thresholds pass the scores one by one and ID first among equals, so that ties count against the detector:
    constant scores have AUROC 0. The FPR is read where the recall is nearest to 0.95, which may be below it. The
    precision curves are interpolated linearly and end in (recall 1, precision 0.5) and (recall 0, precision 0),
    so that perfect scores do not reach 1.

    Args:
      id_scores: scores of ID images (n,).
      ood_scores: scores of OOD images (m,).
    Returns:
      auroc, fpr, detection_error, aupr_in and aupr_out.

    Reference: Chen et al. 2020, arXiv:2003.09711; Liang et al. 2018, arXiv:1706.02690.
    """
    a, b = pair("aloe", id_scores, ood_scores)
    kept, passed = _sweep(a, b)
    recall, alarm = kept / a.size, passed / b.size
    return {
        "auroc": _area(1 - recall, 1 - alarm),
        "fpr": float(alarm[np.abs(recall - 0.95).argmin()]),
        "detection_error": float(((1 - recall + alarm) / 2).min()),
        **_interpolated_precision(kept, passed),
    }


def atom(id_scores: ArrayLike, ood_scores: ArrayLike) -> dict[str, float]:
    """Compute what the code of ATOM reports.

    The threshold is the score of rank round(n / 20), and only OOD images strictly above it count as accepted:
    constant scores have FPR 0. The detection error weighs both sides by their numbers of examples. The precision curves
    pass equal scores at once, and otherwise are those of `aloe`, interpolated and with the same ends.

    Args:
      id_scores: scores of ID images (n,).
      ood_scores: scores of OOD images (m,).
    Returns:
      auroc, fpr, detection_error, aupr_in and aupr_out.

    Reference: Chen et al. 2021, arXiv:2006.15207.
    """
    a, b = pair("atom", id_scores, ood_scores)
    hits, alarms = _counts(a, b)
    kept, passed = (np.concatenate([counts[::-1], [0]]) for counts in (hits, alarms))
    threshold = np.sort(a)[round(0.05 * a.size)]
    return {
        "auroc": auroc(a, b),
        "fpr": float((b > threshold).mean()),
        "detection_error": float((a.size - kept + passed).min() / (a.size + b.size)),
        **_interpolated_precision(kept, passed),
    }


def openood(id_scores: ArrayLike, ood_scores: ArrayLike) -> dict[str, float]:
    """Compute what OpenOOD 1.5 reports: OOD is positive, precision is interpolated linearly.

    The curve leaves out points on straight lines before the FPR is read from it, which matters with ties, and
    interpolated precision is too high for tied scores: constant ones have 0.75 on balanced sets.

    Args:
      id_scores: scores of ID images (n,).
      ood_scores: scores of OOD images (m,).
    Returns:
      auroc, fpr, aupr_in and aupr_out.

    Reference: Zhang et al. 2023, arXiv:2306.09301.
    """
    a, b = pair("openood", id_scores, ood_scores)
    hits, alarms = _counts(-b, -a)
    bends = (np.diff(hits, 2) != 0) | (np.diff(alarms, 2) != 0)
    shown = np.concatenate([[True], bends, [True]])[-hits.size :]
    tpr = np.concatenate([[0.0], hits[shown] / b.size])
    fpr = np.concatenate([[0.0], alarms[shown] / a.size])
    return {
        "auroc": auroc(a, b),
        "fpr": float(fpr[np.argmax(tpr >= 0.95)]),
        "aupr_in": _precision_area(a, b),
        "aupr_out": _precision_area(-b, -a),
    }


def _sweep(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count what is left of ID and OOD while one score after the other is cut, ID first on ties."""
    is_data = np.concatenate([np.ones(a.size, int), np.zeros(b.size, int)])
    is_data = is_data[np.argsort(np.concatenate([a, b]), kind="stable")]
    cut = np.concatenate([[0], np.cumsum(is_data)]), np.concatenate([[0], np.cumsum(1 - is_data)])
    return a.size - cut[0], b.size - cut[1]


def _counts(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count positives and negatives at or above each distinct score, from the highest down."""
    thresholds = np.unique(np.concatenate([positive, negative]))[::-1]
    hits, alarms = (v.size - np.searchsorted(np.sort(v), thresholds) for v in (positive, negative))
    return hits, alarms


def _interpolated_precision(kept: np.ndarray, passed: np.ndarray) -> dict[str, float]:
    """Compute the areas under both precision curves from the numbers of ID and OOD images left at each threshold."""
    n, m = int(kept[0]), int(passed[0])
    recall, alarm = kept / n, passed / m
    some, gone = kept + passed > 0, kept + passed < n + m
    left, cut = (kept + passed)[some], (n + m - kept - passed)[gone]
    return {
        "aupr_in": _area(_ends(0.0, 1 - recall[some], 1.0), _ends(0.5, kept[some] / left, 0.0)),
        "aupr_out": _area(_ends(0.0, 1 - alarm[gone], 1.0), _ends(0.0, (m - passed[gone]) / cut, 0.5)),
    }


def _precision_area(positive: np.ndarray, negative: np.ndarray) -> float:
    hits, alarms = _counts(positive, negative)
    precision = np.concatenate([[1.0], hits / (hits + alarms)])
    return _area(np.concatenate([[0.0], hits / positive.size]), precision)


def _ends(first: float, middle: np.ndarray, last: float) -> np.ndarray:
    return np.concatenate([[first], middle, [last]])


def _area(x: np.ndarray, y: np.ndarray) -> float:
    return float((np.diff(x) * (y[1:] + y[:-1])).sum() / 2)
