"""Clean and worst-case detection with intervals over seeds and images."""

import numpy as np
import pytest
from scipy import stats

from robustjax.analysis.detection import clean_and_worst_case, mean_over_sets
from robustjax.ood.metrics import auroc

RNG = np.random.default_rng(0)
INSIDE = RNG.normal(1.0, 1, size=(2, 150))
OUTSIDE = {"far": RNG.normal(-1.0, 1, size=(2, 60)), "near": RNG.normal(0.5, 1, size=(2, 90))}


def test_sets_and_seeds_have_equal_weight_and_the_interval_holds_the_truth():
    found = mean_over_sets(auroc, INSIDE, OUTSIDE, resamples=200)
    pairs = [auroc(INSIDE[s], o[s]) for o in OUTSIDE.values() for s in range(2)]
    assert found.value == pytest.approx(np.mean(pairs))
    truth = np.mean([stats.norm.cdf(d / np.sqrt(2)) for d in (2.0, 0.5)])
    assert found.low < truth < found.high and found.high - found.low < 0.2


def test_the_worst_case_is_never_better_than_the_clean_one():
    worst = {"far": OUTSIDE["far"] + 0.5, "near": OUTSIDE["near"] - 5.0}  # a failed search: clean competes
    found = clean_and_worst_case(INSIDE, OUTSIDE, worst, resamples=20)
    assert found["worst_case_auroc"].value < found["auroc"].value
    assert found["worst_case_fpr95"].value >= found["fpr95"].value
    expected = (OUTSIDE["far"].mean() + 0.5 + OUTSIDE["near"].mean()) / 2
    assert found["worst_case_mean_score"].value == pytest.approx(expected)
    assert found["mean_score"].value == pytest.approx((OUTSIDE["far"].mean() + OUTSIDE["near"].mean()) / 2)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="one for ID images"):
        mean_over_sets(auroc, INSIDE, {})
    with pytest.raises(ValueError, match="equal seeds"):
        mean_over_sets(auroc, INSIDE, {"a": np.zeros((3, 5))})
