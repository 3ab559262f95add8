"""What an attack on the score does to a detector, from the scores of clean and of attacked examples."""

import numpy as np
from numpy.typing import ArrayLike

from robustjax.ood.metrics import auroc, fnr, fpr, fpr_id95, pair, threshold_keeping


def under_attack(
    id_scores: ArrayLike, ood_scores: ArrayLike, lowered: ArrayLike, raised: ArrayLike, *, share: float = 0.95
) -> dict[str, float]:
    """Compare a detector with itself when ID images, OOD images or both are attacked.

    A deployed detector has a threshold, found on clean ID images: at that one, `fnr_clean_threshold` of the attacked
    ID images are rejected and `fpr_clean_threshold` of the attacked OOD images accepted. `fpr_recalibrated` takes the
    threshold from attacked ID images instead, as the tables of ALOE do; those of ATOM attack OOD images only. AUROC and
    FPR of empirical attacks are bounds: true robustness is no better.

    Args:
      id_scores, ood_scores: clean scores of ID (n,) and of OOD images (m,).
      lowered: lowest scores found around ID images (n,).
      raised: highest scores found around OOD images (m,).
      share: of ID images that the threshold must keep.
    Returns:
      auroc_clean, auroc_in, auroc_out, auroc_both (which side is attacked), fpr_clean, fpr_recalibrated,
      fnr_clean_threshold, fpr_clean_threshold and threshold.
    Raises:
      ValueError: if clean and attacked scores differ in number.
    """
    a, b = pair("under_attack", id_scores, ood_scores)
    low, high = pair("under_attack", lowered, raised)
    if a.shape != low.shape or b.shape != high.shape:
        raise ValueError(
            f"under_attack: {low.size} and {high.size} attacked scores, must be {a.size} and {b.size} as clean"
        )
    threshold = threshold_keeping(a, share)
    return {
        "auroc_clean": auroc(a, b),
        "auroc_in": auroc(low, b),
        "auroc_out": auroc(a, high),
        "auroc_both": auroc(low, high),
        "fpr_clean": fpr(b, threshold),
        "fpr_recalibrated": fpr_id95(low, high, share=share),
        "fnr_clean_threshold": fnr(low, threshold),
        "fpr_clean_threshold": fpr(high, threshold),
        "threshold": threshold,
    }


def over_sets(tables: dict[str, dict[str, float]]) -> dict[str, float]:
    """Average every metric over the OOD sets, each with the same weight, as published tables do.

    Args:
      tables: metrics by name, per set.
    Raises:
      ValueError: if there is none, or they hold different metrics.
    """
    names = [list(table) for table in tables.values()]
    if not names or any(each != names[0] for each in names):
        raise ValueError(
            f"over_sets: the tables of {list(tables)} must hold the same metrics, and be at least one"
        )
    return {name: float(np.mean([table[name] for table in tables.values()])) for name in names[0]}
