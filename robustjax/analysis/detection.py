"""How well confidence tells data from outliers, clean and at worst, with intervals over seeds and images."""

from collections.abc import Callable, Mapping

import numpy as np

from robustjax.analysis.intervals import Estimate, bootstrap
from robustjax.ood.metrics import auroc, fpr_id95

Metric = Callable[[np.ndarray, np.ndarray], float]  # (scores of data, scores of outliers) -> a number


def averaged(
    metric: Metric, inside: np.ndarray, outside: Mapping[str, np.ndarray], *, resamples: int = 500
) -> Estimate:
    """Average a metric over sets of outliers, each with the same weight, and over networks.

    Seeds are resampled, then images within each seed and set.

    Args:
      metric: such as `auroc`.
      inside: scores of data (s, n), of s networks.
      outside: scores of outliers (s, m) of each set; m may differ between sets.
      resamples: of the bootstrap.
    Raises:
      ValueError: if there is no set, or the seeds of the arrays differ in number.
    """
    sets = [np.asarray(a, np.float64) for a in (inside, *outside.values())]
    if len(sets) < 2 or any(a.ndim != 2 or len(a) != len(sets[0]) for a in sets):
        raise ValueError(
            f"averaged: scores have shapes {[a.shape for a in sets]}, must be one (seeds, images) for data and at "
            "least one for outliers, of equal seeds"
        )
    # One array to resample, each value with the number of its set.
    values = np.concatenate(sets, axis=1)
    member = np.broadcast_to(
        np.concatenate([np.full(a.shape[1], i) for i, a in enumerate(sets)]), values.shape
    )

    def statistic(scores: np.ndarray, of: np.ndarray) -> float:
        found = [
            metric(s[o == 0], s[o == i])
            for s, o in zip(scores, of, strict=True)
            for i in range(1, len(sets))
            if (o == 0).any() and (o == i).any()
        ]
        return float(np.mean(found))

    return bootstrap(statistic, values, member, nested=True, resamples=resamples)


def worst_case(
    inside: np.ndarray,
    clean: Mapping[str, np.ndarray],
    worst: Mapping[str, np.ndarray],
    *,
    resamples: int = 500,
) -> dict[str, Estimate]:
    """Compute AUC, FPR95 and mean score, of clean outliers and of the surest points found around them.

    Data stay clean. Whatever the searches found is a lower bound of what there is, so the worst-case AUC is an upper
    bound of the true one.

    Args:
      inside: scores of data (s, n), larger on data.
      clean: scores of outliers (s, m), by set.
      worst: largest scores found around the same, by set; never below `clean`, by competition.
      resamples: of the bootstrap.
    Returns:
      auc, fpr95, mmc and wc_auc, wc_fpr95, wc_mmc. Scores should be probabilities for mmc to be the mean maximum
      confidence; the others need only their order.
    """
    raised = {name: np.maximum(worst[name], clean[name]) for name in clean}
    metrics: dict[str, Metric] = {
        "auc": auroc,
        "fpr95": fpr_id95,
        "mmc": lambda data, outliers: float(outliers.mean()),
    }
    return {
        prefix + name: averaged(metric, inside, sets, resamples=resamples)
        for prefix, sets in (("", clean), ("wc_", raised))
        for name, metric in metrics.items()
    }
