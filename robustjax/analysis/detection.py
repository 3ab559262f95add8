"""OOD detection over several networks and OOD sets, clean and at worst, with intervals over seeds and images."""

from collections.abc import Callable, Mapping

import numpy as np

from robustjax.analysis.intervals import Estimate, bootstrap
from robustjax.ood.metrics import auroc, fpr_id95

Metric = Callable[[np.ndarray, np.ndarray], float]  # (scores of ID images, scores of OOD images) -> a number


def mean_over_sets(
    metric: Metric, id_scores: np.ndarray, ood_scores: Mapping[str, np.ndarray], *, resamples: int = 500
) -> Estimate:
    """Average a metric over OOD sets, each with the same weight, and over networks.

    Seeds are resampled, then images within each seed and set.

    Args:
      metric: such as `auroc`.
      id_scores: scores of ID images (s, n), of s networks.
      ood_scores: scores of OOD images (s, m) by set; m may differ between sets.
      resamples: of the bootstrap.
    Raises:
      ValueError: if there is no set, or the seeds of the arrays differ in number.
    """
    sets = [np.asarray(a, np.float64) for a in (id_scores, *ood_scores.values())]
    if len(sets) < 2 or any(a.ndim != 2 or len(a) != len(sets[0]) for a in sets):
        raise ValueError(
            f"mean_over_sets: scores have shapes {[a.shape for a in sets]}, must be (seeds, images), one for ID images "
            "and at least one for OOD images, of equal seeds"
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


def of_one_network(
    metric: Metric, id_scores: np.ndarray, ood_scores: Mapping[str, np.ndarray], *, resamples: int = 300
) -> Estimate:
    """Average a metric of one network over OOD sets, with the 95 % interval of a bootstrap over images.

    ID images and those of each set are drawn apart, so that every set keeps its size.

    Args:
      metric: such as `auroc`.
      id_scores: scores of ID images (n,).
      ood_scores: scores of OOD images (m,) by set.
      resamples: of the bootstrap.
    Raises:
      ValueError: if there is no set or no resample.
    """
    if not ood_scores or resamples < 1:
        raise ValueError(
            f"of_one_network: {len(ood_scores)} sets and {resamples} resamples given, must be at least one of each"
        )
    ours, rng = np.asarray(id_scores, np.float64), np.random.default_rng(0)
    sets = [np.asarray(scores, np.float64) for scores in ood_scores.values()]

    def once() -> float:
        drawn = rng.choice(ours, ours.size)
        return float(np.mean([metric(drawn, rng.choice(scores, scores.size)) for scores in sets]))

    low, high = np.quantile([once() for _ in range(resamples)], [0.025, 0.975])
    return Estimate(float(np.mean([metric(ours, scores) for scores in sets])), float(low), float(high))


def clean_and_worst_case(
    id_scores: np.ndarray,
    clean: Mapping[str, np.ndarray],
    worst: Mapping[str, np.ndarray],
    *,
    resamples: int = 500,
) -> dict[str, Estimate]:
    """Compute AUROC, FPR95 and mean score, of clean OOD images and of the highest scores found around them.

    ID images stay clean. The scores found by attacks are lower bounds of the highest ones, so the worst-case AUROC is
    an upper bound of the true one.

    Args:
      id_scores: scores of ID images (s, n), larger on ID images.
      clean: scores of OOD images (s, m), by set.
      worst: highest scores found around the same images, by set; where one is below `clean`, that counts.
      resamples: of the bootstrap.
    Returns:
      auroc, fpr95 and mean_score of clean images, and worst_case_auroc, worst_case_fpr95, worst_case_mean_score.
    """
    raised = {name: np.maximum(worst[name], clean[name]) for name in clean}
    metrics: dict[str, Metric] = {
        "auroc": auroc,
        "fpr95": fpr_id95,
        "mean_score": lambda id_scores, ood_scores: float(ood_scores.mean()),
    }
    return {
        prefix + name: mean_over_sets(metric, id_scores, sets, resamples=resamples)
        for prefix, sets in (("", clean), ("worst_case_", raised))
        for name, metric in metrics.items()
    }
